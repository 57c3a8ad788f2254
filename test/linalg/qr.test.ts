import fc, { type Arbitrary } from "fast-check";
import { afterAll, describe, expect, it } from "vitest";
import { inWorkspace, onHost, type Workspace } from "../../src/linalg/arithmetic.ts";
import { eighHost, lstsq, lstsqHost, qr, qrHost, type QrOptions } from "../../src/linalg/index.ts";
import { lstsqIn, lstsqSize, qrIn, qrSize } from "../../src/linalg/qr.ts";
import type { Backend } from "../../src/tensor/index.ts";
import { openWasm } from "../../src/tensor/backends/wasm/index.ts";
import { DTypeError, NumericalError, ShapeError } from "../../src/tensor/errors.ts";
import { Tensor } from "../../src/tensor/tensor.ts";
import { definiteMatrices, normalMatrix, orthogonal, seeds, smallMatrices } from "../arbitraries/matrices.ts";
import { at, build, epsilon32, epsilon64, identity, matrix, minus, norm, product, scaled, transpose, type Matrix } from "./dense.ts";

const [one, two, three] = [openWasm({ threads: 1 }), openWasm({ threads: 2 }), openWasm({ threads: 3 })];
afterAll(() => {
  for (const engine of [one, two, three]) engine.close?.();
});

type Run = <T>(size: number, f: (space: Workspace) => T) => T;
const onEngine =
  (engine: Backend): Run =>
  (size, f) =>
    inWorkspace(engine, size, f);

function qrBy(run: Run, a: Matrix, options: QrOptions = {}): { q: Matrix; r: Matrix } {
  const { rows: m, columns: n } = a;
  const size = options.full ? m : Math.min(m, n);
  const { q, r } = run(qrSize(m, n, options), (space) => qrIn(space, a.data, m, n, options));
  return { q: matrix(m, size, q), r: matrix(size, n, r) };
}
function lstsqBy(run: Run, a: Matrix, b: Matrix): Matrix {
  const size = lstsqSize(a.rows, a.columns, b.columns);
  return matrix(
    a.columns,
    b.columns,
    run(size, (space) => lstsqIn(space, a.data, a.rows, a.columns, b.data, b.columns)),
  );
}

/** ε times what min(m, n) reflections of m numbers may do to a matrix, relative to its norm: the bound that `qrIn` documents. */
const bound = (a: Matrix): number => Math.max(3 * Math.max(a.rows, a.columns), 15) * epsilon64;

/** The exponent that brings the largest entry near 1. */
const exponentOf = (a: Matrix): number => Math.floor(Math.log2(a.data.reduce((most, x) => Math.max(most, Math.abs(x)), 0) || 1));
/** Times 2ᵏ in two steps, as 2ᵏ alone may be out of range. */
const shifted = (a: Matrix, k: number): Matrix => scaled(scaled(a, 2 ** Math.trunc(k / 2)), 2 ** (k - Math.trunc(k / 2)));

/** ‖A‖₂ of a matrix with entries whose squares are in range: the root of the largest eigenvalue of the smaller Gram matrix. */
function norm2(a: Matrix): number {
  const gram = a.rows < a.columns ? product(a, transpose(a)) : product(transpose(a), a);
  return Math.sqrt(Math.max(0, eighHost(gram.data, gram.rows).values.at(-1) ?? 0));
}

function expectDecomposition(a: Matrix, { q, r }: { q: Matrix; r: Matrix }): void {
  const k = exponentOf(a);
  const near1 = shifted(a, -k);
  const residual = norm2(minus(near1, product(q, shifted(r, -k))));
  // A subnormal R is rounded to multiples of the smallest number.
  const spacing = norm(shifted(matrix(1, 1, [Number.MIN_VALUE]), -k));
  expect(residual).toBeLessThanOrEqual(bound(a) * norm2(near1) + a.columns * spacing);
  expect(norm2(minus(product(transpose(q), q), identity(q.columns)))).toBeLessThanOrEqual(bound(a));
  for (let i = 0; i < r.rows; i++) {
    for (let j = 0; j < Math.min(i, r.columns); j++) expect(at(r, i, j)).toBe(0);
    if (i < r.columns) expect(at(r, i, i)).toBeGreaterThanOrEqual(0);
  }
}

/** None, few, and those around one and two panels. */
const extents: Arbitrary<number> = fc.oneof(fc.integer({ min: 0, max: 8 }), fc.constantFrom(31, 32, 33, 64, 65));

