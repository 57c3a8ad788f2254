import { bytesPerElement } from "../../dtype.ts";
import { windowOutput } from "../../shape.ts";
import type { Engine } from "./engine.ts";
import type { Kernels, Operand } from "./kernel.ts";

/*
 * Σ a aᵀ over all windows a, by displacements. The block of the result that pairs the positions p and q of the window is
 *
 *     Σ_u x_u x_{u+d}ᵀ  over the pixels u that p meets as the window moves and for which u + d lies in the image,
 *
 * with d the way from p to q. All pairs with the same way sum the same products, each over a rectangle of its own. So products
 * are summed once for each of the 13 ways in a window of 3 × 3 (others are transposes of these), where a product of patches sums
 * 45 blocks anew; and no patch is ever written down.
 *
 * The rectangles of a way are cut along all their edges into cells. Cells are summed apart, and a block is the sum of its cells:
 * with padding, the inside and, where need be, the outermost rows and columns.
 *
 * In float32 with precision "fast", two rows of the image can be a tile: the five ways down that a window of 3 rows has for one way
 * across, ten products of two rows, are interpolated from six (Winograd's minimal filtering F(5, 2); assembly/covariance.ts has the
 * mathematics). That sums over all pixels for which u + d lies in the image; the largest cell of a way is what the other cells leave.
 *
 * With a stride s a position meets every s-th pixel: pixels are sorted by their places modulo s ("phases"), and a way leads from
 * one phase to another.
 */

type FloatType = "float32" | "float64";

/** A window that moves along one direction of an image. */
interface Line {
  readonly length: number;
  readonly kernel: number;
  readonly stride: number;
  readonly dilation: number;
  /** Padding at the beginning. */
  readonly before: number;
  /** Places where the window stops. */
  readonly stops: number;
}

/** Pixels `[from, to)` that position p meets while q is in the image too. */
interface Range {
  readonly p: number;
  readonly q: number;
  readonly from: number;
  readonly to: number;
}

/** What pairs of positions have in common that lie in the same way to each other, along one direction. Pixels count by phase. */
interface Way {
  /** From a pixel to the displaced one. */
  readonly shift: number;
  /** Disjoint: cells are products of a vertical segment and a horizontal one. */
  readonly segments: readonly { readonly start: number; readonly length: number }[];
  /** The pairs, with the segments that make up their range. */
  readonly pairs: readonly { readonly p: number; readonly q: number; readonly first: number; readonly end: number }[];
}

/** All ways along one direction: to the same position, to a later one, to an earlier one. */
interface Ways {
  readonly same: readonly Way[];
  readonly later: readonly Way[];
  readonly earlier: readonly Way[];
}

function waysOf({ length, kernel, stride, dilation, before, stops }: Line): Ways {
  const pixelsIn = (phase: number): number => Math.max(0, Math.ceil((length - phase) / stride));
  // Where each phase starts; those beyond the image have no pixels and start anywhere.
  const starts = [0];
  for (let phase = 0; phase + 1 < stride; phase++) starts.push(starts[phase]! + pixelsIn(phase));
  const positions = Array.from({ length: kernel }, (_, p) => {
    const first = p * dilation - before;
    const step = Math.floor(first / stride);
    return { step, phase: first - step * stride };
  });
  const ways = new Map<string, { shift: number; order: number; ranges: Range[] }>();
  positions.forEach((a, p) => {
    positions.forEach((b, q) => {
      const steps = b.step - a.step;
      const start = starts[a.phase]!;
      const from = Math.max(0, a.step, -steps);
      const to = Math.max(from, Math.min(a.step + stops, pixelsIn(a.phase), pixelsIn(b.phase) - steps));
      const name = `${a.phase} ${b.phase} ${steps}`;
      let way = ways.get(name);
      if (!way) ways.set(name, (way = { shift: starts[b.phase]! + steps - start, order: Math.sign(q - p), ranges: [] }));
      way.ranges.push({ p, q, from: start + from, to: start + to });
    });
  });
  const result = { same: [] as Way[], later: [] as Way[], earlier: [] as Way[] };
  for (const { shift, order, ranges } of ways.values()) {
    result[order === 0 ? "same" : order > 0 ? "later" : "earlier"].push(cut(shift, ranges));
  }
  return result;
}

