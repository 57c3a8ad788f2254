import fc from "fast-check";
import { afterAll, describe, expect, it, vi } from "vitest";
import { inWorkspace, onHost, type Workspace } from "../../src/linalg/arithmetic.ts";
import { openWasm, type WasmBackend } from "../../src/tensor/backends/wasm/index.ts";
import type { MatrixBlock } from "../../src/tensor/index.ts";
import { seeds } from "../arbitraries/matrices.ts";
import { epsilon64, identity, minus, product, transpose } from "./dense.ts";

/* Arithmetic on matrices in place: the plain loops are the definition, and the engine computes the same up to rounding. */

function unshared(): WasmBackend {
  vi.stubGlobal("SharedArrayBuffer", undefined);
  try {
    return openWasm();
  } finally {
    vi.unstubAllGlobals();
  }
}
const engines = [openWasm({ threads: 1 }), openWasm({ threads: 3 }), unshared()];
afterAll(() => {
  for (const { engine } of engines) engine.close();
});

/** Numbers on [−1, 1) without a pattern. */
function fill(block: MatrixBlock, seed: number): MatrixBlock {
  let state = (seed % 2147483646) + 1;
  for (let i = 0; i < block.rows; i++) {
    for (let j = 0; j < block.stride; j++) {
      state = (state * 48271) % 2147483647;
      block.data[block.at + i * block.stride + j] = state / 2 ** 30 - 1;
    }
  }
  return block;
}

/** A block that is a part of a wider matrix, as most are. */
function block(space: Workspace, rows: number, columns: number, seed: number): MatrixBlock {
  return { ...fill(space.matrix(rows, columns + 3), seed), columns };
}

const size = fc.oneof(
  { arbitrary: fc.integer({ min: 0, max: 20 }), weight: 4 },
  { arbitrary: fc.constantFrom(31, 64, 65, 130, 259), weight: 1 },
);

/** The whole memory of a result, on the host and on each engine. */
function everywhere(f: (space: Workspace) => MatrixBlock): Float64Array[] {
  const read = ({ data, at, rows, stride }: MatrixBlock): Float64Array => data.slice(at, at + rows * stride);
  const numbers = 5 * 300 * 300; // three matrices of at most 259 × 262
  return [
    onHost(numbers, (space) => read(f(space))),
    ...engines.map((backend) => inWorkspace(backend, numbers, (space) => read(f(space)))),
  ];
}

function expectAgreement(results: Float64Array[], depth: number): void {
  const [expected = new Float64Array(), first = new Float64Array(), ...others] = results;
  // |computed − exact| ≤ γ_depth Σ|a||b| for each of two orders of summation, all factors being below 1.
  const error = first.reduce((worst, value, i) => Math.max(worst, Math.abs(value - (expected[i] as number))), 0);
  expect(error).toBeLessThanOrEqual(2 * (depth + 4) * (depth + 1) * epsilon64);
  for (const other of others) expect(other).toHaveSameBits(first);
}

