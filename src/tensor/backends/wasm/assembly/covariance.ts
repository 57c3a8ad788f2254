import { A, A2, ALPHA, B, B2, BETA, transformInput, ZERO } from "./points";
import { scratch } from "./scratch";
import { columns, ROWS } from "./tile";
import { lanes, madd, transposeSquare } from "./vector";

/*
 * Sums of products of displaced pixels, Σ_u x_u x_{u+d}ᵀ. The host (covariance.ts beside this folder) says which.
 *
 * Pixels are packed by groups of images, as panel[panel][pixel][image][2 vectors]: a panel is a few channels, and for each of
 * them the numbers of a rectangle of pixels, over all images of the group, lie in one run a row. Both factors of a product are
 * read from the same panels, the second from where the displacement leads.
 *
 * A product is summed over rectangles ("cells") apart from each other, each with sums of its own:
 * sums[cell][panel of x_u][panel of x_{u+d}], blocks of a panel's channels squared, followed by the sums of x_u alone [cell][panel].
 *
 * For pairs of rows a0, a1 and the rows b0 … b5 from two before them to two after them, the five sums
 *
 *     C_m = Σ a0 b_mᵀ + a1 b_{m+1}ᵀ    m = 0 … 4, displacements by m − 2 rows
 *
 * are those of a product of polynomials by the transposition principle, and come from the six P(p) = Σ L(p) R(p)ᵀ at the points p of
 * points.ts, with R = Bᵀ b, which is there, and
 *
 *     L(p) = a0 + p a1    L(∞) = a1
 *     C_m  = Σ_p p^m w(p) P(p), and P(∞) added to C_4    w(0) = 1 / a²b², w(±a) = α, w(±b) = β
 *
 * The factors L and R of all tiles are rows beside those of the image: what is summed is one product more of displaced pixels for each.
 */

/** Bytes of a panel for each k. */
const LINE: usize = 32;
/** Depth of a register tile's running sum; a panel of this depth stays in the first-level cache. */
const DEPTH: i32 = 256;

/** Bytes of the product of two panels. */
function blockBytes<T>(): usize {
  return <usize>columns<T>() * LINE;
}

/**
 * C[4][2 vectors] += Σ_k a[k][0 … 3] · b[k][2 vectors], over `runs` runs of `run` bytes with gaps in between. It is
 * `packedTile`, apart because both operands have lines of 32 bytes and a rectangle of pixels is several runs.
 */
function addTile<T>(a: usize, aGap: usize, b: usize, bGap: usize, runs: i32, run: usize, c: usize): void {
  let c00 = v128.splat<T>(<T>0);
  let c01 = c00;
  let c10 = c00;
  let c11 = c00;
  let c20 = c00;
  let c21 = c00;
  let c30 = c00;
  let c31 = c00;
  for (; runs > 0; runs--) {
    const end = b + run;
    while (b < end) {
      const b0 = v128.load(b);
      const b1 = v128.load(b, 16);
      let x = v128.load_splat<T>(a);
      c00 = madd<T>(x, b0, c00);
      c01 = madd<T>(x, b1, c01);
      x = v128.load_splat<T>(a, sizeof<T>());
      c10 = madd<T>(x, b0, c10);
      c11 = madd<T>(x, b1, c11);
      x = v128.load_splat<T>(a, 2 * sizeof<T>());
      c20 = madd<T>(x, b0, c20);
      c21 = madd<T>(x, b1, c21);
      x = v128.load_splat<T>(a, 3 * sizeof<T>());
      c30 = madd<T>(x, b0, c30);
      c31 = madd<T>(x, b1, c31);
      a += LINE;
      b += LINE;
    }
    a += aGap;
    b += bGap;
  }
  v128.store(c, v128.add<T>(v128.load(c), c00));
  v128.store(c, v128.add<T>(v128.load(c, 16), c01), 16);
  v128.store(c, v128.add<T>(v128.load(c, 32), c10), 32);
  v128.store(c, v128.add<T>(v128.load(c, 48), c11), 48);
  v128.store(c, v128.add<T>(v128.load(c, 64), c20), 64);
  v128.store(c, v128.add<T>(v128.load(c, 80), c21), 80);
  v128.store(c, v128.add<T>(v128.load(c, 96), c30), 96);
  v128.store(c, v128.add<T>(v128.load(c, 112), c31), 112);
}

