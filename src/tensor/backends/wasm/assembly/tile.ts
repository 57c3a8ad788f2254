import { lanes, madd } from "./vector";

/** Rows of a register tile. */
export const ROWS: i32 = 4;

/** Bytes of a panel that the inner loop takes in one go: V8 unrolls only loops that stand in another one. */
const PIECE: usize = 64 * 32;

/** Columns of a register tile: two vectors, 8 float32 or 4 float64. */
export function columns<T>(): i32 {
  return 2 * lanes<T>();
}

/**
 * The innermost loop of every product: C[4][2 vectors] = or += Σ_k a_i[k] · b[k][2 vectors], where `a0 … a3` point to four rows of
 * `depth` consecutive elements, `b` to a packed panel, and `pitch` is the distance of C's rows in bytes.
 *
 * The sum starts at zero and is added to C in the end: sums over many blocks are then blocked sums, whose rounding errors grow
 * with the depth of a block and the number of blocks instead of their product.
 *
 * Eight accumulators and two rows of B stay in registers. It is not unrolled here: V8 then loads too far ahead and spills
 * (half the speed); and rows of A are read where they lie, which costs no more than packing them.
 */
export function tile<T>(a0: usize, a1: usize, a2: usize, a3: usize, b: usize, depth: i32, c: usize, pitch: usize, accumulate: bool): void {
  let c00 = v128.splat<T>(<T>0);
  let c01 = c00;
  let c10 = c00;
  let c11 = c00;
  let c20 = c00;
  let c21 = c00;
  let c30 = c00;
  let c31 = c00;
  const end = b + <usize>depth * 32;
  while (b < end) {
    const stop = min(end, b + PIECE);
    while (b < stop) {
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
  }
  if (accumulate) {
    c00 = v128.add<T>(v128.load(c), c00);
    c01 = v128.add<T>(v128.load(c, 16), c01);
    c10 = v128.add<T>(v128.load(c + pitch), c10);
    c11 = v128.add<T>(v128.load(c + pitch, 16), c11);
    c20 = v128.add<T>(v128.load(c + 2 * pitch), c20);
    c21 = v128.add<T>(v128.load(c + 2 * pitch, 16), c21);
    c30 = v128.add<T>(v128.load(c + 3 * pitch), c30);
    c31 = v128.add<T>(v128.load(c + 3 * pitch, 16), c31);
  }
  v128.store(c, c00);
  v128.store(c, c01, 16);
  c += pitch;
  v128.store(c, c10);
  v128.store(c, c11, 16);
  c += pitch;
  v128.store(c, c20);
  v128.store(c, c21, 16);
  c += pitch;
  v128.store(c, c30);
  v128.store(c, c31, 16);
}

/** The same with A packed as [depth][4]: `a` points to four elements for each k. For operands that are read transposed. */
export function packedTile<T>(a: usize, b: usize, depth: i32, c: usize, pitch: usize, accumulate: bool): void {
  let c00 = v128.splat<T>(<T>0);
  let c01 = c00;
  let c10 = c00;
  let c11 = c00;
  let c20 = c00;
  let c21 = c00;
  let c30 = c00;
  let c31 = c00;
  const end = b + <usize>depth * 32;
  while (b < end) {
    const stop = min(end, b + PIECE);
    while (b < stop) {
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
      a += 4 * sizeof<T>();
      b += 32;
    }
  }
  if (accumulate) {
    c00 = v128.add<T>(v128.load(c), c00);
    c01 = v128.add<T>(v128.load(c, 16), c01);
    c10 = v128.add<T>(v128.load(c + pitch), c10);
    c11 = v128.add<T>(v128.load(c + pitch, 16), c11);
    c20 = v128.add<T>(v128.load(c + 2 * pitch), c20);
    c21 = v128.add<T>(v128.load(c + 2 * pitch, 16), c21);
    c30 = v128.add<T>(v128.load(c + 3 * pitch), c30);
    c31 = v128.add<T>(v128.load(c + 3 * pitch, 16), c31);
  }
  v128.store(c, c00);
  v128.store(c, c01, 16);
  c += pitch;
  v128.store(c, c10);
  v128.store(c, c11, 16);
  c += pitch;
  v128.store(c, c20);
  v128.store(c, c21, 16);
  c += pitch;
  v128.store(c, c30);
  v128.store(c, c31, 16);
}

/**
 * Writes the valid part, `rows` × `width`, of a full tile at `from` (rows of 32 bytes) to `c`: for the edges of a matrix, where
 * the panel's missing columns are zeros and missing rows repeat the last one.
 */
export function copyTile<T>(from: usize, c: usize, pitch: usize, rows: i32, width: i32): void {
  for (let i = 0; i < rows; i++) {
    memory.copy(c + <usize>i * pitch, from + <usize>i * 32, <usize>width * sizeof<T>());
  }
}