const kinds = {
  zero: (m, n) => build(m, n, () => 0),
  "identity, cut or padded": (m, n) => build(m, n, (i, j) => (i === j ? 1 : 0)),
  "all entries equal": (m, n) => build(m, n, () => 3),
  normal: (m, n, seed) => normalMatrix(m, n, seed),
  "of rank 3": (m, n, seed) => product(normalMatrix(m, 3, seed), normalMatrix(3, n, seed + 1)),
  "with equal columns": (m, n, seed) => {
    const a = normalMatrix(m, n, seed);
    return build(m, n, (i, j) => at(a, i, j - (j % 2)));
  },
  "with columns of zeros": (m, n, seed) => {
    const a = normalMatrix(m, n, seed);
    return build(m, n, (i, j) => (j % 3 === 0 ? 0 : at(a, i, j)));
  },
  "columns graded 1 … 1e-16": (m, n, seed) => {
    const a = normalMatrix(m, n, seed);
    return build(m, n, (i, j) => at(a, i, j) * 10 ** ((-16 * j) / n));
  },
  "columns graded 1e-16 … 1": (m, n, seed) => {
    const a = normalMatrix(m, n, seed);
    return build(m, n, (i, j) => at(a, i, j) * 10 ** ((16 * (j + 1 - n)) / n));
  },
  "rows graded 1 … 1e-16": (m, n, seed) => {
    const a = normalMatrix(m, n, seed);
    return build(m, n, (i, j) => at(a, i, j) * 10 ** ((-16 * i) / m));
  },
  "rows graded 1e-16 … 1": (m, n, seed) => {
    const a = normalMatrix(m, n, seed);
    return build(m, n, (i, j) => at(a, i, j) * 10 ** ((16 * (i + 1 - m)) / m));
  },
  "graded to below the smallest number": (m, n, seed) => {
    const a = normalMatrix(m, n, seed);
    return build(m, n, (i, j) => at(a, i, j) * 10 ** -(10 * (i + j)));
  },
  "Kahan's, almost without full rank and with no small diagonal": (m, n) =>
    build(m, n, (i, j) => (i > j ? 0 : Math.sin(1.2) ** i * (i === j ? 1 : -Math.cos(1.2)))),
  "Läuchli's, whose Gram matrix is singular in float64": (m, n) => build(m, n, (i, j) => (i === 0 ? 1 : i === j + 1 ? 1e-9 : 0)),
  "a permutation, reversing": (m, n) => build(m, n, (i, j) => (i + j === Math.max(m, n) - 1 ? 1 : 0)),
  "a permutation, cyclic": (m, n) => build(m, n, (i, j) => (i === (j + 1) % m ? -1 : 0)),
} satisfies Record<string, (m: number, n: number, seed: number) => Matrix>;
const kindNames = Object.keys(kinds) as (keyof typeof kinds)[];

/** Ordinary, subnormal and so large that squares overflow, but the norms of columns do not. */
const exponents: Arbitrary<number> = fc.constantFrom(0, 0, -1060, -1022, -500, 500, 1010);

/** Matrices of every kind above, of any shape and scale; and small ones that shrink to a few whole numbers. */
const matrices: Arbitrary<Matrix> = fc.oneof(
  smallMatrices(fc.integer({ min: 0, max: 6 }), fc.integer({ min: 0, max: 6 })),
  fc
    .record({ m: extents, n: extents, kind: fc.constantFrom(...kindNames), seed: seeds, exponent: exponents })
    .map(({ m, n, kind, seed, exponent }) => shifted(kinds[kind](m, n, seed), exponent)),
);

/** Tall matrices of full column rank with a given condition, and their orthonormal left factor's size. */
const fullRank: Arbitrary<{ a: Matrix; condition: number }> = fc
  .record({ square: definiteMatrices({ decades: 6 }), more: fc.integer({ min: 0, max: 12 }), seed: seeds })
  .map(({ square: { a, n, condition }, more, seed }) => {
    const q = orthogonal(n + more, seed);
    return {
      a: product(
        build(n + more, n, (i, j) => at(q, i, j)),
        a,
      ),
      condition,
    };
  });

const runs: [string, Run][] = [
  ["by plain loops", onHost],
  ["by the engine", onEngine(one)],
];

