import type { MatrixBlock, MatrixArithmetic, VectorBlock } from "../../matrices.ts";
import type { Engine } from "./engine.ts";
import { gemm, pack, packedBytes, transposed, type Matrix } from "./product.ts";

/** Rows of an item of `symmetricTimesVector`, and columns of one of `addRows` and `lowner`; as in assembly/matvec.ts and secular.ts. */
const [ROWS, COLUMNS] = [64, 64];
/** Nanoseconds for an entry of a matrix that is read once. */
const READ = 0.25;
/**
 * Rows of X that `reflectRows` takes through its three products one after another, so that they stay in the second-level cache; fewer
 * for so many reflections that what is between the products would not fit into a thread's scratch memory.
 */
const REFLECTED = 32;
/** Multiply-adds in a nanosecond. */
const MADDS = 10;
/** Nanoseconds for a division, and passes over the poles for a root. */
const [DIVIDE, PASSES] = [1, 5];

/** Memory of the engine as an array, for the duration of `f`. */
export function workspace<T>(engine: Engine, size: number, f: (memory: Float64Array, arithmetic: MatrixArithmetic) => T): T {
  return engine.temporary(8 * size, "workspace", (pointer) => {
    // A memory that is not shared moves when it grows: then it has to have what the arithmetic needs besides. Packed operands are at most
    // four times as large, for a single column.
    if (!engine.features.sharedMemory) engine.temporary(32 * size + 2 ** 20, "workspace", () => undefined);
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
    reflectRows(x, y, t, { transposeT = false } = {}) {
      const [{ rows: m, columns: n }, { rows: count }] = [x, y];
      if (m === 0 || n === 0 || count === 0) return;
      const [tall, small, wide] = [
        [n, count],
        [count, count],
        [count, n],
      ] as const;
      const [tallBytes, smallBytes, wideBytes] = [
        packedBytes("float64", tall),
        packedBytes("float64", small),
        packedBytes("float64", wide),
      ];
      engine.temporary(tallBytes + smallBytes + wideBytes + 12, "workspace", (yColumns) => {
        const [turn, yRows] = [yColumns + tallBytes, yColumns + tallBytes + smallBytes];
        const table = yRows + wideBytes;
        pack(engine, "float64", transposed(matrixOf(y)), tall, yColumns);
        pack(engine, "float64", transposeT ? transposed(matrixOf(t)) : matrixOf(t), small, turn, -1);
        pack(engine, "float64", matrixOf(y), wide, yRows);
        engine.view("int32", table, 3).fill(0);
        const rows = Math.min(REFLECTED, 4 * Math.floor(2 ** 15 / count));
        const cost = (rows * count * (2 * n + count)) / MADDS;
        // prettier-ignore
        engine.run("reflectRows_f64", Math.ceil(m / rows), cost, pointerOf(x), 8 * x.stride, m, n, count, yColumns, turn, yRows, rows, table);
      });
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
    secularRoots(roots, differences, { size, squared, d, weights }) {
      let total = 0;
      for (let i = 0; i < size; i++) total += weights.data[weights.at + i] as number;
      const [cost, pitch] = [PASSES * DIVIDE * size, 8 * differences.stride];
      // prettier-ignore
      engine.run(
        "secularRoots_f64", size, cost,
        pointerOf(d), squared ? 1 : 0, pointerOf(weights), total, size, pointerOf(differences), pitch, pointerOf(roots),
      );
    },
    lowner(z, differences, { size, squared, d }) {
      const [cost, pitch] = [COLUMNS * size * DIVIDE, 8 * differences.stride];
      const items = Math.ceil(size / COLUMNS);
      engine.run("lowner_f64", items, cost, pointerOf(d), squared ? 1 : 0, size, pointerOf(differences), pitch, pointerOf(z));
    },
    unitRows(x, differences, numerators, order, first = NaN) {
      const k = x.columns;
      const [to, from] = [pointerOf(x), pointerOf(differences)];
      // prettier-ignore
      engine.run(
        "unitRows_f64", x.rows, k * DIVIDE,
        to, 8 * x.stride, from, 8 * differences.stride, k, pointerOf(numerators), pointerOf(order), first,
      );
    },
  };
}
