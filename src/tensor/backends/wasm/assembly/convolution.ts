import { clearBytes, copyBytes } from "./bytes";
import { ceilDivide, MOST, Plan } from "./convolutionPlan";
import { packTransposed } from "./pack";
import { scratch } from "./scratch";
import { columns } from "./tile";
import { lanes, madd, transposeSquare } from "./vector";

/**
 * Convolutions as products over windows that are never written down. A block of output pixels is computed at a time: the part of
 * the image that its windows cover, with the zeros of the padding, is copied to this thread's scratch, where each window is a few
 * runs of consecutive elements (kernel width × channels of them where there is no dilation). Where there is nothing to pad, the
 * image itself is read. Sums over a window run in pieces of at most `MOST` products, for accuracy and so that the weights of a
 * piece stay in the first-level cache.
 */

/** A block of output pixels that an item computes, and where its windows are; kept in the scratch memory. */
@unmanaged
class Block {
  image: i32;
  images: i32;
  row: i32;
  rows: i32;
  column: i32;
  width: i32;
  pixels: i32;
  /** What the block's windows cover of each image: its first row and column, possibly outside, and its size. */
  sourceRow: i32;
  sourceColumn: i32;
  sourceRows: i32;
  sourceWidth: i32;
  /** The first window's place, and bytes from a pixel, a row and an image there to the next. */
  source: usize;
  pixelBytes: usize;
  rowBytes: usize;
  imageBytes: usize;
}

/** Bytes that the scratch memory has for it. */
const BLOCK: usize = 64;
/** Pixels of a block, at most: the host keeps to it. */
const PIXELS: usize = 512;

/**
 * C[4][2 vectors] = from + Σ a_i · b, for four windows of `count` runs of `depth` elements, `step` bytes from one run's start to
 * the next one's, and a packed panel `b`. It is `tile`, apart because a row of A is several runs: a window of the image.
 */
function tileRuns<T>(
  a0: usize,
  a1: usize,
  a2: usize,
  a3: usize,
  b: usize,
  depth: i32,
  count: i32,
  step: usize,
  from: usize,
  fromPitch: usize,
  c: usize,
  pitch: usize,
): void {
  let c00 = v128.splat<T>(<T>0);
  let c01 = c00;
  let c10 = c00;
  let c11 = c00;
  let c20 = c00;
  let c21 = c00;
  let c30 = c00;
  let c31 = c00;
  const skip = step - <usize>depth * sizeof<T>();
  for (; count > 0; count--) {
    const end = b + <usize>depth * 32;
    while (b < end) {
      const b0 = v128.load(b);
      const b1 = v128.load(b, 16);
      let a = v128.load_splat<T>(a0);
      c00 = madd<T>(a, b0, c00);
      c01 = madd<T>(a, b1, c01);
      a = v128.load_splat<T>(a1);
      c10 = madd<T>(a, b0, c10);
      c11 = madd<T>(a, b1, c11);
      a = v128.load_splat<T>(a2);
      c20 = madd<T>(a, b0, c20);
      c21 = madd<T>(a, b1, c21);
      a = v128.load_splat<T>(a3);
      c30 = madd<T>(a, b0, c30);
      c31 = madd<T>(a, b1, c31);
      a0 += sizeof<T>();
      a1 += sizeof<T>();
      a2 += sizeof<T>();
      a3 += sizeof<T>();
      b += 32;
    }
    a0 += skip;
    a1 += skip;
    a2 += skip;
    a3 += skip;
  }
  v128.store(c, v128.add<T>(v128.load(from), c00));
  v128.store(c, v128.add<T>(v128.load(from, 16), c01), 16);
  c += pitch;
  from += fromPitch;
  v128.store(c, v128.add<T>(v128.load(from), c10));
  v128.store(c, v128.add<T>(v128.load(from, 16), c11), 16);
  c += pitch;
  from += fromPitch;
  v128.store(c, v128.add<T>(v128.load(from), c20));
  v128.store(c, v128.add<T>(v128.load(from, 16), c21), 16);
  c += pitch;
  from += fromPitch;
  v128.store(c, v128.add<T>(v128.load(from), c30));
  v128.store(c, v128.add<T>(v128.load(from, 16), c31), 16);
}