describe.each(runs)("qr %s", (_, run) => {
  it("decomposes: A = Q R, QᵀQ = I, R upper triangular with a diagonal that is not negative", () => {
    fc.assert(
      fc.property(matrices, fc.boolean(), (a, full) => {
        expectDecomposition(a, qrBy(run, a, { full }));
      }),
    );
  });

  const shapes: [number, number][] = [
    [33, 33],
    [65, 40],
    [40, 65],
    [130, 3],
    [3, 130],
    [1, 1],
  ];
  it.each(kindNames)("decomposes the matrix %s", (kind) => {
    for (const [m, n] of shapes) {
      const a = kinds[kind](m, n, 7);
      expectDecomposition(a, qrBy(run, a));
      expectDecomposition(a, qrBy(run, a, { full: true }));
    }
  });

  it("has the thin Q and R in front of the full ones", () => {
    fc.assert(
      fc.property(matrices, (a) => {
        const [thin, full] = [qrBy(run, a), qrBy(run, a, { full: true })];
        const k = Math.min(a.rows, a.columns);
        // Products of another shape may be added up in another order.
        const front = build(a.rows, k, (i, j) => at(full.q, i, j));
        expect(norm(minus(thin.q, front))).toBeLessThanOrEqual(Math.sqrt(k) * bound(a));
        expect(full.r.data.slice(0, k * a.columns)).toEqual(thin.r.data);
        expect(full.r.data.slice(k * a.columns).every((x) => x === 0)).toBe(true);
      }),
    );
  });

  it("commutes with a power of two, to the last bit", () => {
    fc.assert(
      fc.property(extents, extents, seeds, fc.integer({ min: -400, max: 400 }), (m, n, seed, k) => {
        const a = normalMatrix(m, n, seed);
        const [plain, other] = [qrBy(run, a), qrBy(run, scaled(a, 2 ** k))];
        expect(other.q).toEqual(plain.q);
        expect(other.r).toEqual(scaled(plain.r, 2 ** k));
      }),
    );
  });

  it("leaves its input alone, and gives the same bits again", () => {
    fc.assert(
      fc.property(matrices, (a) => {
        const before = a.data.slice();
        const first = qrBy(run, a);
        expect(a.data).toEqual(before);
        expect(qrBy(run, a)).toEqual(first);
      }),
    );
  });

  it("has |det A| as the product of R's diagonal", () => {
    fc.assert(
      fc.property(
        fc.integer({ min: 1, max: 4 }).chain((n) => smallMatrices(n, n)),
        (a) => {
          const { r } = qrBy(run, a);
          let volume = 1;
          for (let i = 0; i < a.rows; i++) volume *= at(r, i, i);
          // det is linear in each of n columns; a change of one by E changes it by ‖E‖·‖A‖ⁿ⁻¹ at most (Hadamard). Twice: both round.
          expect(Math.abs(volume - Math.abs(determinant(a)))).toBeLessThanOrEqual(2 * a.rows * bound(a) * norm(a) ** a.rows);
        },
      ),
    );
  });

  it("does not see a change of orthonormal basis: Q A has the R of A", () => {
    fc.assert(
      fc.property(fullRank, seeds, ({ a, condition }, seed) => {
        const { rows: m, columns: n } = a;
        const turned = product(orthogonal(m, seed), a);
        // ‖δR‖_F ≤ √2 κ ‖δA‖_F (Sun, BIT 31, 1991), and ‖δA‖_F ≤ √n ‖δA‖₂; a bound each for the decompositions, and two for the turn.
        const tolerance = 4 * Math.sqrt(2 * n) * condition * bound(a) * norm(a);
        expect(norm(minus(qrBy(run, turned).r, qrBy(run, a).r))).toBeLessThanOrEqual(tolerance);
      }),
    );
  });
});

/** By expansion along the first row: exact for the small dyadic entries here. */
function determinant(a: Matrix): number {
  if (a.rows === 0) return 1;
  let sum = 0;
  for (let j = 0; j < a.columns; j++) {
    const minor = build(a.rows - 1, a.rows - 1, (i, k) => at(a, i + 1, k < j ? k : k + 1));
    sum += (j % 2 === 0 ? 1 : -1) * at(a, 0, j) * determinant(minor);
  }
  return sum;
}

