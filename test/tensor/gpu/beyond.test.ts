import { afterAll, beforeAll, describe, expect, test } from "vitest";
import type { WebGpuBackend } from "../../../src/tensor/backends/gpu/index.ts";
import { concat, Tensor, tidy, type TypedArray } from "../../../src/tensor/index.ts";
import { describeOnGpu } from "./gpu.ts";

/*
 * Matrices of more than 2²⁴ numbers, whose places float32 cannot hold: an element has the value that belongs to its place, and not that of a
 * neighbour's. Of 64 MiB each, as software drivers see no more than 128 MiB at once; all of the last elements are looked at, and some of the
 * others.
 */

const [ROWS, COLUMNS] = [4099, 4097];
/** Of the element at a place of the matrix. */
const valueAt = (row: number, column: number): number => (row * 31 + column) % 1013;

async function read(f: () => Tensor): Promise<TypedArray> {
  using y = tidy(f);
  return await y.data();
}

/** @param expected of an element, from its place in a matrix of so many columns. */
function expectSome(actual: TypedArray, columns: number, expected: (row: number, column: number) => number): void {
  expect(actual.length).toBeGreaterThan(2 ** 24);
  for (let i = 0; i < actual.length; i += i < actual.length - 20_000 ? 1009 : 1) {
    const [row, column] = [Math.floor(i / columns), i % columns];
    if (actual[i] !== expected(row, column)) expect([row, column, actual[i]]).toEqual([row, column, expected(row, column)]);
  }
}

describeOnGpu("beyond 2²⁴ elements of a GPU's tensor", (open) => {
  let backend: WebGpuBackend;
  let x: Tensor;
  beforeAll(async () => {
    backend = await open();
    const data = Float32Array.from({ length: ROWS * COLUMNS }, (_, i) => valueAt(Math.floor(i / COLUMNS), i % COLUMNS));
    x = Tensor.from(data, { shape: [ROWS, COLUMNS], backend });
  });
  afterAll(() => {
    x.dispose();
  });

  test("permute", async () => {
    const y = await read(() => x.permute([1, 0]));
    expectSome(y, ROWS, (row, column) => valueAt(column, row));
  });

  test("pad", async () => {
    const y = await read(() => x.pad([1, 0], [0, 2]));
    expectSome(y, COLUMNS + 2, (row, column) => (row === 0 || column >= COLUMNS ? 0 : valueAt(row - 1, column)));
  });

  test("arange of whole numbers, in float32", async () => {
    const y = await read(() => Tensor.arange(2 ** 24 + 8, { start: -(2 ** 24), backend }).slice([2 ** 24 - 8], [16]));
    expect([...y]).toEqual(Array.from({ length: 16 }, (_, i) => i - 8));
  });

  test.each([0, 1])("concat along axis %i", async (axis) => {
    const first = axis === 0 ? [ROWS - 2000, COLUMNS] : [ROWS, COLUMNS - 2000];
    const y = await read(() => {
      const parts = [first, axis === 0 ? [2000, COLUMNS] : [ROWS, 2000]] as const;
      const start = axis === 0 ? [ROWS - 2000, 0] : [0, COLUMNS - 2000];
      return concat([x.slice([0, 0], parts[0]), x.slice(start, parts[1])], axis);
    });
    expectSome(y, COLUMNS, valueAt);
  });

  test("gather and scatterAdd", async () => {
    const rows = [ROWS - 1, 0, ROWS - 2, 4096, ROWS - 1];
    using indices = Tensor.from(rows, { dtype: "int32", backend });
    using some = tidy(() => x.gather(indices));
    const gathered = await some.data();
    const expected = rows.flatMap((row) => Array.from({ length: COLUMNS }, (_, column) => valueAt(row, column)));
    expect(gathered).toEqual(Float32Array.from(expected));
    const y = await read(() => some.scatterAdd(indices, ROWS));
    expectSome(y, COLUMNS, (row, column) => rows.filter((other) => other === row).length * valueAt(row, column));
  });

  describe.each([true, false])("matmul, with kernels in WGSL: %s:", (overrides) => {
    let own: WebGpuBackend;
    beforeAll(async () => {
      own = await open({ overrides });
    });

    test("a result", async () => {
      const of = (data: number[], shape: readonly number[]): Tensor => Tensor.from(data, { shape, backend: own });
      const y = await read(() => {
        const a = of(
          Array.from({ length: 2 * ROWS }, (_, i) => (i % 2 === 0 ? (i / 2) % 64 : 1)),
          [ROWS, 2],
        );
        const b = of(
          Array.from({ length: 2 * COLUMNS }, (_, i) => (i < COLUMNS ? 1 : (i - COLUMNS) / 8192)),
          [2, COLUMNS],
        );
        return a.matmul(b);
      });
      expectSome(y, COLUMNS, (row, column) => (row % 64) + column / 8192);
    });

    test("operands whose rows are longer than any other dimension", async () => {
      const k = 2 ** 22 + 3;
      const a = new Float32Array(5 * k);
      const b = new Float32Array(k);
      // So few numbers that their sums are exact, near the end and far from it.
      const places = [0, 1, 63, 64, 999, 1000, 2 ** 20 + 1, 2 ** 22 - 1, 2 ** 22, k - 2, k - 1];
      places.forEach((place, i) => {
        b[place] = 2 ** i;
        for (let row = 0; row < 5; row++) a[row * k + place] = row + 1;
      });
      const y = await read(() => {
        const [left, right] = [Tensor.from(a, { shape: [5, k], backend: own }), Tensor.from(b, { shape: [k, 1], backend: own })];
        return left.matmul(right);
      });
      expect([...y]).toEqual([1, 2, 3, 4, 5].map((row) => row * (2 ** places.length - 1)));
    });
  });
});