/**
 * The same for the weight's gradient, where the sum runs over pixels: C[4][2 vectors] = or += Σ_p a_p[4] · b_p[2 vectors], with a_p
 * at `a` + the p-th number of `offsets`, b_p `step` bytes apart, and C's rows one after the other. It is `packedTile`, apart because
 * a is not packed: pixels lie where a list says.
 *
 * The loop is cut in two levels because V8 unrolls inner loops of such a size twice, and outer ones not at all.
 */
function tilePixels<T>(a: usize, offsets: usize, b: usize, step: usize, pixels: i32, c: usize, accumulate: bool): void {
  let c00 = v128.splat<T>(<T>0);
  let c01 = c00;
  let c10 = c00;
  let c11 = c00;
  let c20 = c00;
  let c21 = c00;
  let c30 = c00;
  let c31 = c00;
  const end = offsets + <usize>pixels * 4;
  while (offsets < end) {
    const stop = min(end, offsets + 4 * PIXELS);
    while (offsets < stop) {
      const at = a + <usize>load<u32>(offsets);
      const b0 = v128.load(b);
      const b1 = v128.load(b, 16);
      let x = v128.load_splat<T>(at);
      c00 = madd<T>(x, b0, c00);
      c01 = madd<T>(x, b1, c01);
      x = v128.load_splat<T>(at, sizeof<T>());
      c10 = madd<T>(x, b0, c10);
      c11 = madd<T>(x, b1, c11);
      x = v128.load_splat<T>(at, 2 * sizeof<T>());
      c20 = madd<T>(x, b0, c20);
      c21 = madd<T>(x, b1, c21);
      x = v128.load_splat<T>(at, 3 * sizeof<T>());
      c30 = madd<T>(x, b0, c30);
      c31 = madd<T>(x, b1, c31);
      offsets += 4;
      b += step;
    }
  }
  if (accumulate) {
    c00 = v128.add<T>(v128.load(c), c00);
    c01 = v128.add<T>(v128.load(c, 16), c01);
    c10 = v128.add<T>(v128.load(c, 32), c10);
    c11 = v128.add<T>(v128.load(c, 48), c11);
    c20 = v128.add<T>(v128.load(c, 64), c20);
    c21 = v128.add<T>(v128.load(c, 80), c21);
    c30 = v128.add<T>(v128.load(c, 96), c30);
    c31 = v128.add<T>(v128.load(c, 112), c31);
  }
  v128.store(c, c00);
  v128.store(c, c01, 16);
  v128.store(c, c10, 32);
  v128.store(c, c11, 48);
  v128.store(c, c20, 64);
  v128.store(c, c21, 80);
  v128.store(c, c30, 96);
  v128.store(c, c31, 112);
}

// ── moving data ───────────────────────────────────────────────────────────────────────────────────────────────────────────

/**
 * Copies `count` channels from byte address `x` on, which is in a block's first image, of what the block's windows cover to
 * [image][row][column][count], with zeros outside the image.
 */
