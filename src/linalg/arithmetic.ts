import type { Backend, MatrixBlock, MatrixArithmetic } from "../tensor/index.ts";
import { lowner, secularRoots, unitRows } from "./secular.ts";
import { addScaled, dot } from "./vectors.ts";

/** The definition of `MatrixArithmetic`, by plain loops over any memory. */
export const plainArithmetic: MatrixArithmetic = {
  product(c, a, b, { transposeA = false, transposeB = false, scale = 1, add = false, lower = false } = {}) {
    const depth = transposeA ? a.rows : a.columns;
    const [rowStep, columnStep] = transposeA ? [1, a.stride] : [a.stride, 1];
    for (let i = 0; i < c.rows; i++) {
      const row = c.at + i * c.stride;
      const columns = lower ? Math.min(c.columns, i + 1) : c.columns;
      if (!add) c.data.fill(0, row, row + columns);
      if (transposeB && !transposeA) {
        // Rows of both operands, which are contiguous.
        for (let j = 0; j < columns; j++) c.data[row + j]! += scale * dot(a.data, a.at + i * a.stride, b.data, b.at + j * b.stride, depth);
        continue;
      }
      for (let k = 0; k < depth; k++) {
        const factor = scale * a.data[a.at + i * rowStep + k * columnStep]!;
        if (!transposeB) addScaled(c.data, row, factor, b.data, b.at + k * b.stride, columns);
        else for (let j = 0; j < columns; j++) c.data[row + j]! += factor * b.data[b.at + j * b.stride + k]!;
      }
    }
  },
  reflectRows(x, y, t, { transposeT = false } = {}) {
    const room = (): MatrixBlock => rowMajor(new Float64Array(x.rows * y.rows), x.rows, y.rows);
    const [p, q] = [room(), room()];
    plainArithmetic.product(p, x, y, { transposeB: true });
    plainArithmetic.product(q, p, t, { transposeB: transposeT });
    plainArithmetic.product(x, q, y, { scale: -1, add: true });
  },
  timesVector(y, a, x) {
    for (let i = 0; i < a.rows; i++) y.data[y.at + i] = dot(a.data, a.at + i * a.stride, x.data, x.at, a.columns);
  },
  addRows(y, x, a, scale) {
    for (let i = 0; i < a.rows; i++) addScaled(y.data, y.at, scale * x.data[x.at + i]!, a.data, a.at + i * a.stride, a.columns);
  },
  symmetricTimesVector(y, a, x) {
    for (let i = 0; i < a.rows; i++) {
      const row = a.at + i * a.stride;
      const own = x.data[x.at + i]!;
      y.data[y.at + i] = dot(a.data, row, x.data, x.at, i + 1);
      addScaled(y.data, y.at, own, a.data, row, i);
    }
  },
  secularRoots,
  lowner,
  unitRows,
};

/** Memory that is handed out piece by piece, with the arithmetic for it. */
export class Workspace {
  readonly arithmetic: MatrixArithmetic;
  readonly #memory: Float64Array;
  #used = 0;

  constructor(memory: Float64Array, arithmetic: MatrixArithmetic) {
    this.#memory = memory;
    this.arithmetic = arithmetic;
  }

  /** A matrix whose elements are not defined yet. @param stride numbers from one row to the next. */
  matrix(rows: number, columns: number, stride = columns): MatrixBlock {
    const at = this.#used;
    this.#used += rows * stride;
    if (this.#used > this.#memory.length) throw new RangeError(`a workspace of ${this.#memory.length} numbers is too small`);
    return { data: this.#memory, at, rows, columns, stride };
  }

  /** A matrix that is walked along its columns too. */
  spread(rows: number, columns: number): MatrixBlock {
    return this.matrix(rows, columns, spreadStride(columns));
  }
}

/** Numbers of a `spread` matrix. */
export const spreadSize = (rows: number, columns: number): number => rows * spreadStride(columns);

/** Rows a power of two apart would share a few lines of the caches: then they are a cache line further apart. */
function spreadStride(columns: number): number {
  return columns % 128 === 0 ? columns + 8 : columns;
}

/** Computes in `size` numbers of a backend's own memory, or of its host's, by its arithmetic; by plain loops where it has none. */
export function inWorkspace<T>(backend: Backend, size: number, f: (space: Workspace) => T): T {
  const owner = backend.host ?? backend;
  if (owner.workspace) return owner.workspace(size, (memory, arithmetic) => f(new Workspace(memory, arithmetic)));
  return onHost(size, f);
}

/** Computes in `size` numbers of the host's memory by plain loops. */
export function onHost<T>(size: number, f: (space: Workspace) => T): T {
  return f(new Workspace(new Float64Array(size), plainArithmetic));
}

/** A whole row-major matrix. */
export function rowMajor(data: Float64Array, rows: number, columns: number): MatrixBlock {
  return { data, at: 0, rows, columns, stride: columns };
}

/** Side of the squares that are transposed or mirrored one after another, so that rows and columns stay in the cache. */
const SQUARE = 16;

/** Copies `from` to `to`, transposed. */
export function transpose(to: MatrixBlock, from: MatrixBlock): void {
  const { data: source, rows, columns, stride } = from;
  const { data: target } = to;
  for (let i0 = 0; i0 < rows; i0 += SQUARE) {
    const iEnd = Math.min(rows, i0 + SQUARE);
    for (let j0 = 0; j0 < columns; j0 += SQUARE) {
      const jEnd = Math.min(columns, j0 + SQUARE);
      for (let j = j0; j < jEnd; j++) {
        const row = to.at + j * to.stride;
        for (let i = i0, at = from.at + i0 * stride + j; i < iEnd; i++, at += stride) target[row + i] = source[at]!;
      }
    }
  }
}

/** Copies what is below the diagonal of a row-major [n, n] matrix over what is above it. */
export function mirror(a: Float64Array, n: number): void {
  for (let i0 = 0; i0 < n; i0 += SQUARE) {
    const iEnd = Math.min(n, i0 + SQUARE);
    for (let j0 = 0; j0 <= i0; j0 += SQUARE) {
      for (let j = j0; j < j0 + SQUARE; j++) {
        for (let i = Math.max(i0, j + 1); i < iEnd; i++) a[j * n + i] = a[i * n + j]!;
      }
    }
  }
}

/** Rows `[row, row + rows)` and columns `[column, column + columns)` of a block. */
export function part(a: MatrixBlock, row: number, column: number, rows: number, columns: number): MatrixBlock {
  return { data: a.data, at: a.at + row * a.stride + column, rows, columns, stride: a.stride };
}