/** c[2 vectors] += Σ_k a[k][2 vectors], over runs as in `addTile`. */
function addLines<T>(a: usize, runs: i32, run: usize, gap: usize, c: usize): void {
  let c0 = v128.splat<T>(<T>0);
  let c1 = c0;
  for (; runs > 0; runs--) {
    const end = a + run;
    while (a < end) {
      c0 = v128.add<T>(c0, v128.load(a));
      c1 = v128.add<T>(c1, v128.load(a, 16));
      a += LINE;
    }
    a += gap;
  }
  v128.store(c, v128.add<T>(v128.load(c), c0));
  v128.store(c, v128.add<T>(v128.load(c, 16), c1), 16);
}

/**
 * Packs rows of pixels; item = group · rows + row.
 *
 * A packed image has `rows` × `width` pixels of `foldHeight · foldWidth · channels` numbers. Pixel (r, w) holds, for all (i, j),
 * the pixel (r · stepDown + i · dilationDown − top, w · stepAcross + j · dilationAcross − left) of the image, or zeros.
 * Rows are ordered by r mod phasesDown and columns by w mod phasesAcross first: what a window sees as it strides is one rectangle.
 *
 * @param x the first image
 * @param lastImages images of the last group; all others have `images`
 */
function packPixels<T>(
  start: i32,
  end: i32,
  x: usize,
  height: i32,
  width: i32,
  channels: i32,
  rows: i32,
  across: i32,
  foldHeight: i32,
  foldWidth: i32,
  stepDown: i32,
  stepAcross: i32,
  dilationDown: i32,
  dilationAcross: i32,
  top: i32,
  left: i32,
  phasesDown: i32,
  phasesAcross: i32,
  groups: i32,
  images: i32,
  lastImages: i32,
  panelBytes: usize,
  groupBytes: usize,
  to: usize,
): void {
  const pixelBytes = <usize>channels * sizeof<T>();
  const imageBytes = <usize>height * <usize>width * pixelBytes;
  const wholeRows = foldHeight * foldWidth * stepDown * stepAcross == 1 && left == 0 && across == width;
  const depth = foldHeight * foldWidth * channels;
  const whole = depth / columns<T>();
  const rest = depth % columns<T>();
  for (let item = start; item < end; item++) {
    const group = item / rows;
    const row = item % rows;
    const count = group == groups - 1 ? lastImages : images;
    const first = x + <usize>group * <usize>images * imageBytes;
    const asItIs = wholeRows && row >= top && row < height + top;
    // Rows of the phases before that of this row come first.
    const phase = row % phasesDown;
    let place = row / phasesDown;
    for (let r = 0; r < phase; r++) place += (rows - r + phasesDown - 1) / phasesDown;
    let line = to + <usize>group * groupBytes + <usize>place * <usize>across * <usize>count * LINE;
    for (let p = 0; p < phasesAcross; p++) {
      for (let w = p; w < across; w += phasesAcross) {
        for (let i = 0; i < count; i++, line += LINE) {
          const image = first + <usize>i * imageBytes;
          let from = scratch;
          if (asItIs) from = image + (<usize>(row - top) * <usize>width + <usize>w) * pixelBytes;
          else {
            let at = scratch;
            for (let a = 0; a < foldHeight; a++) {
              const h = row * stepDown + a * dilationDown - top;
              for (let b = 0; b < foldWidth; b++) {
                const v = w * stepAcross + b * dilationAcross - left;
                if (h >= 0 && h < height && v >= 0 && v < width) {
                  const pixel = image + (<usize>h * <usize>width + <usize>v) * pixelBytes;
                  for (let c: usize = 0; c < pixelBytes; c += sizeof<T>()) store<T>(at + c, load<T>(pixel + c));
                } else {
                  for (let c: usize = 0; c < pixelBytes; c += sizeof<T>()) store<T>(at + c, <T>0);
                }
                at += pixelBytes;
              }
            }
          }
          let at = line;
          for (let q = 0; q < whole; q++) {
            v128.store(at, v128.load(from));
            v128.store(at, v128.load(from, 16), 16);
            from += LINE;
            at += panelBytes;
          }
          if (rest > 0) {
            v128.store(at, v128.splat<T>(<T>0));
            v128.store(at, v128.splat<T>(<T>0), 16);
            for (let c = 0; c < rest; c++) {
              store<T>(at, load<T>(from));
              from += sizeof<T>();
              at += sizeof<T>();
            }
          }
        }
      }
    }
  }
}