describe("the engine's arithmetic is that of plain loops, with the same bits on any number of threads:", () => {
  it("reflectRows", () => {
    fc.assert(
      fc.property(size, size, fc.integer({ min: 0, max: 70 }), fc.boolean(), seeds, (m, n, count, transposeT, seed) => {
        const results = everywhere((space) => {
          const [x, y, t] = [block(space, m, n, seed), block(space, count, n, seed + 1), block(space, count, count, seed + 2)];
          space.arithmetic.reflectRows(x, y, t, { transposeT });
          return x;
        });
        // Three products, whose elements are up to n, n·count and n·count² in size.
        expectAgreement(results, 2 * (n + count) * (count + 1));
      }),
    );
  });

  it("product", () => {
    const options = fc.record({
      transposeA: fc.boolean(),
      transposeB: fc.boolean(),
      scale: fc.constantFrom(1, -1, 0.5),
      add: fc.boolean(),
      lower: fc.boolean(),
    });
    fc.assert(
      fc.property(size, size, size, options, seeds, (m, columns, k, chosen, seed) => {
        const n = chosen.lower ? m : columns;
        const results = everywhere((space) => {
          const a = chosen.transposeA ? block(space, k, m, seed) : block(space, m, k, seed);
          const b = chosen.transposeB ? block(space, n, k, seed + 1) : block(space, k, n, seed + 1);
          const c = block(space, m, n, seed + 2);
          space.arithmetic.product(c, a, b, chosen);
          if (chosen.lower) for (let i = 0; i < m; i++) c.data.fill(0, c.at + i * c.stride + i + 1, c.at + i * c.stride + n);
          return c;
        });
        expectAgreement(results, k);
      }),
      { numRuns: 150 },
    );
  });

  it("timesVector", () => {
    fc.assert(
      fc.property(size, size, seeds, (m, n, seed) => {
        const results = everywhere((space) => {
          const [a, x, y] = [block(space, m, n, seed), block(space, 1, n, seed + 1), block(space, 1, m, seed + 2)];
          space.arithmetic.timesVector(y, a, x);
          return y;
        });
        expectAgreement(results, n);
      }),
    );
  });

  it("addRows", () => {
    fc.assert(
      fc.property(size, size, fc.constantFrom(1, -1, 0.5), seeds, (m, n, scale, seed) => {
        const results = everywhere((space) => {
          const [a, x, y] = [block(space, m, n, seed), block(space, 1, m, seed + 1), block(space, 1, n, seed + 2)];
          space.arithmetic.addRows(y, x, a, scale);
          return y;
        });
        expectAgreement(results, m);
      }),
    );
  });

  it("symmetricTimesVector", () => {
    fc.assert(
      fc.property(size, seeds, (n, seed) => {
        const results = everywhere((space) => {
          const [a, x, y] = [block(space, n, n, seed), block(space, 1, n, seed + 1), block(space, 1, n, seed + 2)];
          space.arithmetic.symmetricTimesVector(y, a, x);
          return y;
        });
        expectAgreement(results, n);
      }),
    );
  });
});

