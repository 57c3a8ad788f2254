import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import Table from "cli-table3";
import { UsageError } from "../tensor/index.ts";
import { RunFolder, SpectrumHistory, THRESHOLD, type FactorHistory } from "../train/index.ts";
import { openPlotter } from "./plots.ts";
import { plotSpectra } from "./spectrumPlots.ts";

/** `kfacet spectrum`: what a run's metrics tell of the eigenvalues of its Kronecker factors, as a table, figures and plots in its folder. */
export async function spectrumCommand(directory: string, json: boolean): Promise<void> {
  const { folder, config } = await RunFolder.open(directory);
  const history = new SpectrumHistory();
  for await (const event of folder.events()) if (event.type === "refresh") history.add(event);
  const { factors, methods } = history;
  if (factors.length === 0) throw new UsageError(`${directory} has no spectra: ${whyNone(config.optimizer, [...methods])}`);

  const plotter = await openPlotter();
  if (!plotter.works) console.error(plotter.reason);
  const report = {
    model: config.model,
    optimizer: config.optimizer,
    seed: config.seed,
    threshold: THRESHOLD,
    factors: factors.map(({ layer, method, factor, refreshes }) => ({
      layer,
      method,
      factor,
      refreshes: refreshes.map(({ eigenvalues: _, ...figures }) => figures),
    })),
  };
  await writeFile(join(folder.path, "spectrum.json"), `${JSON.stringify(report, null, 2)}\n`);
  const plots = plotter.works ? await plotSpectra(plotter, factors, folder.path) : [];
  if (json) console.log(JSON.stringify(report));
  else
    console.log(
      `${spectrumTable(factors)}\n${verdict(factors)}\n${["spectrum.json", ...plots].map((name) => join(folder.path, name)).join("\n")}`,
    );
}

function whyNone(optimizer: string, methods: readonly string[]): string {
  return methods.length > 0
    ? `${methods.join(", ")} keeps no eigenvalues; train with the inverse eigh, or another method of the K-FAC family`
    : `${optimizer} has told of no eigenvalues; train with a method of the K-FAC family (kfac, rs-kfac, sre-kfac, nys-kfac, b-kfac, ek-fac)`;
}

/** The last refresh of each factor, and the first where that shows how the spectrum changed. */
function spectrumTable(factors: readonly FactorHistory[]): string {
  const table = new Table({
    head: [
      "layer",
      "factor",
      "refreshes",
      "largest\neigenvalue",
      "rank\nkept",
      `above ${100 * THRESHOLD} %\nfirst → last`,
      "trace\nleft out",
      "allowed by\ntheory",
    ],
    style: { head: [], border: [] },
  });
  for (const { layer, factor, refreshes } of factors) {
    const [first, last] = [refreshes[0], refreshes.at(-1)];
    if (!first || !last) continue;
    const { largest, rank, truncation, bound } = last;
    table.push([
      layer,
      factor,
      refreshes.length,
      largest.toExponential(2),
      rank,
      `${first.above} → ${last.above}`,
      truncation === null ? "–" : `${(100 * truncation).toFixed(1)} %`,
      bound ? `${bound.most.toLocaleString("en")} of ${bound.width}` : "–",
    ]);
  }
  return table.toString();
}

/** Whether the theorem on the decay holds, and whether it says anything: see `decayBound`. */
function verdict(factors: readonly FactorHistory[]): string {
  const all = factors.flatMap(({ layer, factor, refreshes }) =>
    refreshes.flatMap(({ step, bound }) => (bound ? [{ ...bound, at: `${layer} ${factor} at step ${step}` }] : [])),
  );
  if (all.length === 0) return "The run does not tell what its factors are made of, so nothing can be said of the bound on their decay.";
  const holding = all.filter(({ holds }) => holds === true).length;
  const broken = all.filter(({ holds }) => holds === false);
  const open = all.length - holding - broken.length;
  const ratios = all.map(({ most, width }) => most / width).sort((a, b) => a - b);
  const [least, largest] = [ratios[0], ratios.at(-1)].map((ratio) => (ratio as number).toPrecision(2));
  return [
    `The bound on the decay (proposition 3.1 of arXiv 2206.15397) holds on ${holding} of ${all.length} recorded factors`,
    broken.length > 0 ? `, and does NOT HOLD on ${broken.length}` : "",
    open > 0 ? `; on ${open} it cannot be told, since all eigenvalues kept are above ${100 * THRESHOLD} %` : "",
    `. It says something on ${ratios.filter((ratio) => ratio < 1).length}: it allows between ${least} and ${largest} times as many as there are.`,
    ...broken.map(({ at, above, most }) => `\n  ${at}: ${above} above ${100 * THRESHOLD} %, ${most} allowed`),
  ].join("");
}