/**
 * The factors L and R of tiles of two rows, of packed images with two rows of zeros before and after all tiles; item = group · tiles + tile.
 * They follow these rows: L(a), L(−a), L(b), L(−b), then R at all points, `tiles` rows each; L(0) and L(∞) are rows of the image. A pixel is
 * left free behind each, so that the factors of a tile do not all meet in the same places of the cache.
 *
 * @param across pixels of a row
 */
export function factorTiles_f32(
  start: i32,
  end: i32,
  tiles: i32,
  across: i32,
  panels: i32,
  groups: i32,
  images: i32,
  lastImages: i32,
  panelBytes: usize,
  groupBytes: usize,
  packed: usize,
): void {
  const a = f32x4.splat(A);
  const b = f32x4.splat(B);
  for (let item = start; item < end; item++) {
    const group = item / tiles;
    const tile = item % tiles;
    const pixel = <usize>(group == groups - 1 ? lastImages : images) * LINE;
    const row = <usize>across * pixel;
    const step = <usize>tiles * row + pixel;
    for (let panel = 0; panel < panels; panel++) {
      const rows = packed + <usize>group * groupBytes + <usize>panel * panelBytes;
      let from = rows + <usize>(2 * tile) * row;
      let to = rows + <usize>(2 * tiles + 4 + tile) * row;
      for (const stop = from + row; from < stop; from += 16, to += 16) {
        const a0 = v128.load(from + 2 * row);
        const a1 = v128.load(from + 3 * row);
        const a1a = f32x4.mul(a, a1);
        const a1b = f32x4.mul(b, a1);
        v128.store(to, f32x4.add(a0, a1a));
        v128.store(to + step, f32x4.sub(a0, a1a));
        v128.store(to + 2 * step, f32x4.add(a0, a1b));
        v128.store(to + 3 * step, f32x4.sub(a0, a1b));
        transformInput(from, row, to + 4 * step, step);
      }
    }
  }
}

/** Words of the host's tables. A displacement: its first cell, cells down and across, 1 if zero, its first pair, pairs. */
const DISPLACEMENT_BYTES: usize = 24;
/** A cell: its first pixel, that displaced, rows, columns, and rows from one to the next of the first pixel's. */
const CELL_BYTES: usize = 20;
/** A pair of window positions: p, q, and the cells that it sums: from and to, down and across. */
const PAIR_BYTES: usize = 24;
/**
 * A filter: the cell of P(0) and how much further that of P(a) is, and so on; then of the displacements by −2 … 2 rows their first cell,
 * how many cells they have, as far apart, and which one is interpolated.
 */
const FILTER_BYTES: usize = 68;

/**
 * Products of displaced pixels; item = ((part · displacements + displacement) · blocks + block of rows) · blocks + block of columns.
 * A part has `partGroups` groups of images, and sums of its own.
 *
 * @param channels of a packed pixel
 * @param across pixels of a row
 * @param blocks blocks of `blockPanels` panels each
 * @param fresh the sums start from zero
 * @param ones also sum x_u alone where the displacement is zero
 */