describe("a secular equation", () => {
  const equations = fc.record({
    // Distances between poles from a few units in the last place to far; the first pole may be 0.
    gaps: fc.oneof(
      { arbitrary: fc.array(fc.constantFrom(1, 0.1, 1e-6, 4e-15), { minLength: 1, maxLength: 20 }), weight: 4 },
      { arbitrary: seeds.map((seed) => Array.from({ length: 150 }, (_, i) => ((seed >> (i % 30)) & 1) + 1e-9)), weight: 1 },
    ),
    start: fc.constantFrom(0, 1),
    squared: fc.boolean(),
    smallest: fc.constantFrom(1, 1e-8, 1e-20),
    seed: seeds,
  });

  it("has roots between its poles, with their sum, and orthonormal vectors; the same on any number of threads", () => {
    fc.assert(
      fc.property(equations, ({ gaps, start, squared, smallest, seed }) => {
        const k = gaps.length;
        const d = Float64Array.from(gaps);
        for (let i = 0; i < k; i++) d[i] = i === 0 ? start : (d[i - 1] as number) + (gaps[i] as number) * (1 + (d[i - 1] as number));
        const poles = squared ? d.map((x) => x * x) : d;
        const weights = d.map((_, i) => (((seed >> (i % 30)) & 1) === 1 ? 1 / k : smallest / k));
        const total = weights.reduce((sum, w) => sum + w, 0);
        const largest = (poles[k - 1] as number) + total;
        const results = everywhere((space) => {
          const write = (values: ArrayLike<number>): MatrixBlock => {
            const row = space.matrix(1, k);
            row.data.set(values, row.at);
            return row;
          };
          const equation = { size: k, d: write(d), squared, weights: write(weights) };
          const [differences, x, all] = [space.matrix(k, k), { ...space.matrix(k, k + 1), columns: k }, space.matrix(k + 2, k)];
          const [roots, z] = [write(d), write(d)];
          space.arithmetic.secularRoots(roots, differences, equation);
          space.arithmetic.lowner(z, differences, equation);
          space.arithmetic.unitRows(x, differences, z, write(d.map((_, c) => k - 1 - c)));
          const given = differences.data.slice(differences.at, differences.at + k * k);
          given.forEach((gap, at) => {
            const [j, i] = [Math.floor(at / k), at % k];
            if (!(i <= j ? gap < 0 : gap > 0)) expect.fail(`root ${j} is on the wrong side of pole ${i}: ${gap}`);
          });
          all.data.set(roots.data.subarray(roots.at, roots.at + k), all.at);
          all.data.set(z.data.subarray(z.at, z.at + k), all.at + k);
          for (let j = 0; j < k; j++) {
            const row = x.at + j * x.stride;
            all.data.set(x.data.subarray(row, row + k), all.at + (j + 2) * k);
          }
          return all;
        });
        for (const result of results) {
          const roots = result.subarray(0, k);
          const sum = roots.reduce((s, root, i) => s + (squared ? root * root : root) - (poles[i] as number), 0);
          expect(Math.abs(sum - total)).toBeLessThanOrEqual(4 * k * epsilon64 * largest);
          const v = { rows: k, columns: k, data: result.slice(2 * k) };
          const error = minus(product(v, transpose(v)), identity(k)).data.reduce((worst, e) => Math.max(worst, Math.abs(e)), 0);
          // Each difference, quotient and product is right to a few units: k of them make an element of z.
          expect(error).toBeLessThanOrEqual(8 * (k + 4) * epsilon64);
        }
        const [, first, ...others] = results;
        for (const other of others) expect(other).toHaveSameBits(first as Float64Array);
      }),
      { numRuns: 200 },
    );
  });

  it("takes another number for the first element where it is told to", () => {
    for (const result of everywhere((space) => {
      const [differences, x, z, order] = [space.matrix(2, 2), space.matrix(2, 2), space.matrix(1, 2), space.matrix(1, 2)];
      differences.data.set([5, 1, 5, -2], differences.at);
      z.data.set([7, 1], z.at);
      order.data.set([1, 0], order.at);
      space.arithmetic.unitRows(x, differences, z, order, -1);
      return x;
    })) {
      const [a, b] = [1 / Math.sqrt(2), 1 / Math.sqrt(1.25)];
      const expected = [a, -a, -0.5 * b, -b];
      expected.forEach((value, i) => expect(Math.abs((result[i] as number) - value)).toBeLessThanOrEqual(2 * epsilon64));
    }
  });
});

describe("a workspace", () => {
  it("that is too small says so", () => {
    expect(() => onHost(10, (space) => space.matrix(3, 4))).toThrow("a workspace of 10 numbers is too small");
  });

  it("gives its memory back, also after an error", () => {
    for (const backend of engines) {
      const before = backend.memory();
      expect(() => inWorkspace(backend, 100, () => expect.fail("bang"))).toThrow("bang");
      expect(backend.memory()).toMatchObject({ buffers: before.buffers, bytes: before.bytes });
    }
  });

  it("stays where it is while kernels take memory, also where memory is not shared", () => {
    for (const backend of engines) {
      const sum = inWorkspace(backend, 3 * 700 * 700, (space) => {
        const [a, b, c] = [space.matrix(700, 700), space.matrix(700, 700), space.matrix(700, 700)];
        a.data.fill(1, a.at, a.at + 490_000);
        b.data.fill(1, b.at, b.at + 490_000);
        space.arithmetic.product(c, a, b);
        return c.data[c.at + 489_999];
      });
      expect(sum).toBe(700);
    }
  });
});