function copyImages<T>(x: usize, plan: Plan, block: Block, count: i32, to: usize): void {
  const pixel = <usize>count * sizeof<T>();
  const pitch = <usize>plan.channels * sizeof<T>();
  const column0 = block.sourceColumn;
  const width = block.sourceWidth;
  const left = min(max(-column0, 0), width);
  const right = min(max(plan.width - column0, left), width);
  const before = <usize>left * pixel;
  const inside = <usize>(right - left) * pixel;
  const after = <usize>(width - right) * pixel;
  for (let i = 0; i < block.images; i++) {
    for (let row = block.sourceRow; row < block.sourceRow + block.sourceRows; row++) {
      if (row < 0 || row >= plan.height) {
        clearBytes(to, <usize>width * pixel);
        to += <usize>width * pixel;
        continue;
      }
      clearBytes(to, before);
      to += before;
      if (right > left) {
        let from = x + (<usize>(i * plan.height + row) * <usize>plan.width + <usize>(column0 + left)) * pitch;
        if (pixel == pitch) copyBytes(to, from, inside);
        else {
          for (let at = to; at < to + inside; at += pixel, from += pitch) copyBytes(at, from, pixel);
        }
        to += inside;
      }
      clearBytes(to, after);
      to += after;
    }
  }
}

/** The same to [four channels][image][row][column][4], with zeros for channels that are missing in the last four. */
function copyFours<T>(x: usize, plan: Plan, block: Block, count: i32, to: usize): void {
  const four: usize = 4 * sizeof<T>();
  const pitch = <usize>plan.channels * sizeof<T>();
  const column0 = block.sourceColumn;
  const width = block.sourceWidth;
  const plane = <usize>(block.images * block.sourceRows * width) * four;
  const left = min(max(-column0, 0), width);
  const right = min(max(plan.width - column0, left), width);
  for (let i = 0; i < block.images; i++) {
    for (let row = block.sourceRow; row < block.sourceRow + block.sourceRows; row++, to += <usize>width * four) {
      const exists = row >= 0 && row < plan.height && right > left;
      const first = x + (<usize>(i * plan.height + row) * <usize>plan.width + <usize>(column0 + left)) * pitch;
      for (let c = 0; c < count; c += 4) {
        let at = to + <usize>(c >> 2) * plane;
        if (!exists) {
          clearBytes(at, <usize>width * four);
          continue;
        }
        clearBytes(at, <usize>left * four);
        at += <usize>left * four;
        let from = first + <usize>c * sizeof<T>();
        const end = at + <usize>(right - left) * four;
        if (count - c >= 4) {
          for (; at < end; at += four, from += pitch) {
            v128.store(at, v128.load(from));
            if (sizeof<T>() == 8) v128.store(at, v128.load(from, 16), 16);
          }
        } else {
          for (; at < end; at += four, from += pitch) {
            for (let j = 0; j < 4; j++) {
              store<T>(at + <usize>j * sizeof<T>(), j < count - c ? load<T>(from + <usize>j * sizeof<T>()) : <T>0);
            }
          }
        }
        clearBytes(at, <usize>(width - right) * four);
      }
    }
  }
}

/** One row of a panel: `valid` elements, then zeros. */
function packRow<T>(from: usize, valid: i32, to: usize): void {
  if (valid == columns<T>()) {
    v128.store(to, v128.load(from));
    v128.store(to, v128.load(from, 16), 16);
  } else {
    for (let j = 0; j < columns<T>(); j++) {
      store<T>(to + <usize>j * sizeof<T>(), j < valid ? load<T>(from + <usize>j * sizeof<T>()) : <T>0);
    }
  }
}

// ── blocks of pixels ──────────────────────────────────────────────────────────────────────────────────────────────────────

function blockCount(plan: Plan): i32 {
  const inImage = ceilDivide(plan.outHeight, plan.blockRows) * ceilDivide(plan.outWidth, plan.blockColumns);
  return ceilDivide(plan.images, plan.blockImages) * inImage;
}