function multiplyDisplaced<T>(
  start: i32,
  end: i32,
  packed: usize,
  channels: i32,
  across: i32,
  groups: i32,
  partGroups: i32,
  images: i32,
  lastImages: i32,
  panelBytes: usize,
  groupBytes: usize,
  displacements: i32,
  cells: i32,
  displacementTable: usize,
  cellTable: usize,
  blocks: i32,
  blockPanels: i32,
  sums: usize,
  partBytes: usize,
  fresh: bool,
  ones: bool,
): void {
  const side = columns<T>();
  const panels = (channels + side - 1) / side;
  const cellBytes = <usize>panels * <usize>panels * blockBytes<T>();
  for (let item = start; item < end; item++) {
    const blockJ = item % blocks;
    const blockI = (item / blocks) % blocks;
    const part = item / (blocks * blocks * displacements);
    const displacement = displacementTable + <usize>((item / (blocks * blocks)) % displacements) * DISPLACEMENT_BYTES;
    const square = load<i32>(displacement, 12) != 0; // a symmetric product
    if (square && blockJ > blockI) continue;
    const i0 = blockI * blockPanels;
    const i1 = min(panels, i0 + blockPanels);
    const j0 = blockJ * blockPanels;
    const j1 = min(panels, j0 + blockPanels);
    const firstCell = load<i32>(displacement);
    const lastCell = firstCell + load<i32>(displacement, 4) * load<i32>(displacement, 8);
    const sumLines = ones && square && blockI == blockJ;
    for (let cell = firstCell; cell < lastCell; cell++) {
      const own = sums + <usize>part * partBytes;
      const result = own + <usize>cell * cellBytes;
      const lineSums = own + <usize>cells * cellBytes + <usize>cell * <usize>panels * LINE;
      if (fresh) {
        for (let i = i0; i < i1; i++) {
          memory.fill(result + <usize>(i * panels + j0) * blockBytes<T>(), 0, <usize>(j1 - j0) * blockBytes<T>());
        }
        if (sumLines) memory.fill(lineSums + <usize>i0 * LINE, 0, <usize>(i1 - i0) * LINE);
      }
      const entry = cellTable + <usize>cell * CELL_BYTES;
      const rows = load<i32>(entry, 8);
      const width = load<i32>(entry, 12);
      const step = load<i32>(entry, 16);
      for (let group = part * partGroups; group < min(groups, (part + 1) * partGroups); group++) {
        const count = group == groups - 1 ? lastImages : images;
        const pixel = <usize>count * LINE;
        const base = packed + <usize>group * groupBytes;
        // A piece of at most DEPTH (one pixel at least): as many rows as fit, or part of one.
        const pieceWidth = max(1, min(width, DEPTH / count));
        const pieceRows = max(1, min(rows, DEPTH / (pieceWidth * count)));
        for (let r = 0; r < rows; r += pieceRows) {
          for (let w = 0; w < width; w += pieceWidth) {
            const columnsHere = min(pieceWidth, width - w);
            let runs = min(pieceRows, rows - r);
            let run = <usize>columnsHere * pixel;
            const gap = <usize>(across - columnsHere) * pixel;
            const leftGap = <usize>(step * across - columnsHere) * pixel;
            if (leftGap == 0) {
              run *= runs;
              runs = 1;
            }
            const a = base + <usize>(load<i32>(entry) + r * step * across + w) * pixel;
            const b = base + <usize>(load<i32>(entry, 4) + r * across + w) * pixel;
            for (let j = j0; j < j1; j++) {
              const right = b + <usize>j * panelBytes;
              for (let i = square ? max(i0, j) : i0; i < i1; i++) {
                const left = a + <usize>i * panelBytes;
                const to = result + <usize>(i * panels + j) * blockBytes<T>();
                addTile<T>(left, leftGap, right, gap, runs, run, to);
                if (sizeof<T>() == 4 && i * side + ROWS < channels) addTile<T>(left + 16, leftGap, right, gap, runs, run, to + 128);
              }
            }
            if (sumLines) {
              for (let i = i0; i < i1; i++) addLines<T>(a + <usize>i * panelBytes, runs, run, leftGap, lineSums + <usize>i * LINE);
            }
          }
        }
      }
    }
  }
}

/**
 * The cells of displacements by −2 … 2 rows that are left out by `multiplyDisplaced`: what is interpolated, less the other cells of that
 * displacement; item = part · filters + filter.
 */
