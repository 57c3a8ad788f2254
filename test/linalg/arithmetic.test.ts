import fc from "fast-check";
import { afterAll, describe, expect, it, vi } from "vitest";
import { inWorkspace, onHost, type Workspace } from "../../src/linalg/arithmetic.ts";
import { openWasm, type WasmBackend } from "../../src/tensor/backends/wasm/index.ts";
import type { MatrixBlock } from "../../src/tensor/index.ts";
import { seeds } from "../arbitraries/matrices.ts";
import { epsilon64 } from "./dense.ts";

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