/** Which pixels the block of this number has, and what their windows cover. */
function locateBlock(plan: Plan, index: i32, block: Block): void {
  const columnBlocks = ceilDivide(plan.outWidth, plan.blockColumns);
  const rowBlocks = ceilDivide(plan.outHeight, plan.blockRows);
  block.image = (index / (rowBlocks * columnBlocks)) * plan.blockImages;
  block.images = min(plan.blockImages, plan.images - block.image);
  block.row = ((index / columnBlocks) % rowBlocks) * plan.blockRows;
  block.rows = min(plan.blockRows, plan.outHeight - block.row);
  block.column = (index % columnBlocks) * plan.blockColumns;
  block.width = min(plan.blockColumns, plan.outWidth - block.column);
  block.pixels = block.images * block.rows * block.width;
  block.sourceRow = block.row * plan.strideHeight - plan.top;
  block.sourceColumn = block.column * plan.strideWidth - plan.left;
  block.sourceRows = (block.rows - 1) * plan.strideHeight + (plan.kernelHeight - 1) * plan.dilationHeight + 1;
  block.sourceWidth = (block.width - 1) * plan.strideWidth + (plan.kernelWidth - 1) * plan.dilationWidth + 1;
}

/** The address of a channel of a block's first image, of images from `x` on. */
function firstImage<T>(plan: Plan, block: Block, x: usize, channel: i32): usize {
  return x + (<usize>(block.image * plan.height) * <usize>(plan.width * plan.channels) + <usize>channel) * sizeof<T>();
}

/** Lists where the windows of a block's pixels start, in bytes from the first one's start. */
function listReads(plan: Plan, block: Block, reads: usize): void {
  for (let i = 0; i < block.images; i++) {
    for (let row = 0; row < block.rows; row++) {
      let from = <usize>i * block.imageBytes + <usize>(row * plan.strideHeight) * block.rowBytes;
      for (let column = 0; column < block.width; column++) {
        store<u32>(reads, <u32>from);
        reads += 4;
        from += <usize>plan.strideWidth * block.pixelBytes;
      }
    }
  }
}

/** Lists where its pixels are in the output, in elements. */
function listWrites(plan: Plan, block: Block, writes: usize): void {
  for (let i = block.image; i < block.image + block.images; i++) {
    for (let row = block.row; row < block.row + block.rows; row++) {
      let to = <usize>(i * plan.toImage) + <usize>(row * plan.toRow) + <usize>(block.column * plan.toPixel);
      for (let column = 0; column < block.width; column++) {
        store<u32>(writes, <u32>to);
        writes += 4;
        to += plan.toPixel;
      }
    }
  }
}

// ── weights ───────────────────────────────────────────────────────────────────────────────────────────────────────────────

/**
 * Packs weights [out, depth] for `convolve`: [group][panel][1 + depth][2 vectors], the first row being the bias, or zeros where
 * `bias` is 0. An item is a panel.
 */
function packWeights<T>(start: i32, end: i32, weight: usize, bias: usize, to: usize, depth: i32, perOut: i32): void {
  const width = columns<T>();
  const panels = ceilDivide(perOut, width);
  const pitch = <usize>depth * sizeof<T>();
  for (let item = start; item < end; item++) {
    const first = (item % panels) * width;
    const channel = <usize>((item / panels) * perOut + first);
    const valid = min(width, perOut - first);
    const panel = to + <usize>item * <usize>(depth + 1) * 32;
    packRow<T>(bias + channel * sizeof<T>(), bias ? valid : 0, panel);
    packTransposed<T>(weight + channel * pitch, pitch, valid, depth, panel + 32);
  }
}

/**
 * Packs weights [out, kernelHeight, kernelWidth, in] for the input's gradient: the panels' columns are the channels in, their rows
 * (kernel row, kernel column, channel out), where only every `stepH`-th kernel row from `firstH` on counts, `rows` of them in
 * descending order, and so for the columns.
 */