describe.each(runs)("lstsq %s", (_, run) => {
  it("leaves a residual orthogonal to the columns: Aᵀ(A X − B) = 0", () => {
    fc.assert(
      fc.property(fullRank, fc.integer({ min: 0, max: 3 }), seeds, ({ a }, columns, seed) => {
        const b = normalMatrix(a.rows, columns, seed);
        const x = lstsqBy(run, a, b);
        const residual = minus(product(a, x), b);
        // X is exact for A + δA and B + δB within the bound, so ‖Aᵀρ‖ ≤ ‖δA‖‖ρ‖ + ‖A‖(‖δA‖‖X‖ + ‖δB‖); once more for the products here.
        const tolerance = 2 * Math.sqrt(a.columns) * bound(a) * norm(a) * (norm(residual) + norm(a) * norm(x) + norm(b));
        expect(norm(product(transpose(a), residual))).toBeLessThanOrEqual(tolerance);
      }),
    );
  });

  it("solves a system that has a solution", () => {
    fc.assert(
      fc.property(fullRank, seeds, ({ a, condition }, seed) => {
        const expected = normalMatrix(a.columns, 2, seed);
        const x = lstsqBy(run, a, product(a, expected));
        // First order: κ times the relative changes of A and B; B's is of rounding the product.
        expect(norm(minus(x, expected))).toBeLessThanOrEqual(4 * Math.sqrt(a.columns) * condition * bound(a) * norm(expected));
      }),
    );
  });

  it("is right for A and B near opposite ends of the range", () => {
    const a = shifted(normalMatrix(40, 33, 3), -500);
    const b = shifted(normalMatrix(40, 2, 4), 480);
    expect(lstsqBy(run, a, b)).toEqual(shifted(lstsqBy(run, normalMatrix(40, 33, 3), normalMatrix(40, 2, 4)), 980));
  });

  it("names the column that depends on those before it", () => {
    fc.assert(
      fc.property(fullRank, fc.nat(), seeds, ({ a }, index, seed) => {
        const { rows: m, columns: n } = a;
        fc.pre(n < m);
        const first = index % n;
        // Column `first` + 1 of n + 1 is a combination of those before it; the basis is orthogonal, so that no other column is near to be.
        const basis = orthogonal(m, seed);
        const weights = normalMatrix(n + 1, 1, seed);
        const dependent = build(m, n + 1, (i, j) => {
          if (j <= first) return at(basis, i, j);
          if (j > first + 1) return at(basis, i, j - 1);
          let sum = 0;
          for (let k = 0; k <= first; k++) sum += at(weights, k, 0) * at(basis, i, k);
          return sum;
        });
        const column = new RegExp(`lstsq: column ${first + 1} of the \\[${m}, ${n + 1}\\] matrix depends on those before it, to rounding`);
        expect(() =>
          lstsqBy(
            run,
            dependent,
            build(m, 1, () => 1),
          ),
        ).toThrow(column);
      }),
    );
  });
});

describe("the engine's threads", () => {
  it.each([
    [300, 150],
    [150, 300],
    [513, 70],
  ])("do not change a bit for [%i, %i]", (m, n) => {
    const a = normalMatrix(m, n, 5);
    const alone = qrBy(onEngine(one), a, { full: true });
    expect(qrBy(onEngine(two), a, { full: true })).toEqual(alone);
    expect(qrBy(onEngine(three), a, { full: true })).toEqual(alone);
    const [tall, b] = m < n ? [transpose(a), normalMatrix(n, 3, 6)] : [a, normalMatrix(m, 3, 6)];
    const solution = lstsqBy(onEngine(one), tall, b);
    expect(lstsqBy(onEngine(two), tall, b)).toEqual(solution);
    expect(lstsqBy(onEngine(three), tall, b)).toEqual(solution);
  });
});

describe("qr and lstsq, when they cannot", () => {
  it("name the position of an entry that is not finite", () => {
    expect(() => qrHost(Float64Array.of(1, 2, 3, 4, 5, NaN), 2, 3)).toThrow(/qr: entry \[1, 2\] of the \[2, 3\] input is NaN/);
    expect(() => lstsqHost(Float64Array.of(1, 2), 2, 1, Float64Array.of(1, Infinity), 1)).toThrow(
      /lstsq: entry \[1, 0\] of the \[2, 1\] input is Infinity/,
    );
  });

  it("name an entry of R that is beyond the range", () => {
    const a = new Float64Array(4).fill(Number.MAX_VALUE);
    expect(() => qrHost(a, 4, 1)).toThrow(NumericalError);
    expect(() => qrHost(a, 4, 1)).toThrow(/qr: entry \[0, 0\] of the \[1, 1\] R is beyond the range of float64/);
  });

  it("say that fewer rows than columns have no full column rank", () => {
    expect(() => lstsqHost(Float64Array.of(1, 2), 1, 2, Float64Array.of(1), 1)).toThrow(NumericalError);
    expect(() => lstsqHost(Float64Array.of(1, 2), 1, 2, Float64Array.of(1), 1)).toThrow(
      /lstsq: column 1 of the \[1, 2\] matrix depends on those before it, as there are fewer rows than columns/,
    );
  });

  it("give the size of the entry on the diagonal", () => {
    expect(() => lstsqHost(Float64Array.of(2, 2, 0, 0), 2, 2, Float64Array.of(1, 1), 1)).toThrow(
      /lstsq: column 1 of .* its entry on the diagonal of R is 0\.00e\+0 of the largest entry/,
    );
    expect(() => lstsqHost(new Float64Array(2), 2, 1, Float64Array.of(1, 1), 1)).toThrow(NumericalError);
  });
});

