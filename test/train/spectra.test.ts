import fc from "fast-check";
import { expect, test } from "vitest";
import { SpectrumHistory, THRESHOLD, type RefreshEvent } from "../../src/train/index.ts";

const refresh = (step: number, layers: RefreshEvent["layers"]): RefreshEvent => ({ type: "refresh", step, layers });
const report = (
  layer: string,
  spectra: Record<string, number[]>,
  figures: Record<string, number> = {},
): RefreshEvent["layers"][number] => ({
  layer,
  method: "rs-kfac",
  figures,
  spectra,
  problems: [],
});

test("a history has every factor of every layer, in order, with its refreshes", () => {
  const history = new SpectrumHistory();
  history.add(refresh(0, [report("0.weight", { input: [4, 1], output: [2] }, { "input.rank": 2, "input.truncation": 0.25 })]));
  history.add(refresh(30, [report("3.weight", { input: [1] }), report("0.weight", { input: [8, 0.1], output: [] })]));
  expect(history.factors.map(({ layer, factor, refreshes }) => [layer, factor, refreshes.map(({ step }) => step)])).toEqual([
    ["0.weight", "input", [0, 30]],
    ["0.weight", "output", [0]],
    ["3.weight", "input", [30]],
  ]);
  expect(history.factors[0]?.refreshes).toEqual([
    { step: 0, largest: 4, rank: 2, above: 2, truncation: 0.25, eigenvalues: [4, 1] },
    { step: 30, largest: 8, rank: 2, above: 1, truncation: null, eigenvalues: [8, 0.1] },
  ]);
  expect([...history.methods]).toEqual(["rs-kfac"]);
});

test("the eigenvalues above the threshold are as many whatever the factor's scale", () => {
  const spectrum = fc.array(fc.integer({ min: 1, max: 10_000 }), { minLength: 1, maxLength: 40 });
  fc.assert(
    fc.property(spectrum, fc.integer({ min: -20, max: 20 }), (values, exponent) => {
      const [plain, scaled] = [1, 2 ** exponent].map((scale) => {
        const history = new SpectrumHistory();
        history.add(refresh(0, [report("w", { output: values.map((value) => scale * value) })]));
        return history.factors[0]?.refreshes[0]?.above;
      });
      expect(scaled).toBe(plain);
      expect(plain).toBe(values.filter((value) => value > THRESHOLD * Math.max(...values)).length);
    }),
  );
});

test("what reports no spectra leaves its method's name", () => {
  const history = new SpectrumHistory();
  history.add(refresh(0, [{ ...report("w", {}), method: "kfac (cholesky)" }]));
  expect(history.factors).toEqual([]);
  expect([...history.methods]).toEqual(["kfac (cholesky)"]);
});