export function interpolateCells_f32(start: i32, end: i32, filters: i32, filterTable: usize, panels: i32, sums: usize, partBytes: usize): void {
  const cellBytes = <usize>(panels * panels) * blockBytes<f32>();
  for (let item = start; item < end; item++) {
    const own = sums + <usize>(item / filters) * partBytes;
    const filter = filterTable + <usize>(item % filters) * FILTER_BYTES;
    const step = <usize>load<i32>(filter, 4) * cellBytes;
    const products = own + <usize>load<i32>(filter) * cellBytes;
    for (let at: usize = 0; at < cellBytes; at += 16) {
      const p = products + at;
      const pa = v128.load(p + step);
      const minusA = v128.load(p + 2 * step);
      const pb = v128.load(p + 3 * step);
      const minusB = v128.load(p + 4 * step);
      const evenA = f32x4.mul(f32x4.splat(ALPHA), f32x4.add(pa, minusA));
      const oddA = f32x4.mul(f32x4.splat(A * ALPHA), f32x4.sub(pa, minusA));
      const evenB = f32x4.mul(f32x4.splat(BETA), f32x4.add(pb, minusB));
      const oddB = f32x4.mul(f32x4.splat(B * BETA), f32x4.sub(pb, minusB));
      const even = madd<f32>(f32x4.splat(A2), evenA, f32x4.mul(f32x4.splat(B2), evenB));
      const odd = madd<f32>(f32x4.splat(A2), oddA, f32x4.mul(f32x4.splat(B2), oddB));
      const even4 = madd<f32>(f32x4.splat(A2 * A2), evenA, f32x4.mul(f32x4.splat(B2 * B2), evenB));
      install(filter + 8, own + at, step, cellBytes, madd<f32>(f32x4.splat(ZERO), v128.load(p), f32x4.add(evenA, evenB)));
      install(filter + 20, own + at, step, cellBytes, f32x4.add(oddA, oddB));
      install(filter + 32, own + at, step, cellBytes, even);
      install(filter + 44, own + at, step, cellBytes, odd);
      install(filter + 56, own + at, step, cellBytes, f32x4.add(even4, v128.load(p + 5 * step)));
    }
  }
}

/** A vector of a displacement's largest cell: of the sum over all cells, less that of the others. */
@inline
function install(displacement: usize, cells: usize, step: usize, cellBytes: usize, total: v128): void {
  const first = cells + <usize>load<i32>(displacement) * cellBytes;
  const count = load<i32>(displacement, 4);
  if (count == 0) return;
  const largest = load<i32>(displacement, 8);
  for (let i = 0; i < count; i++) if (i != largest) total = f32x4.sub(total, v128.load(first + <usize>i * step));
  v128.store(first + <usize>largest * step, total);
}

/** Adds `bytes` (a multiple of 16) at `from` to those at `to`. */
function addVectors<T>(to: usize, from: usize, bytes: usize): void {
  for (let at: usize = 0; at < bytes; at += 16) v128.store(to + at, v128.add<T>(v128.load(to + at), v128.load(from + at)));
}

/** Writes the first `rows` × `width` of a block with rows of 32 bytes. */
function writeBlock<T>(from: usize, to: usize, pitch: usize, rows: i32, width: i32): void {
  for (let i = 0; i < rows; i++) {
    if (width == columns<T>()) {
      v128.store(to, v128.load(from));
      v128.store(to, v128.load(from, 16), 16);
    } else {
      for (let j: usize = 0; j < <usize>width * sizeof<T>(); j += sizeof<T>()) store<T>(to + j, load<T>(from + j));
    }
    from += LINE;
    to += pitch;
  }
}

/** Transposes a block with rows of 32 bytes. */
function transposeBlock<T>(from: usize, to: usize): void {
  const half = <usize>lanes<T>() * LINE;
  transposeSquare<T>(from, LINE, to, LINE);
  transposeSquare<T>(from + 16, LINE, to + half, LINE);
  transposeSquare<T>(from + half, LINE, to + 16, LINE);
  transposeSquare<T>(from + half + 16, LINE, to + half + 16, LINE);
}

/**
 * The result [size, size] from the sums: block (p, q) of each pair of window positions, and (q, p) as its transpose;
 * item = (displacement · blocks + block of rows) · blocks + block of columns. The sums of the parts are added up on the way.
 */
