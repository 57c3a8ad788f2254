import { bytesPerElement } from "../../dtype.ts";
import { windowOutput, type WindowGeometry } from "../../shape.ts";
import type { Engine } from "./engine.ts";
import type { Kernels, Operand } from "./kernel.ts";

/*
 * Σ a aᵀ over all windows a, by displacements. Block (p, q) of the result, for two positions p and q in the window, is
 *
 *     Σ_u x_u x_{u+d}ᵀ  over those pixels u that p meets as the window moves and for which u + d is in the image,
 *
 * where d is the way from p to q. All pairs with the same way sum the same products, each over a rectangle of its own. So the
 * products are summed once for each of the 13 ways in a window of 3 × 3 (the others are transposes), where the 45 blocks of a
 * product of patches would each be summed anew; and no patch is ever written down.
 *
 * The rectangles of one way are told apart by cutting the image into cells along all their edges: cells are summed apart, and
 * a block is the sum of its cells. With padding these are the inside and, where need be, the outermost rows and columns.
 *
 * A stride of s leaves every s-th pixel for a position to meet: pixels are sorted by their remainders modulo s ("phases"), and
 * a way leads from one phase to another.
 */

/** A window's movement in one direction. */
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

/** A pair of positions in the window with the segments of its way that it sums. */
interface Pair {
  readonly p: number;
  readonly q: number;
  readonly first: number;
  readonly end: number;
}

/** A way from one position to another, in one direction. Places count pixels sorted by phase. */
interface Way {
  /** The second place less the first. */
  readonly shift: number;
  readonly pairs: readonly Pair[];
  /** Disjoint ranges of first places. */
  readonly segments: readonly { readonly start: number; readonly length: number }[];
}

/** The ways between all positions of a window, in one direction: those to the same position, and to later and earlier ones. */
interface Ways {
  readonly same: readonly Way[];
  readonly later: readonly Way[];
  readonly earlier: readonly Way[];
}

function waysOf({ length, kernel, stride, dilation, before, stops }: Line): Ways {
  const count = (phase: number): number => Math.max(0, Math.ceil((length - phase) / stride));
  const firstPlace: number[] = [0];
  for (let phase = 0; phase + 1 < Math.min(stride, length); phase++) firstPlace.push(firstPlace[phase]! + count(phase));
  const ways = new Map<string, { shift: number; order: number; ranges: { p: number; q: number; from: number; to: number }[] }>();
  for (let p = 0; p < kernel; p++) {
    const start = Math.floor((p * dilation - before) / stride);
    const phase = p * dilation - before - start * stride;
    for (let q = 0; q < kernel; q++) {
      const other = Math.floor((q * dilation - before) / stride);
      const otherPhase = q * dilation - before - other * stride;
      const steps = other - start;
      const base = firstPlace[phase] ?? 0; // a phase without pixels has no range either
      const from = Math.max(0, start, -steps);
      const to = Math.max(from, Math.min(start + stops, count(phase), count(otherPhase) - steps));
      const key = `${phase} ${otherPhase} ${steps}`;
      let way = ways.get(key);
      if (!way) ways.set(key, (way = { shift: (firstPlace[otherPhase] ?? 0) + steps - base, order: Math.sign(q - p), ranges: [] }));
      way.ranges.push({ p, q, from: base + from, to: base + to });
    }
  }
  const all = [...ways.values()].map(({ shift, order, ranges }) => ({ order, way: cut(shift, ranges) }));
  const ordered = (wanted: number): Way[] => all.flatMap(({ order, way }) => (order === wanted ? [way] : []));
  return { same: ordered(0), later: ordered(1), earlier: ordered(-1) };
}