function cut(shift: number, ranges: readonly Range[]): Way {
  const edges = ranges.flatMap(({ from, to }) => [from, to]).sort((a, b) => a - b);
  const segments: { start: number; length: number }[] = [];
  for (let i = 1; i < edges.length; i++) {
    const [start, end] = [edges[i - 1]!, edges[i]!];
    if (start < end && ranges.some(({ from, to }) => from <= start && end <= to)) segments.push({ start, length: end - start });
  }
  const before = (pixel: number): number => segments.reduce((count, { start }) => (start < pixel ? count + 1 : count), 0);
  return { shift, segments, pairs: ranges.map(({ p, q, from, to }) => ({ p, q, first: before(from), end: before(to) })) };
}

/** A direction along which a stop of the window is a pixel that holds, as its channels, all that the window sees there. */
function folded({ stops }: Line): Line {
  return { length: stops, kernel: 1, stride: 1, dilation: 1, before: 0, stops };
}

/** Channels of a panel, as in assembly/tile.ts. */
const SIDE = { float32: 8, float64: 4 } as const;
/** Nanoseconds that a pixel costs: multiplied by another, a panel by a panel; packed, for a panel and for a channel. */
const PRODUCT = { float32: 3.2, float64: 1.6 } as const;
const PACKED_PANEL = 1.5;
const PACKED_CHANNEL = 0.25;
/** And a pixel of a panel of a factor of tiles, with what it takes longer to read that than the image, which the cache holds. */
const FACTOR = 3;
/** A cell costs as much as so many pixels more than it has. */
const CELL = 16;
/** Packed images that are held at once. */
const BATCH_BYTES = 4 * 2 ** 20;
/** Length of a run of pixels worth having: one row of so many images is stored together. */
const RUN = 128;

/** The image that is multiplied and how it is packed. */
interface Plan {
  /** The directions along which the window is folded into the channels: few channels fill the registers better that way. */
  readonly fold: readonly [down: boolean, across: boolean];
  /** Tiles of two rows, of each image; 0 if products are summed pixel by pixel. */
  readonly tiles: number;
  /** Rows of a packed image, and how many of them come before the first one of the image. */
  readonly height: number;
  readonly above: number;
  readonly width: number;
  readonly channels: number;
  readonly panels: number;
  /** Images of a group, which are packed together. */
  readonly images: number;
  readonly panelBytes: number;
  readonly tables: Tables;
}

/** The ways of the plan in words for the kernels, which describe them. */
interface Tables {
  /** Those that make blocks of the result, then those whose products are only interpolated from. */
  readonly displacements: readonly number[];
  readonly cells: readonly number[];
  readonly pairs: readonly number[];
  readonly filters: readonly number[];
  /** Displacements that make blocks. */
  readonly ways: number;
  /** Pixels in all cells; then only half of those of square products; and cells that have any. */
  readonly pixels: number;
  readonly multiplied: number;
  readonly summed: number;
}

const WORDS = { displacement: 6, cell: 5, pair: 6, filter: 17 } as const;
/** Rows that a tile is multiplied with beyond its own, on either side; and factors of tiles that are stored behind the rows. */
const [BEYOND, FACTORS] = [2, 10];

