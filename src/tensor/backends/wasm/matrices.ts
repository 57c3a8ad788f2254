import type { MatrixBlock, MatrixArithmetic, VectorBlock } from "../../matrices.ts";
import type { Engine } from "./engine.ts";
import { roundUp } from "./kernel.ts";
import { gemm, transposed, type Matrix } from "./product.ts";

/** Rows of an item of `symmetricTimesVector`, and columns of one of `addRows`; as in assembly/matvec.ts. */
const [ROWS, COLUMNS] = [64, 64];
/** Nanoseconds for an entry of a matrix that is read once. */
const READ = 0.25;

/** Memory of the engine as an array, for the duration of `f`. */
export function workspace<T>(engine: Engine, size: number, f: (memory: Float64Array, arithmetic: MatrixArithmetic) => T): T {
  // What the arithmetic needs besides, so that the memory does not grow meanwhile: a memory that is not shared moves when it grows.
  const besides = 8 * roundUp(size, 64) + 2 ** 20;
  return engine.temporary(8 * size, "workspace", (pointer) => {
    engine.temporary(besides, "workspace", () => undefined);
    return f(engine.view("float64", pointer, size) as Float64Array, arithmeticOf(engine));
  });
}

const pointerOf = ({ data, at }: VectorBlock): number => data.byteOffset + 8 * at;
const matrixOf = (block: MatrixBlock): Matrix => ({ pointer: pointerOf(block), rowStride: 8 * block.stride, columnStride: 8 });

function arithmeticOf(engine: Engine): MatrixArithmetic {
  return {
    product(c, a, b, { transposeA = false, transposeB = false, scale = 1, add = false, lower = false } = {}) {
      const [left, right] = [transposeA ? transposed(matrixOf(a)) : matrixOf(a), transposeB ? transposed(matrixOf(b)) : matrixOf(b)];
      const depth = transposeA ? a.rows : a.columns;
      gemm(engine, "float64", [c.rows, c.columns, depth], left, right, pointerOf(c), { scale, add, lower, pitch: 8 * c.stride });
    },
    timesVector(y, a, x) {
      engine.run("timesVector_f64", a.rows, a.columns * READ, pointerOf(a), 8 * a.stride, a.columns, pointerOf(x), pointerOf(y));
    },
    addRows(y, x, a, scale) {
      const cost = Math.min(COLUMNS, a.columns) * a.rows * READ;
      const items = Math.ceil(a.columns / COLUMNS);
      engine.run("addRows_f64", items, cost, pointerOf(a), 8 * a.stride, a.rows, a.columns, pointerOf(x), scale, pointerOf(y));
    },
    symmetricTimesVector(y, a, x) {
      const n = a.rows;
      const blocks = Math.ceil(n / ROWS);
      engine.temporary(blocks * n * 8, "workspace", (partials) => {
        const cost = (ROWS * n * READ) / 2;
        engine.run("symmetricTimesVector_f64", blocks, cost, pointerOf(a), 8 * a.stride, n, pointerOf(x), partials);
        engine.run("addPartials_f64", Math.ceil(n / COLUMNS), (COLUMNS * blocks) / 2, partials, n, pointerOf(y));
      });
    },
  };
}