/** Cuts the ranges into segments. */
function cut(shift: number, ranges: readonly { p: number; q: number; from: number; to: number }[]): Way {
  const edges = [...new Set(ranges.flatMap(({ from, to }) => [from, to]))].sort((a, b) => a - b);
  const segments: { start: number; length: number }[] = [];
  for (let i = 0; i + 1 < edges.length; i++) {
    const [start, end] = [edges[i]!, edges[i + 1]!];
    if (ranges.some(({ from, to }) => from <= start && end <= to)) segments.push({ start, length: end - start });
  }
  const before = (place: number): number => segments.filter(({ start }) => start < place).length;
  return { shift, segments, pairs: ranges.map(({ p, q, from, to }) => ({ p, q, first: before(from), end: before(to) })) };
}

/**
 * What is multiplied: the image itself, or one whose pixels hold a row of the window (or all of it) as channels, with a window
 * that has only one position in that direction. Few channels fill the registers better that way.
 */
interface Plan {
  readonly foldDown: boolean;
  readonly foldAcross: boolean;
  readonly rows: Line;
  readonly columns: Line;
  readonly channels: number;
  readonly down: Ways;
  readonly across: Ways;
}

/** A folded direction: each stop is a pixel that holds what the window sees there. */
function fold(line: Line): Line {
  return { length: line.stops, kernel: 1, stride: 1, dilation: 1, before: 0, stops: line.stops };
}

const lengthOf = (ways: readonly Way[]): number =>
  ways.reduce((sum, { segments }) => sum + segments.reduce((total, { length }) => total + length, 0), 0);
const cellsOf = (ways: readonly Way[]): number => ways.reduce((sum, { segments }) => sum + segments.length, 0);

/** Channels of a panel, as in assembly/tile.ts. */
const SIDE = { float32: 8, float64: 4 } as const;
/** Nanoseconds that a pixel costs: multiplied by another, for two panels; packed, for a panel. */
const PRODUCT = { float32: 3.2, float64: 1.6 } as const;
const PACKING = 1.5;
/** Starting on a cell costs as much as so many pixels. */
const CELL = 16;

/** Nanoseconds that the products take for one image of a group of `images`. */
function costOf({ rows, columns, channels, down, across }: Plan, dtype: "float32" | "float64", images: number): number {
  // Float32 panels are two register tiles high, and the last one is left out where it is empty.
  const panels = Math.ceil(channels / SIDE[dtype]);
  const high = Math.ceil(channels / 4) / (SIDE[dtype] / 4);
  const total = (measure: (ways: readonly Way[]) => number): number => {
    const [all, later] = [measure(across.same) + measure(across.later) + measure(across.earlier), measure(across.later)];
    return measure(down.later) * all + measure(down.same) * (later + measure(across.same) * (0.5 + 0.5 / panels));
  };
  const pixels = total(lengthOf) + (total(cellsOf) * CELL) / images;
  return pixels * panels * high * PRODUCT[dtype] + rows.length * columns.length * (panels * PACKING + channels / 4);
}

/** Numbers of a run of pixels that are worth having: the same row of so many images is stored together. */
const RUN = 128;

function groupSize(n: number, width: number): number {
  const groups = Math.ceil(n / Math.max(1, Math.round(RUN / width)));
  return Math.ceil(n / groups);
}

function choosePlan(rows: Line, columns: Line, channels: number, dtype: "float32" | "float64", n: number): Plan {
  const plans: Plan[] = [];
  const ways = { down: waysOf(rows), across: waysOf(columns) };
  const folded = { rows: fold(rows), columns: fold(columns) };
  const foldedWays = { down: waysOf(folded.rows), across: waysOf(folded.columns) };
  plans.push({ foldDown: true, foldAcross: true, ...folded, channels: rows.kernel * columns.kernel * channels, ...foldedWays });
  plans.push({
    ...{ foldDown: false, foldAcross: true, rows, columns: folded.columns, channels: columns.kernel * channels },
    ...{ down: ways.down, across: foldedWays.across },
  });
  plans.push({ foldDown: false, foldAcross: false, rows, columns, channels, ...ways });
  let best = plans[0]!;
  let least = Infinity;
  for (const plan of plans) {
    const cost = costOf(plan, dtype, groupSize(n, plan.columns.length));
    if (cost < least) [best, least] = [plan, cost];
  }
  return best;
}