function planFor(rows: Line, columns: Line, fold: Plan["fold"], tiled: boolean, imageChannels: number, n: number, dtype: FloatType): Plan {
  const [vertical, horizontal] = [fold[0] ? folded(rows) : rows, fold[1] ? folded(columns) : columns];
  const tiles = tiled ? Math.ceil(vertical.length / 2) : 0;
  const above = tiled ? BEYOND : 0;
  const [height, width] = [tiled ? 2 * tiles + 2 * BEYOND : vertical.length, horizontal.length];
  const channels = imageChannels * (fold[0] ? rows.kernel : 1) * (fold[1] ? columns.kernel : 1);
  const panels = Math.ceil(channels / SIDE[dtype]);
  const pixels = height * width + FACTORS * (tiles * width + 1);
  const most = Math.max(1, Math.min(Math.round(RUN / width), Math.floor(BATCH_BYTES / (32 * panels * pixels))));
  const images = Math.ceil(n / Math.ceil(n / most));
  // An odd number of cache lines: the panels of a pixel would otherwise meet in the same places of the cache.
  const lines = pixels * images;
  const panelBytes = 32 * (lines + ((6 - (lines % 4)) % 4));
  const tables = tablesOf(waysOf(vertical), waysOf(horizontal), { height, above, width, tiles, kernelWidth: horizontal.kernel, panels });
  return { fold, tiles, height, above, width, channels, panels, images, panelBytes, tables };
}

/** Nanoseconds that an image takes. */
function costOf({ height, width, channels, panels, images, tiles, tables }: Plan, dtype: FloatType): number {
  // A float32 panel is two register tiles high, of which the last may be empty.
  const blocks = (panels * Math.ceil(channels / 4) * 4) / SIDE[dtype];
  const products = (tables.multiplied + (CELL * tables.summed) / images) * blocks * PRODUCT[dtype];
  const factors = FACTORS * tiles * width * panels * FACTOR;
  return products + factors + height * width * (panels * PACKED_PANEL + channels * PACKED_CHANNEL);
}

function bestPlan(rows: Line, columns: Line, channels: number, n: number, dtype: FloatType, fast: boolean): Plan {
  const plan = (down: boolean, across: boolean, tiled = false): Plan => planFor(rows, columns, [down, across], tiled, channels, n, dtype);
  const plans = [plan(true, true)];
  if (rows.kernel * columns.kernel > 1) plans.push(plan(false, true), plan(false, false));
  const tileable = rows.kernel === 3 && rows.stride === 1 && rows.dilation === 1;
  if (fast && dtype === "float32" && tileable && columns.kernel > 1) {
    const tiled = plan(false, false, true);
    // With their factors, images take seven times the memory: not where a single one is large.
    if (tiled.panels * tiled.panelBytes <= BATCH_BYTES) plans.push(tiled);
  }
  const costs = plans.map((each) => costOf(each, dtype));
  return plans[costs.indexOf(Math.min(...costs))]!;
}

/** Where the tables find pixels of a packed image. */
interface Layout extends Pick<Plan, "height" | "above" | "width" | "tiles" | "panels"> {
  /** Positions of the window across that are left. */
  readonly kernelWidth: number;
}

