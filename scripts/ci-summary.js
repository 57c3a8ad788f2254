/**
 * `node scripts/ci-summary.js TESTS CHECKS EXIT_OF_TESTS EXIT_OF_CHECKS` prints `N passed, N failed` and exits 1 unless all passed.
 * TESTS is vitest's JSON report, CHECKS the one of scripts/check.js; each test and each check counts as one. A test file that
 * did not load, a report that is missing, and a failure that no report explains count as one failure each.
 */
import { existsSync, readFileSync } from "node:fs";

const [testsFile, checksFile, testsExit, checksExit] = process.argv.slice(2);
const read = (file) => (existsSync(file) ? JSON.parse(readFileSync(file, "utf8")) : null);
const tests = read(testsFile);
const checks = read(checksFile);

const outcomes = [];
if (tests) {
  const cases = tests.testResults.flatMap((file) => file.assertionResults);
  outcomes.push(...cases.filter(({ status }) => status === "passed" || status === "failed").map(({ status }) => status === "passed"));
  const broken = tests.testResults.filter((file) => file.status === "failed" && !file.assertionResults.some((r) => r.status === "failed"));
  outcomes.push(...broken.map(() => false));
  console.log(`${cases.length} tests in ${tests.testResults.length} files, ${cases.length - outcomes.length + broken.length} skipped`);
}
if ((testsExit !== "0" || !tests) && outcomes.every(Boolean)) outcomes.push(false);
const checkOutcomes = (checks ?? []).map(({ passed }) => passed);
if ((checksExit !== "0" || !checks) && checkOutcomes.every(Boolean)) checkOutcomes.push(false);
outcomes.push(...checkOutcomes);

const failed = outcomes.filter((passed) => !passed).length;
console.log(`${outcomes.length - failed} passed, ${failed} failed`);
process.exitCode = failed > 0 ? 1 : 0;
