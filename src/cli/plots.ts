import type { Config, TopLevelSpec } from "vega-lite";

/** Turns plots into SVG. Needs two optional packages, which nothing else loads. */
export type Plotter =
  { readonly works: true; svg(plot: TopLevelSpec): Promise<string> } | { readonly works: false; readonly reason: string };

/** Okabe and Ito's colours, which people with any kind of colour vision tell apart; the yellow, pale on white, comes last. */
const COLORS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442"];

const INK = "#222222";

/** How all plots look. */
const style: Config = {
  background: "white",
  font: "Helvetica, Arial, 'Liberation Sans', sans-serif",
  padding: 12,
  title: { anchor: "start", fontSize: 16, fontWeight: 600, color: INK, subtitleFontSize: 13, subtitleColor: "#555555", offset: 12 },
  axis: {
    labelFontSize: 12,
    titleFontSize: 13,
    titleFontWeight: 400,
    labelColor: INK,
    titleColor: INK,
    gridColor: "#e6e6e6",
    domainColor: "#888888",
    tickColor: "#888888",
    titlePadding: 8,
    labelFlush: false,
  },
  header: { labelFontSize: 13, labelFontWeight: 600, titleFontSize: 13, labelColor: INK },
  legend: {
    labelFontSize: 12,
    titleFontSize: 13,
    titleFontWeight: 400,
    labelColor: INK,
    titleColor: INK,
    symbolOpacity: 1,
    labelLimit: 400,
    symbolLimit: 0,
  },
  view: { stroke: null },
};

/** Loads what draws, or says what is missing. */
export async function openPlotter(): Promise<Plotter> {
  try {
    const [{ parse, View }, { compile }] = await Promise.all([import("vega"), import("vega-lite")]);
    return {
      works: true,
      async svg(plot) {
        const view = new View(parse(compile(plot, { config: style }).spec), { renderer: "none" });
        try {
          return await view.toSVG();
        } finally {
          view.finalize();
        }
      },
    };
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "ERR_MODULE_NOT_FOUND") throw error;
    return { works: false, reason: "plots are left out: they need two optional packages; run: npm install vega@6.4.0 vega-lite@6.4.3" };
  }
}

/** Colours, and dashes where there are more names than colours, for series of these names in this order. */
export function seriesScales(names: readonly string[]): {
  color: { domain: string[]; range: string[] };
  dash: { domain: string[]; range: number[][] };
} {
  const domain = [...names];
  return {
    color: { domain, range: names.map((_, i) => COLORS[i % COLORS.length] as string) },
    dash: { domain, range: names.map((_, i) => (i < COLORS.length ? [1, 0] : [6, 3])) },
  };
}
