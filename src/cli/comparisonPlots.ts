import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import type { TopLevelSpec } from "vega-lite";
import { meanCurve, type RunFigures } from "../train/index.ts";
import { seriesScales, type Plotter } from "./plots.ts";

const quantities = {
  accuracy: { key: "testAccuracy", factor: 100, title: "Test accuracy", unit: "test accuracy / %" },
  loss: { key: "trainLoss", factor: 1, title: "Training loss", unit: "training loss (mean over the epoch)" },
} as const;
const abscissae = {
  epochs: { key: "epoch", title: "epochs", unit: "epoch" },
  seconds: { key: "seconds", title: "training time", unit: "training time, without evaluation / s" },
} as const;

/** Up to so many epochs, each is marked by a point. */
const MARKED = 12;

/** Writes `accuracy-epochs.svg`, `accuracy-seconds.svg`, `loss-epochs.svg` and `loss-seconds.svg`; returns their names. */
export async function plotComparison(
  plotter: Plotter & { readonly works: true },
  figures: readonly RunFigures[],
  targets: readonly number[],
  folder: string,
): Promise<string[]> {
  const finished = figures.filter(({ finished }) => finished > 0);
  if (finished.length === 0) return [];
  const names: string[] = [];
  for (const quantity of ["accuracy", "loss"] as const) {
    for (const abscissa of ["epochs", "seconds"] as const) {
      const name = `${quantity}-${abscissa}.svg`;
      await writeFile(join(folder, name), await plotter.svg(learningCurves(finished, quantity, abscissa, targets)));
      names.push(name);
    }
  }
  return names;
}

/**
 * One quantity of all runs: the mean over the seeds; against epochs with a band from least to largest, against seconds, where each seed
 * has times of its own, with a thin line for each.
 */
function learningCurves(
  figures: readonly RunFigures[],
  quantity: keyof typeof quantities,
  abscissa: keyof typeof abscissae,
  targets: readonly number[] = [],
): TopLevelSpec {
  const [{ key, factor, title, unit }, along] = [quantities[quantity], abscissae[abscissa]];
  const { color, dash } = seriesScales(figures.map(({ name }) => name));
  const means = figures.flatMap(({ name, curves }) =>
    meanCurve(curves, key).map(({ epoch, seconds, mean, low, high }) => ({
      run: name,
      epoch,
      seconds,
      mean: factor * mean,
      low: factor * low,
      high: factor * high,
    })),
  );
  const seeds = figures.flatMap(({ name, curves }) =>
    curves.flatMap(({ seed, points }) =>
      points.map((point) => ({ run: name, seed, epoch: point.epoch, seconds: point.seconds, value: factor * point[key] })),
    ),
  );
  const several = figures.some(({ finished }) => finished > 1);
  const epochs = means.reduce((most, { epoch }) => Math.max(most, epoch), 0);
  // A loss falls by orders of magnitude; only a 0, of which there is no logarithm, takes that away.
  const logarithmic = quantity === "loss" && seeds.every(({ value }) => value > 0);
  const scale = logarithmic ? ({ type: "log", nice: false } as const) : { zero: false };
  const y = { type: "quantitative", title: unit, scale } as const;
  const x = {
    field: along.key,
    type: "quantitative",
    title: along.unit,
    scale: { zero: abscissa === "seconds" },
    axis: { grid: false, ...(abscissa === "epochs" && { tickMinStep: 1, format: "d" }) },
  } as const;
  const series = {
    color: { field: "run", type: "nominal", title: null, scale: color },
    strokeDash: { field: "run", type: "nominal", title: null, scale: dash },
  } as const;
  const spread =
    abscissa === "epochs"
      ? {
          data: { values: means },
          mark: { type: "area" as const, opacity: 0.15 },
          encoding: { x, y: { ...y, field: "low" }, y2: { field: "high" }, color: series.color },
        }
      : {
          data: { values: seeds },
          mark: { type: "line" as const, strokeWidth: 1, opacity: 0.4 },
          encoding: { x, y: { ...y, field: "value" }, detail: { field: "seed", type: "nominal" as const }, ...series },
        };
  const subtitle = !several ? "one seed" : abscissa === "epochs" ? "mean and range over the seeds" : "each seed, and their mean";
  return {
    title: { text: `${title} against ${along.title}`, subtitle },
    width: 560,
    height: 340,
    layer: [
      ...(several ? [spread] : []),
      {
        data: { values: means },
        mark: { type: "line", strokeWidth: 2.5, ...(epochs <= MARKED && { point: { size: 36, filled: true } }) },
        encoding: { x, y: { ...y, field: "mean" }, ...series },
      },
      ...(quantity === "accuracy" && targets.length > 0
        ? [
            {
              data: { values: targets.map((target) => ({ target })) },
              mark: { type: "rule" as const, color: "#888888", strokeDash: [3, 3] },
              encoding: { y: { field: "target", type: "quantitative" as const } },
            },
          ]
        : []),
    ],
  };
}