function packFlipped<T>(
  start: i32,
  end: i32,
  weight: usize,
  to: usize,
  perOut: i32,
  perIn: i32,
  kernelHeight: i32,
  kernelWidth: i32,
  firstH: i32,
  stepH: i32,
  rows: i32,
  firstW: i32,
  stepW: i32,
  width: i32,
): void {
  const panels = ceilDivide(perIn, columns<T>());
  const depth = rows * width * perOut;
  const pitch = <usize>(kernelHeight * kernelWidth * perIn) * sizeof<T>();
  for (let item = start; item < end; item++) {
    const first = (item % panels) * columns<T>();
    const valid = min(columns<T>(), perIn - first);
    const group = weight + <usize>((item / panels) * perOut) * pitch + <usize>first * sizeof<T>();
    let at = to + <usize>item * <usize>(depth + 1) * 32;
    packRow<T>(0, 0, at);
    at += 32;
    for (let i = rows - 1; i >= 0; i--) {
      for (let j = width - 1; j >= 0; j--) {
        let from = group + <usize>(((firstH + i * stepH) * kernelWidth + firstW + j * stepW) * perIn) * sizeof<T>();
        for (let o = 0; o < perOut; o++, at += 32, from += pitch) packRow<T>(from, valid, at);
      }
    }
  }
}

// ── forward, and the input's gradient ─────────────────────────────────────────────────────────────────────────────────────

/** Finds the windows of a block over a group of the channels: in the images, or in a copy of what they cover, made at `copied`. */
function locateWindows<T>(plan: Plan, block: Block, x: usize, group: i32, copied: usize): void {
  const size: usize = sizeof<T>();
  const source = firstImage<T>(plan, block, x, group * plan.perIn);
  if (plan.inside) {
    block.pixelBytes = <usize>plan.channels * size;
    block.rowBytes = <usize>plan.width * block.pixelBytes;
    block.imageBytes = <usize>plan.height * block.rowBytes;
    block.source = source + <usize>block.sourceRow * block.rowBytes + <usize>block.sourceColumn * block.pixelBytes;
    return;
  }
  copyImages<T>(source, plan, block, plan.perIn, copied);
  block.pixelBytes = <usize>plan.perIn * size;
  block.rowBytes = <usize>block.sourceWidth * block.pixelBytes;
  block.imageBytes = <usize>block.sourceRows * block.rowBytes;
  block.source = copied;
}

/** `tileRuns` for the pixels from `first` to `end`, in fours, whose windows are at `a` + their numbers in `reads`. */
function tilesOfPixels<T>(
  first: i32,
  end: i32,
  reads: usize,
  a: usize,
  b: usize,
  depth: i32,
  count: i32,
  step: usize,
  from: usize,
  fromPitch: usize,
  c: usize,
  pitch: usize,
): void {
  for (let q = first; q < end; q += 4) {
    const offset = reads + 4 * <usize>q;
    tileRuns<T>(
      a + <usize>load<u32>(offset),
      a + <usize>load<u32>(offset, 4),
      a + <usize>load<u32>(offset, 8),
      a + <usize>load<u32>(offset, 12),
      b,
      depth,
      count,
      step,
      from,
      fromPitch,
      c,
      pitch,
    );
    from += 4 * fromPitch;
    c += 4 * pitch;
  }
}

/**
 * Sums over the windows of a block with one packed panel, [pixel][2 vectors] at `sums`; but the last sums of the first `whole`
 * pixels go to `result`, `pitch` bytes apart, where they belong.
 */