/** The kernels' tables, as words. */
interface Tables {
  /** First cell, cells down and across, 1 if the displacement is zero, first pair, pairs. */
  readonly displacements: readonly number[];
  /** First pixel and that displaced, rows, columns. */
  readonly cells: readonly number[];
  /** p, q, and from which cell to which, down and across. */
  readonly pairs: readonly number[];
  /** Pixels multiplied in one image. */
  readonly pixels: number;
}

function tablesOf({ rows, columns, down, across }: Plan): Tables {
  const [displacements, cells, pairs]: [number[], number[], number[]] = [[], [], []];
  const width = columns.length;
  let pixels = 0;
  // From p to the same or a later q only: the blocks below the diagonal are transposes.
  const visit = (vertical: readonly Way[], horizontal: readonly Way[], square: boolean): void => {
    for (const v of vertical) {
      for (const h of horizontal) {
        const count = v.pairs.length * h.pairs.length;
        displacements.push(cells.length / 4, v.segments.length, h.segments.length, square ? 1 : 0, pairs.length / 6, count);
        for (const r of v.segments) {
          for (const c of h.segments) {
            const first = r.start * width + c.start;
            cells.push(first, first + v.shift * width + h.shift, r.length, c.length);
            pixels += r.length * c.length;
          }
        }
        for (const a of v.pairs) {
          for (const b of h.pairs) {
            pairs.push(a.p * columns.kernel + b.p, a.q * columns.kernel + b.q, a.first, a.end, b.first, b.end);
          }
        }
      }
    }
  };
  visit(down.same, across.same, true);
  visit(down.same, across.later, false);
  for (const ways of [across.same, across.later, across.earlier]) visit(down.later, ways, false);
  return { displacements, cells, pairs, pixels };
}

const names = {
  float32: { pack: "packPixels_f32", multiply: "multiplyDisplaced_f32", assemble: "assembleBlocks_f32" },
  float64: { pack: "packPixels_f64", multiply: "multiplyDisplaced_f64", assemble: "assembleBlocks_f64" },
} as const;

/** Packed images that are held at once. */
const BATCH_BYTES = 8 * 2 ** 20;
/** Images of a batch are summed in so many parts if the sums of all parts take no more than so many bytes. */
const MOST_SLOTS = 8;
const SLOTS_BYTES = 4 * 2 ** 20;
/** Panels of a block of the result. */
const BLOCK = { float32: 8, float64: 16 } as const;