function assembleBlocks<T>(
  start: i32,
  end: i32,
  channels: i32,
  parts: i32,
  displacements: i32,
  cells: i32,
  displacementTable: usize,
  pairTable: usize,
  blocks: i32,
  blockPanels: i32,
  sums: usize,
  partBytes: usize,
  y: usize,
  size: i32,
  scale: T,
  ones: bool,
): void {
  const side = columns<T>();
  const panels = (channels + side - 1) / side;
  const cellBytes = <usize>panels * <usize>panels * blockBytes<T>();
  const pitch = <usize>size * sizeof<T>();
  const factor = v128.splat<T>(scale);
  const block = scratch;
  const mirrored = scratch + 256;
  for (let item = start; item < end; item++) {
    const blockJ = item % blocks;
    const blockI = (item / blocks) % blocks;
    const displacement = displacementTable + <usize>(item / (blocks * blocks)) * DISPLACEMENT_BYTES;
    const square = load<i32>(displacement, 12) != 0;
    if (square && blockJ > blockI) continue;
    const i0 = blockI * blockPanels;
    const i1 = min(panels, i0 + blockPanels);
    const j0 = blockJ * blockPanels;
    const j1 = min(panels, j0 + blockPanels);
    const firstCell = load<i32>(displacement);
    const cellsAcross = load<i32>(displacement, 8);
    const lastCell = firstCell + load<i32>(displacement, 4) * cellsAcross;
    const sumLines = ones && square && blockI == blockJ;
    const firstLine = sums + <usize>cells * cellBytes;
    for (let part = 1; part < parts; part++) {
      for (let cell = firstCell; cell < lastCell; cell++) {
        for (let i = i0; i < i1; i++) {
          const to = sums + <usize>cell * cellBytes + <usize>(i * panels + j0) * blockBytes<T>();
          addVectors<T>(to, to + <usize>part * partBytes, <usize>(j1 - j0) * blockBytes<T>());
        }
        if (sumLines) {
          const to = firstLine + <usize>(cell * panels + i0) * LINE;
          addVectors<T>(to, to + <usize>part * partBytes, <usize>(i1 - i0) * LINE);
        }
      }
    }
    const firstPair = load<i32>(displacement, 16);
    const lastPair = firstPair + load<i32>(displacement, 20);
    for (let pair = firstPair; pair < lastPair; pair++) {
      const entry = pairTable + <usize>pair * PAIR_BYTES;
      const p = load<i32>(entry) * channels;
      const q = load<i32>(entry, 4) * channels;
      const top = load<i32>(entry, 8);
      const bottom = load<i32>(entry, 12);
      const left = load<i32>(entry, 16);
      const right = load<i32>(entry, 20);
      for (let i = i0; i < i1; i++) {
        const rows = min(side, channels - i * side);
        const last = square ? min(j1, i + 1) : j1;
        for (let j = j0; j < last; j++) {
          const from = sums + <usize>firstCell * cellBytes + <usize>(i * panels + j) * blockBytes<T>();
          for (let at: usize = 0; at < blockBytes<T>(); at += 16) {
            let total = v128.splat<T>(<T>0);
            for (let r = top; r < bottom; r++) {
              for (let c = left; c < right; c++) {
                total = v128.add<T>(total, v128.load(from + at + <usize>(r * cellsAcross + c) * cellBytes));
              }
            }
            v128.store(block + at, v128.mul<T>(total, factor));
          }
          const width = min(side, channels - j * side);
          const row = p + i * side;
          const column = q + j * side;
          writeBlock<T>(block, y + <usize>row * pitch + <usize>column * sizeof<T>(), pitch, rows, width);
          transposeBlock<T>(block, mirrored);
          writeBlock<T>(mirrored, y + <usize>column * pitch + <usize>row * sizeof<T>(), pitch, width, rows);
        }
        if (sumLines) {
          for (let e = 0; e < rows; e++) {
            let total: T = <T>0;
            for (let r = top; r < bottom; r++) {
              for (let c = left; c < right; c++) {
                const cell = firstCell + r * cellsAcross + c;
                total += load<T>(firstLine + <usize>(cell * panels + i) * LINE + <usize>e * sizeof<T>());
              }
            }
            total *= scale;
            const row = <usize>(p + i * side + e);
            store<T>(y + row * pitch + <usize>(size - 1) * sizeof<T>(), total);
            store<T>(y + <usize>(size - 1) * pitch + row * sizeof<T>(), total);
          }
        }
      }
    }
  }
}

// export packPixels_T = packPixels<T> for T of f32, f64
// export multiplyDisplaced_T = multiplyDisplaced<T> for T of f32, f64
// export assembleBlocks_T = assembleBlocks<T> for T of f32, f64