function sumWindows<T>(plan: Plan, block: Block, panel: usize, reads: usize, sums: usize, whole: i32, result: usize, pitch: usize): void {
  const size: usize = sizeof<T>();
  const perIn = plan.perIn;
  const pixels = block.pixels;
  // A window is `outer` × `inner` runs of `run` elements; a call takes `per` runs or a piece of one.
  const merged = plan.kernelWidth == 1 || (plan.dilationWidth == 1 && block.pixelBytes == <usize>perIn * size);
  const outer = merged ? 1 : plan.kernelHeight;
  const inner = merged ? plan.kernelHeight : plan.kernelWidth;
  const run = merged ? plan.kernelWidth * perIn : perIn;
  const outerStep = <usize>plan.dilationHeight * block.rowBytes;
  const innerStep = merged ? outerStep : <usize>plan.dilationWidth * block.pixelBytes;
  const per = run > MOST ? 1 : min(inner, MOST / max(run, 1));
  const piece = run > MOST ? ceilDivide(run, ceilDivide(run, MOST)) : run;
  // The first row of the panel is the bias.
  let from = panel;
  let fromPitch: usize = 0;
  let b = panel + 32;
  for (let o = 0; o < outer; o++) {
    for (let i = 0; i < inner; i += per) {
      const runs = min(per, inner - i);
      let k = 0;
      do {
        const length = min(piece, run - k);
        const a = block.source + <usize>o * outerStep + <usize>i * innerStep + <usize>k * size;
        k += length;
        const direct = k >= run && i + per >= inner && o == outer - 1 ? whole : 0;
        tilesOfPixels<T>(0, direct, reads, a, b, length, runs, innerStep, from, fromPitch, result, pitch);
        from += <usize>direct * fromPitch;
        tilesOfPixels<T>(direct, pixels, reads, a, b, length, runs, innerStep, from, fromPitch, sums + <usize>direct * 32, 32);
        b += <usize>(length * runs) * 32;
        from = sums;
        fromPitch = 32;
      } while (k < run);
    }
  }
}

/** Writes the sums of the pixels from `first` to `end` where `writes` says, `valid` columns of them. */
function storeSums<T>(first: i32, end: i32, sums: usize, writes: usize, result: usize, valid: i32): void {
  for (let q = first; q < end; q++) {
    const from = sums + 32 * <usize>q;
    const to = result + <usize>load<u32>(writes + 4 * <usize>q) * sizeof<T>();
    if (valid == columns<T>()) {
      v128.store(to, v128.load(from));
      v128.store(to, v128.load(from, 16), 16);
    } else copyBytes(to, from, <usize>valid * sizeof<T>());
  }
}

/**
 * Convolution with packed weights; an item is a block of output pixels × some panels of output channels. Items count from `first`;
 * `area` is memory for a copy of the images' parts, or 0 for this thread's scratch.
 */
function convolve<T>(start: i32, end: i32, at: usize, x: usize, packed: usize, y: usize, area: usize, first: i32): void {
  const plan = changetype<Plan>(at);
  const depth = plan.kernelHeight * plan.kernelWidth * plan.perIn;
  const panels = ceilDivide(plan.perOut, columns<T>());
  const panelGroups = ceilDivide(panels, plan.panels);
  const blocks = blockCount(plan);
  const contiguous = plan.toRow == plan.outWidth * plan.toPixel && plan.toImage == plan.outHeight * plan.toRow;
  const pitch = <usize>plan.toPixel * sizeof<T>();

  const block = changetype<Block>(scratch);
  const reads = scratch + BLOCK;
  const writes = reads + 4 * PIXELS;
  const sums = writes + 4 * PIXELS;
  const copied = area ? area : sums + 32 * PIXELS;

  for (let item = first + start; item < first + end; item++) {
    const group = item / blocks / panelGroups;
    const panel0 = ((item / blocks) % panelGroups) * plan.panels;
    locateBlock(plan, item % blocks, block);
    locateWindows<T>(plan, block, x, group, copied);
    listReads(plan, block, reads);
    listWrites(plan, block, writes);
    const pixels = block.pixels;
    // Missing pixels of the last four repeat the last one.
    for (let q = pixels; q & 3; q++) store<u32>(reads + 4 * <usize>q, load<u32>(reads + 4 * <usize>(q - 1)));
    for (let p = panel0; p < min(panel0 + plan.panels, panels); p++) {
      const panel = packed + <usize>(group * panels + p) * <usize>(depth + 1) * 32;
      const valid = min(columns<T>(), plan.perOut - p * columns<T>());
      const result = y + <usize>(group * plan.perOut + p * columns<T>()) * sizeof<T>();
      // Whole tiles go where they belong as soon as their sums are complete.
      const whole = valid == columns<T>() && contiguous ? pixels & ~3 : 0;
      sumWindows<T>(plan, block, panel, reads, sums, whole, result + <usize>load<u32>(writes) * sizeof<T>(), pitch);
      storeSums<T>(whole, pixels, sums, writes, result, valid);
    }
  }
}