function tablesOf(down: Ways, across: Ways, { height, above, width, tiles, kernelWidth, panels }: Layout): Tables {
  const displacements: number[] = [];
  const cells: number[] = [];
  const pairs: number[] = [];
  const filters: number[] = [];
  let [pixels, multiplied, summed] = [0, 0, 0];
  // Of the square products one half is computed, with whole panels on the diagonal.
  const half = 0.5 + 0.5 / panels;
  const addCell = (first: number, displaced: number, rows: number, columns: number, step = 1, square = false): void => {
    cells.push(first, displaced, rows, columns, step);
    pixels += rows * columns;
    multiplied += rows * columns * (square ? half : 1);
    if (rows > 0) summed++;
  };
  /** @param but a vertical segment that is not summed. */
  const add = (v: Way, h: Way, square = false, but?: Way["segments"][number]): void => {
    displacements.push(cells.length / WORDS.cell, v.segments.length, h.segments.length, square ? 1 : 0);
    displacements.push(pairs.length / WORDS.pair, v.pairs.length * h.pairs.length);
    for (const r of v.segments) {
      for (const c of h.segments) {
        const first = (above + r.start) * width + c.start;
        addCell(first, first + v.shift * width + h.shift, r === but ? 0 : r.length, c.length, 1, square);
      }
    }
    for (const r of v.pairs) {
      for (const c of h.pairs) {
        pairs.push(r.p * kernelWidth + c.p, r.q * kernelWidth + c.q, r.first, r.end, c.first, c.end);
      }
    }
  };
  // Ways to the same position or a later one; the rest is transposes.
  for (const h of across.same) {
    for (const v of down.same) add(v, h, true);
    for (const v of down.later) add(v, h);
  }
  const vertical = [...down.earlier, ...down.same, ...down.later].sort((a, b) => a.shift - b.shift);
  const largest = vertical.map(({ segments }) => segments.reduce((a, b) => (b.length > a.length ? b : a), { start: 0, length: 0 }));
  const firstCells = across.later.map((h) =>
    vertical.map((v, i) => {
      const first = cells.length / WORDS.cell;
      add(v, h, false, tiles > 0 ? largest[i] : undefined);
      return first;
    }),
  );
  const ways = displacements.length / WORDS.displacement;
  if (tiles > 0) {
    const factor = (i: number): number => height * width + i * (tiles * width + 1);
    // At 0 and ∞ those on the left are every other row of the image.
    const left = [
      { from: BEYOND * width, step: 2 },
      ...[0, 1, 2, 3].map((i) => ({ from: factor(i), step: 1 })),
      { from: (BEYOND + 1) * width, step: 2 },
    ];
    across.later.forEach((h, k) => {
      const count = h.segments.length;
      const firstProduct = cells.length / WORDS.cell;
      left.forEach(({ from, step }, i) => {
        displacements.push(cells.length / WORDS.cell, 1, count, 0, 0, 0);
        for (const { start, length } of h.segments) addCell(from + start, factor(4 + i) + start + h.shift, tiles, length, step);
      });
      for (let c = 0; c < count; c++) {
        filters.push(firstProduct + c, count);
        vertical.forEach(({ segments }, i) => {
          filters.push((firstCells[k]![i] as number) + c, segments.length, segments.indexOf(largest[i]!));
        });
      }
    });
  }
  return { displacements, cells, pairs, filters, ways, pixels, multiplied, summed };
}

const names = {
  float32: { pack: "packPixels_f32", multiply: "multiplyDisplaced_f32", assemble: "assembleBlocks_f32" },
  float64: { pack: "packPixels_f64", multiply: "multiplyDisplaced_f64", assemble: "assembleBlocks_f64" },
} as const;

/** A batch is summed in so many parts, for the threads to share and for accuracy, unless their sums take too much memory. */
const MOST_PARTS = 8;
const PARTS_BYTES = 4 * 2 ** 20;
/** Panels of a block of the result. */
const BLOCK = { float32: 8, float64: 16 } as const;

