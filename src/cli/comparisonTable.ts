import Table from "cli-table3";
import type { Comparison, RunFigures, Statistic, TargetFigures } from "../train/index.ts";

const NONE = "–";

/** As many decimals as a number of this size has in three digits. */
const decimals = (size: number): number => (size >= 99.95 ? 0 : size >= 9.995 ? 1 : size >= 0.9995 ? 2 : 3);

/** Mean ± standard deviation; without `places`, as many as the mean has in three digits. */
function show(figure: Statistic | null, places?: number): string {
  if (!figure) return NONE;
  const format = (value: number): string => value.toFixed(places ?? decimals(figure.mean));
  return figure.std === null ? format(figure.mean) : `${format(figure.mean)} ± ${format(figure.std)}`;
}

const percent = (share: Statistic | null): string =>
  show(share && { ...share, mean: 100 * share.mean, std: share.std === null ? null : 100 * share.std }, 2);
const ratio = (value: number | null): string => value?.toFixed(2) ?? NONE;

/** The columns of the table: a heading of up to two lines, and what stands below it. */
function columnsOf(figures: readonly RunFigures[]): { head: string; cell: (run: RunFigures) => string }[] {
  const targets = figures[0]?.targets ?? [];
  return [
    { head: "run", cell: ({ name }) => name },
    { head: "seeds", cell: ({ finished, seeds }) => (finished === seeds ? String(seeds) : `${finished} of ${seeds}`) },
    { head: "final test\naccuracy %", cell: ({ finalAccuracy }) => percent(finalAccuracy) },
    { head: "best test\naccuracy %", cell: ({ bestAccuracy }) => percent(bestAccuracy) },
    { head: "seconds\nper epoch", cell: ({ secondsPerEpoch }) => show(secondsPerEpoch) },
    { head: "ratio", cell: (run) => ratio(run.ratio) },
    ...targets.flatMap(({ target }, i) => {
      const at = (run: RunFigures): TargetFigures => run.targets[i] as TargetFigures;
      return [
        { head: `epochs\nto ${target} %`, cell: (run: RunFigures) => epochsTo(at(run), run) },
        { head: `seconds\nto ${target} %`, cell: (run: RunFigures) => show(at(run).seconds) },
        { head: "ratio", cell: (run: RunFigures) => ratio(at(run).ratio) },
      ];
    }),
  ];
}

/** Says how many seeds the mean is of where it is not all that finished. */
function epochsTo({ reached, epochs }: TargetFigures, { finished }: RunFigures): string {
  if (!epochs) return finished > 0 ? "never" : NONE;
  return `${show(epochs, 1)}${reached < finished ? ` (${reached} of ${finished})` : ""}`;
}

const failuresOf = (figures: readonly RunFigures[]): string[] =>
  figures.flatMap(({ name, failures }) => failures.map(({ seed, message }) => `${name}, seed ${seed} failed: ${message}`));

/** For a terminal. */
export function comparisonTable(figures: readonly RunFigures[]): string {
  const columns = columnsOf(figures);
  const table = new Table({ head: columns.map(({ head }) => head), style: { head: [], border: [] } });
  for (const run of figures) table.push(columns.map(({ cell }) => cell(run)));
  return [table.toString(), ...failuresOf(figures)].join("\n");
}

/** As a page, with what the figures are and the plots, which are named relative to it. */
export function comparisonMarkdown(comparison: Comparison, figures: readonly RunFigures[], plots: readonly string[]): string {
  const columns = columnsOf(figures);
  const line = (cells: readonly string[]): string =>
    `| ${cells.map((cell) => cell.replaceAll("\n", " ").replaceAll("|", "\\|")).join(" | ")} |`;
  const { config } = comparison.runs[0] ?? {};
  const failures = failuresOf(figures);
  return [
    "# Comparison",
    "",
    `${config?.model ?? ""} on ${config?.data ?? ""}, seeds ${comparison.seeds.join(", ")}.`,
    "",
    line(columns.map(({ head }) => head)),
    line(columns.map((_, i) => (i === 0 ? "---" : "---:"))),
    ...figures.map((run) => line(columns.map(({ cell }) => cell(run)))),
    "",
    "Mean ± sample standard deviation: accuracies over the seeds, seconds per epoch over all epochs of all seeds. Seconds are those of training, " +
      "without evaluation. A target counts as reached at the end of the first epoch with at least that test accuracy; the mean is over the seeds that " +
      `reached it. Ratios are to ${figures[0]?.name ?? "the first run"}.`,
    ...(failures.length > 0 ? ["", ...failures.map((failure) => `- ${failure.replaceAll("\n", " ")}`)] : []),
    ...plots.flatMap((plot) => ["", `![${plot.replace(/\.svg$/, "").replaceAll("-", " ")}](${plot})`]),
    "",
  ].join("\n");
}