// ── the weight's gradient ─────────────────────────────────────────────────────────────────────────────────────────────────

/**
 * Partial sums of the weight's gradient as tiles of four elements of a window × a panel of output channels, over one part of the
 * pixels each: [split][group][panel][tile][4][2 vectors]. An item is a split of some channels of a group.
 *
 * The tiles of a group are (four channels, kernel row, kernel column), or (kernel row, four elements of its run of kernel width ×
 * channels) if `merged`, which wastes less where there are fewer than four channels; then all channels are one item's.
 */
function weightPartials<T>(start: i32, end: i32, at: usize, x: usize, gradient: usize, partials: usize, area: usize, first: i32): void {
  const plan = changetype<Plan>(at);
  const size: usize = sizeof<T>();
  const perIn = plan.perIn;
  const perOut = plan.perOut;
  const positions = plan.kernelHeight * plan.kernelWidth;
  const rowTiles = ceilDivide(plan.kernelWidth * perIn, 4);
  const tiles = plan.merged ? plan.kernelHeight * rowTiles : positions * ceilDivide(perIn, 4);
  const panels = ceilDivide(perOut, columns<T>());
  const channelBlocks = ceilDivide(perIn, plan.blockChannels);
  const blocks = blockCount(plan);
  const outBytes = <usize>plan.toPixel * size;
  // Few whole panels are read where they are: a block of them fits into the cache.
  const inPlace = perOut % columns<T>() == 0 && outBytes <= 128;

  const block = changetype<Block>(scratch);
  const reads = scratch + BLOCK;
  const packed = reads + 4 * PIXELS;
  const copied = area ? area : packed + 32 * PIXELS;

  for (let item = first + start; item < first + end; item++) {
    const split = item % plan.splits;
    const group = item / plan.splits / channelBlocks;
    const channel0 = ((item / plan.splits) % channelBlocks) * plan.blockChannels;
    const channels = min(plan.blockChannels, perIn - channel0);
    const tile0 = plan.merged ? 0 : (channel0 >> 2) * positions;
    const tileCount = plan.merged ? tiles : ceilDivide(channels, 4) * positions;
    const block0 = <i32>((<i64>blocks * split) / plan.splits);
    const block1 = <i32>((<i64>blocks * (split + 1)) / plan.splits);
    for (let index = block0; index < block1; index++) {
      locateBlock(plan, index, block);
      const pixels = block.pixels;
      const source = firstImage<T>(plan, block, x, group * perIn + channel0);
      const pixel = <usize>(plan.merged ? perIn : 4) * size;
      const rowBytes = <usize>block.sourceWidth * pixel;
      const plane = <usize>(block.images * block.sourceRows) * rowBytes;
      block.pixelBytes = pixel;
      block.rowBytes = rowBytes;
      block.imageBytes = <usize>block.sourceRows * rowBytes;
      if (plan.merged) copyImages<T>(source, plan, block, channels, copied);
      else copyFours<T>(source, plan, block, channels, copied);
      listReads(plan, block, reads);

      const firstPixel = (block.image * plan.outHeight + block.row) * plan.outWidth + block.column;
      for (let p = 0; p < panels; p++) {
        let b = gradient + <usize>firstPixel * outBytes + <usize>(group * perOut + p * columns<T>()) * size;
        if (!inPlace) {
          const valid = min(columns<T>(), perOut - p * columns<T>());
          for (let q = 0; q < pixels; q++, b += outBytes) packRow<T>(b, valid, packed + 32 * <usize>q);
          b = packed;
        }
        const step = inPlace ? outBytes : 32;
        let c = partials + <usize>(((split * plan.groups + group) * panels + p) * tiles + tile0) * 128;
        if (plan.merged) {
          for (let i = 0; i < plan.kernelHeight; i++) {
            let a = copied + <usize>(i * plan.dilationHeight) * rowBytes;
            for (let t = 0; t < rowTiles; t++, a += 4 * size, c += 128) {
              tilePixels<T>(a, reads, b, step, pixels, c, index > block0);
            }
          }
        } else {
          for (let t = 0; t < tileCount; t += positions) {
            const a = copied + <usize>(t / positions) * plane;
            for (let i = 0; i < plan.kernelHeight; i++) {
              for (let j = 0; j < plan.kernelWidth; j++, c += 128) {
                const offset = <usize>(i * plan.dilationHeight) * rowBytes + <usize>(j * plan.dilationWidth) * pixel;
                tilePixels<T>(a + offset, reads, b, step, pixels, c, index > block0);
              }
            }
          }
        }
      }
    }
  }
}