function sumDisplaced(engine: Engine, x: Operand, y: Operand, rows: Line, columns: Line, bias: boolean, scale: number): void {
  const dtype = x.dtype as FloatType;
  const [n, imageHeight, imageWidth, imageChannels] = x.shape as [number, number, number, number];
  const plan = bestPlan(rows, columns, imageChannels, n, dtype, engine.precision === "fast");
  const { fold, tiles, height, above, width, channels, panels, images, panelBytes } = plan;
  const { displacements, cells, pairs, filters, ways, pixels } = plan.tables;
  const displacementCount = displacements.length / WORDS.displacement;
  const cellCount = cells.length / WORDS.cell;
  const ones = bias ? 1 : 0;

  const groups = Math.ceil(n / images);
  const groupBytes = panels * panelBytes;
  const batch = Math.min(groups, Math.max(1, Math.floor(BATCH_BYTES / groupBytes)));
  const packedBytes = Math.ceil((batch * groupBytes) / 64) * 64;
  const partBytes = cellCount * panels * 32 * (panels * SIDE[dtype] + 1);
  const parts = Math.min(batch, MOST_PARTS, Math.max(1, Math.floor(PARTS_BYTES / partBytes)));
  const partGroups = Math.ceil(batch / parts);
  const blocks = Math.ceil(panels / BLOCK[dtype]);
  const blockPanels = Math.ceil(panels / blocks);

  const words = displacements.length + cells.length + pairs.length + filters.length;
  engine.temporary(packedBytes + parts * partBytes + 4 * words, "patchCovariance", (packed) => {
    const sums = packed + packedBytes;
    const displacementTable = sums + parts * partBytes;
    const cellTable = displacementTable + 4 * displacements.length;
    const pairTable = cellTable + 4 * cells.length;
    const filterTable = pairTable + 4 * pairs.length;
    const table = engine.view("int32", displacementTable, words);
    table.set(displacements);
    table.set(cells, displacements.length);
    table.set(pairs, displacements.length + cells.length);
    table.set(filters, displacements.length + cells.length + pairs.length);

    const { pack, multiply, assemble } = names[dtype];
    const packCost = width * images * (panels * PACKED_PANEL + channels * PACKED_CHANNEL);
    const factorCost = FACTORS * width * images * panels * FACTOR;
    const multiplyCost = (pixels / displacementCount) * partGroups * images * blockPanels ** 2 * PRODUCT[dtype];
    const [down, across] = [fold[0] ? rows : folded(rows), fold[1] ? columns : folded(columns)];
    const phases = [fold[0] ? 1 : rows.stride, fold[1] ? 1 : columns.stride] as const;
    for (let first = 0; first < groups; first += batch) {
      const here = Math.min(batch, groups - first);
      const last = first + here === groups ? n - (groups - 1) * images : images;
      const from = x.pointer + first * images * imageHeight * imageWidth * imageChannels * bytesPerElement[dtype];
      // prettier-ignore
      engine.run(
        pack, here * height, packCost, from, imageHeight, imageWidth, imageChannels, height, width, down.kernel, across.kernel,
        down.stride, across.stride, down.dilation, across.dilation, down.before + above, across.before, ...phases,
        here, images, last, panelBytes, groupBytes, packed,
      );
      engine.run("factorTiles_f32", here * tiles, factorCost, tiles, width, panels, here, images, last, panelBytes, groupBytes, packed);
      // prettier-ignore
      engine.run(
        multiply, parts * displacementCount * blocks ** 2, multiplyCost, packed, channels, width, here, partGroups, images, last,
        panelBytes, groupBytes, displacementCount, cellCount, displacementTable, cellTable, blocks, blockPanels, sums, partBytes, first === 0 ? 1 : 0, ones,
      );
    }
    const filterCount = filters.length / WORDS.filter;
    engine.run("interpolateCells_f32", parts * filterCount, 60 * panels ** 2, filterCount, filterTable, panels, sums, partBytes);
    const size = y.shape[0] as number;
    // prettier-ignore
    engine.run(
      assemble, ways * blocks ** 2, (2 * size * size) / (ways * blocks ** 2), channels, parts, ways, cellCount, displacementTable, pairTable,
      blocks, blockPanels, sums, partBytes, y.pointer, size, scale, ones,
    );
  });
}

export const covariance: Kernels<"patchCovariance"> = {
  patchCovariance: (engine, [x], { bias, scale, ...geometry }, [y]) => {
    const [n, height, width] = x.shape as [number, number, number, number];
    const { kernel, stride, dilation, padding } = geometry;
    const [down, across] = windowOutput("patchCovariance", [height, width], geometry);
    if (x.size === 0) engine.view(y.dtype, y.pointer, y.size).fill(0);
    else {
      const rows = { length: height, kernel: kernel[0], stride: stride[0], dilation: dilation[0], before: padding.top, stops: down };
      const columns = { length: width, kernel: kernel[1], stride: stride[1], dilation: dilation[1], before: padding.left, stops: across };
      sumDisplaced(engine, x, y, rows, columns, bias, scale);
    }
    if (bias) engine.view(y.dtype, y.pointer + (y.size - 1) * bytesPerElement[y.dtype], 1)[0] = scale * n * down * across;
  },
};