const dtypes = ["float32", "float64"] as const;
describe.each(dtypes)("on %s tensors", (dtype) => {
  const epsilon = dtype === "float32" ? epsilon32 : epsilon64;

  it.each([
    [5, 3],
    [3, 5],
    [40, 40],
    [0, 3],
    [3, 0],
  ])("qr of [%i, %i] reconstructs the matrix to the precision of the type", async (m, n) => {
    using a = Tensor.from(normalMatrix(m, n, 9).data, { dtype, shape: [m, n] });
    const held = matrix(m, n, await a.data());
    for (const full of [false, true]) {
      const size = full ? m : Math.min(m, n);
      const { q, r } = await qr(a, { full });
      expect([q.shape, r.shape, q.dtype, r.dtype]).toEqual([[m, size], [size, n], dtype, dtype]);
      const rebuilt = product(matrix(m, size, await q.data()), matrix(size, n, await r.data()));
      // The float64 work, then one rounding of Q and one of R; ‖Q‖_F = √size.
      const tolerance = (Math.sqrt(size) * bound(held) + 2 * Math.sqrt(size) * epsilon) * norm(held);
      expect(norm(minus(held, rebuilt))).toBeLessThanOrEqual(tolerance);
      q.dispose();
      r.dispose();
    }
  });

  it("lstsq fits a line through points, for one right-hand side and for several", async () => {
    using a = Tensor.from(
      [
        [1, 0],
        [1, 1],
        [1, 2],
        [1, 3],
      ],
      { dtype },
    );
    using vector = Tensor.from([1, 3, 5, 7], { dtype });
    using columns = Tensor.from(
      [
        [1, 0],
        [3, 1],
        [5, 1],
        [7, 0],
      ],
      { dtype },
    );
    using line = await lstsq(a, vector);
    using lines = await lstsq(a, columns);
    expect([line.shape, lines.shape, line.dtype]).toEqual([[2], [2, 2], dtype]);
    const close = (x: Matrix, y: Matrix): void => {
      expect(norm(minus(x, y))).toBeLessThanOrEqual(20 * epsilon);
    };
    close(matrix(2, 1, await line.data()), matrix(2, 1, [1, 2]));
    close(matrix(2, 2, await lines.data()), matrix(2, 2, [1, 0.5, 2, 0]));
  });

  it("lstsq of no columns is empty", async () => {
    using a = Tensor.from(new Float64Array(0), { dtype, shape: [3, 0] });
    using b = Tensor.from([1, 2, 3], { dtype });
    using x = await lstsq(a, b);
    expect(x.shape).toEqual([0]);
  });
});

describe("errors on tensors", () => {
  it("are ShapeErrors for operands that do not fit", async () => {
    using a = Tensor.from(
      [
        [1, 2],
        [3, 4],
      ],
      { dtype: "float32" },
    );
    using vector = Tensor.from([1, 2, 3], { dtype: "float32" });
    await expect(qr(vector)).rejects.toThrow(ShapeError);
    await expect(lstsq(vector, vector)).rejects.toThrow(ShapeError);
    await expect(lstsq(a, vector)).rejects.toThrow(ShapeError);
    await expect(lstsq(a, vector)).rejects.toThrow(/must have shape \[2\] or \[2, columns\] for a \[2, 2\] matrix but has \[3\]/);
  });

  it("are DTypeErrors for int32 and mixed types", async () => {
    using whole = Tensor.from(
      [
        [1, 2],
        [3, 4],
      ],
      { dtype: "int32" },
    );
    using single = Tensor.from(
      [
        [1, 2],
        [3, 4],
      ],
      { dtype: "float32" },
    );
    using double = Tensor.from(
      [
        [1, 2],
        [3, 4],
      ],
      { dtype: "float64" },
    );
    await expect(qr(whole)).rejects.toThrow(DTypeError);
    await expect(lstsq(single, double)).rejects.toThrow(DTypeError);
  });

  it("are NumericalErrors for entries that are not finite and results beyond the type's range", async () => {
    using bad = Tensor.from([[1, NaN]], { dtype: "float32" });
    using huge = Tensor.from([[3e38], [3e38]], { dtype: "float32" });
    await expect(qr(bad)).rejects.toThrow(/qr: entry \[0, 1\]/);
    await expect(qr(huge)).rejects.toThrow(NumericalError);
  });
});