/**
 * Adds up the splits of `weightPartials` and writes them as weights. An item is what one panel of output channels has for a kernel
 * position, or for a kernel row if `merged`.
 */
function weightSum<T>(start: i32, end: i32, at: usize, partials: usize, weight: usize): void {
  const plan = changetype<Plan>(at);
  const positions = plan.kernelHeight * plan.kernelWidth;
  const lines = plan.merged ? plan.kernelHeight : positions;
  const length = plan.merged ? plan.kernelWidth * plan.perIn : plan.perIn;
  const lineTiles = ceilDivide(length, 4);
  const panels = ceilDivide(plan.perOut, columns<T>());
  const splitBytes = <usize>(plan.groups * panels * lines * lineTiles) * 128;
  const pitch = <usize>(positions * plan.perIn) * sizeof<T>();
  const sum = scratch;
  for (let item = start; item < end; item++) {
    const line = item % lines;
    const panel = item / lines;
    const channel = (panel / panels) * plan.perOut + (panel % panels) * columns<T>();
    const rows = min(columns<T>(), plan.perOut - (panel % panels) * columns<T>());
    for (let t = 0; t < lineTiles; t++) {
      const tile = plan.merged ? line * lineTiles + t : t * lines + line;
      let from = partials + <usize>(panel * lines * lineTiles + tile) * 128;
      for (let i: usize = 0; i < 128; i += 16) v128.store(sum + i, v128.load(from + i));
      for (let split = 1; split < plan.splits; split++) {
        from += splitBytes;
        for (let i: usize = 0; i < 128; i += 16) v128.store(sum + i, v128.add<T>(v128.load(sum + i), v128.load(from + i)));
      }
      const to = weight + <usize>channel * pitch + <usize>(line * length + t * 4) * sizeof<T>();
      const valid = min(4, length - t * 4);
      if (valid == 4 && rows == columns<T>()) {
        for (let half: usize = 0; half < 2; half++) {
          const place = to + half * <usize>lanes<T>() * pitch;
          transposeSquare<T>(sum + 16 * half, 32, place, pitch);
          if (sizeof<T>() == 8) transposeSquare<T>(sum + 64 + 16 * half, 32, place + 16, pitch);
        }
      } else {
        for (let o: usize = 0; o < <usize>rows; o++) {
          for (let i: usize = 0; i < <usize>valid; i++) {
            store<T>(to + o * pitch + i * sizeof<T>(), load<T>(sum + i * 32 + o * sizeof<T>()));
          }
        }
      }
    }
  }
}

// ── exports ───────────────────────────────────────────────────────────────────────────────────────────────────────────────

// export packWeights_T = packWeights<T> for T of f32, f64
// export packFlipped_T = packFlipped<T> for T of f32, f64
// export convolve_T = convolve<T> for T of f32, f64
// export weightPartials_T = weightPartials<T> for T of f32, f64
// export weightSum_T = weightSum<T> for T of f32, f64