function displacedProducts(
  engine: Engine,
  x: Operand,
  y: Operand,
  plan: Plan,
  rows: Line,
  columns: Line,
  bias: boolean,
  scale: number,
): void {
  const dtype = x.dtype as "float32" | "float64";
  const [n, height, width, imageChannels] = x.shape as [number, number, number, number];
  const { channels } = plan;
  const { displacements, cells, pairs, pixels } = tablesOf(plan);
  const displacementCount = displacements.length / 6;
  const cellCount = cells.length / 4;

  const images = groupSize(n, plan.columns.length);
  const groups = Math.ceil(n / images);
  const panels = Math.ceil(channels / SIDE[dtype]);
  // An odd number of cache lines: the panels of a pixel would otherwise meet in the same place of the cache.
  const lines = plan.rows.length * plan.columns.length * images;
  const panelBytes = 32 * (lines + ((6 - (lines % 4)) % 4));
  const groupBytes = panels * panelBytes;
  const batch = Math.min(groups, Math.max(1, Math.floor(BATCH_BYTES / groupBytes)));

  const blocks = Math.ceil(panels / BLOCK[dtype]);
  const blockPanels = Math.ceil(panels / blocks);
  const slotBytes = cellCount * panels * 32 * (panels * SIDE[dtype] + 1);
  const slots = Math.min(batch, MOST_SLOTS, Math.max(1, Math.floor(SLOTS_BYTES / slotBytes)));
  const slotGroups = Math.ceil(batch / slots);

  const packedBytes = Math.ceil((batch * groupBytes) / 64) * 64;
  const words = displacements.length + cells.length + pairs.length;
  engine.temporary(packedBytes + slots * slotBytes + 4 * words, "patchCovariance", (packed) => {
    const sums = packed + packedBytes;
    const displacementTable = sums + slots * slotBytes;
    const cellTable = displacementTable + 4 * displacements.length;
    const pairTable = cellTable + 4 * cells.length;
    const table = engine.view("int32", displacementTable, words);
    table.set(displacements);
    table.set(cells, displacements.length);
    table.set(pairs, displacements.length + cells.length);

    const { pack, multiply, assemble } = names[dtype];
    const [v, h] = [plan.foldDown, plan.foldAcross];
    for (let first = 0; first < groups; first += batch) {
      const here = Math.min(batch, groups - first);
      const last = first + here === groups ? n - (groups - 1) * images : images;
      const from = x.pointer + first * images * height * width * imageChannels * bytesPerElement[dtype];
      const packCost = plan.columns.length * images * (panels * PACKING + channels / 4);
      // prettier-ignore
      engine.run(
        pack, here * plan.rows.length, packCost, from, height, width, imageChannels, plan.rows.length, plan.columns.length,
        v ? rows.kernel : 1, h ? columns.kernel : 1, v ? rows.stride : 1, h ? columns.stride : 1, rows.dilation, columns.dilation,
        v ? rows.before : 0, h ? columns.before : 0, plan.rows.stride, plan.columns.stride, here, images, last, panelBytes, groupBytes, packed,
      );
      const items = slots * displacementCount * blocks * blocks;
      const cost = (pixels / displacementCount) * slotGroups * images * blockPanels * blockPanels * PRODUCT[dtype];
      // prettier-ignore
      engine.run(
        multiply, items, cost, packed, channels, plan.columns.length, here, slotGroups, images, last, panelBytes, groupBytes,
        displacementCount, cellCount, displacementTable, cellTable, blocks, blockPanels, sums, slotBytes, first === 0 ? 1 : 0, bias ? 1 : 0,
      );
    }
    const size = y.shape[0] as number;
    const blockCost = (size * size) / displacementCount / blocks / blocks;
    // prettier-ignore
    engine.run(
      assemble, displacementCount * blocks * blocks, blockCost, channels, slots, displacementCount, cellCount, displacementTable, pairTable,
      blocks, blockPanels, sums, slotBytes, y.pointer, size, scale, bias ? 1 : 0,
    );
  });
}

function lineOf(direction: 0 | 1, x: Operand, { kernel, stride, dilation, padding }: WindowGeometry, stops: number): Line {
  const before = direction === 0 ? padding.top : padding.left;
  return {
    length: x.shape[direction + 1] as number,
    kernel: kernel[direction],
    stride: stride[direction],
    dilation: dilation[direction],
    before,
    stops,
  };
}

export const covariance: Kernels<"patchCovariance"> = {
  patchCovariance: (engine, [x], { bias, scale, ...geometry }, [y]) => {
    const [n, height, width, channels] = x.shape as [number, number, number, number];
    const [down, across] = windowOutput("patchCovariance", [height, width], geometry);
    if (x.size === 0) engine.view(y.dtype, y.pointer, y.size).fill(0);
    else {
      const [rows, columns] = [lineOf(0, x, geometry, down), lineOf(1, x, geometry, across)];
      const plan = choosePlan(rows, columns, channels, x.dtype as "float32" | "float64", n);
      displacedProducts(engine, x, y, plan, rows, columns, bias, scale);
    }
    if (bias) engine.view(y.dtype, y.pointer + (y.size - 1) * bytesPerElement[y.dtype], 1)[0] = scale * n * down * across;
  },
};
