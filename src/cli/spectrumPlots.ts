import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import type { TopLevelSpec } from "vega-lite";
import { THRESHOLD, type FactorHistory } from "../train/index.ts";
import type { Plotter } from "./plots.ts";

const titles: Readonly<Record<string, string>> = { input: "input factor Ω", output: "output factor Γ" };
const titleOf = (factor: string): string => titles[factor] ?? factor;

/** Eigenvalues drawn one by one, before they are thinned: a spectrum falls fastest at its beginning. */
const DENSE = 48;
const POINTS = 160;
const CURVES = 40;

/** Writes `spectrum.svg` (all layers at their last refresh) and `spectrum-<layer>.svg` (one layer over the run); returns their names. */
export async function plotSpectra(
  plotter: Plotter & { readonly works: true },
  factors: readonly FactorHistory[],
  folder: string,
): Promise<string[]> {
  const plots: [name: string, plot: TopLevelSpec][] = [["spectrum.svg", lastSpectra(factors)]];
  for (const layer of new Set(factors.map(({ layer }) => layer))) {
    const name = `spectrum-${layer.replace(/[^\p{L}\p{N}._-]/gu, "_")}.svg`;
    plots.push([
      name,
      spectraOverTime(
        layer,
        factors.filter((factor) => factor.layer === layer),
      ),
    ]);
  }
  for (const [name, plot] of plots) await writeFile(join(folder, name), await plotter.svg(plot));
  return plots.map(([name]) => name);
}

interface Point {
  readonly factor: string;
  readonly series: string | number;
  readonly index: number;
  readonly relative: number;
}

/** What is below this part of the largest is rounding of float32, and is not drawn. */
const FLOOR = 1e-7;

/** A spectrum relative to its largest eigenvalue, at most `POINTS` of it. */
function decay({ factor }: FactorHistory, series: string | number, { eigenvalues, largest }: FactorHistory["refreshes"][number]): Point[] {
  const stride = Math.max(1, Math.ceil((eigenvalues.length - DENSE) / (POINTS - DENSE)));
  return eigenvalues.flatMap((value, i) => {
    const drawn = i < DENSE || (i - DENSE) % stride === 0 || i === eigenvalues.length - 1;
    return drawn && value > FLOOR * largest ? [{ factor: titleOf(factor), series, index: i + 1, relative: value / largest }] : [];
  });
}

/** At most `CURVES` of a list, the first and the last among them. */
function thinned<T>(items: readonly T[]): T[] {
  const count = Math.min(CURVES, items.length);
  return Array.from({ length: count }, (_, i) => items[count === 1 ? 0 : Math.round((i * (items.length - 1)) / (count - 1))] as T);
}

/** All layers at their last refresh, coloured by depth. */
function lastSpectra(factors: readonly FactorHistory[]): TopLevelSpec {
  const layers = [...new Set(factors.map(({ layer }) => layer))];
  const points = factors.flatMap((history) => history.refreshes.slice(-1).flatMap((refresh) => decay(history, history.layer, refresh)));
  const steps = factors.flatMap(({ refreshes }) => refreshes.slice(-1).map(({ step }) => step));
  return panels(
    "Eigenvalue decay of the Kronecker factors",
    `every layer at its last refresh (step ${Math.max(...steps)}), from the input (dark) to the output (light)`,
    points,
    { field: "series", type: "nominal", title: "layer", sort: layers, scale: { domain: layers, scheme: "viridis" } },
  );
}

/** One layer, one curve a refresh, coloured by step. */
function spectraOverTime(layer: string, factors: readonly FactorHistory[]): TopLevelSpec {
  const points = factors.flatMap((history) => thinned(history.refreshes).flatMap((refresh) => decay(history, refresh.step, refresh)));
  return panels(`Eigenvalue decay over training: ${layer}`, `one curve a refresh; dashed: ${100 * THRESHOLD} % of the largest`, points, {
    field: "series",
    type: "quantitative",
    title: "step",
    scale: { scheme: "viridis" },
  });
}

type Color = { readonly field: string; readonly title: string } & (
  | { readonly type: "nominal"; readonly sort: string[]; readonly scale: { readonly domain: string[]; readonly scheme: "viridis" } }
  | { readonly type: "quantitative"; readonly scale: { readonly scheme: "viridis" } }
);

/** A panel a factor, side by side. */
function panels(text: string, subtitle: string, values: readonly Point[], color: Color): TopLevelSpec {
  const least = values.reduce((a, { relative }) => Math.min(a, relative), THRESHOLD);
  const decades = Array.from({ length: 1 - Math.floor(Math.log10(least)) }, (_, i) => 10 ** -i);
  const labelExpr = "datum.value < 0.01 ? format(datum.value, '.0e') : format(datum.value, '~g')";
  return {
    title: { text, subtitle },
    data: { values: [...values] },
    facet: { column: { field: "factor", type: "nominal", title: null } },
    spec: {
      width: 360,
      height: 300,
      layer: [
        {
          mark: { type: "line", strokeWidth: 1.6 },
          encoding: {
            x: { field: "index", type: "quantitative", title: "index of the eigenvalue", axis: { grid: false, tickMinStep: 1 } },
            y: {
              field: "relative",
              type: "quantitative",
              title: "eigenvalue / largest",
              scale: { type: "log" },
              axis: { values: decades, labelExpr },
            },
            detail: { field: "series", type: "nominal" },
            color,
          },
        },
        { mark: { type: "rule", color: "#888888", strokeDash: [3, 3] }, encoding: { y: { datum: THRESHOLD } } },
      ],
    },
    resolve: { scale: { x: "independent" } },
  };
}
