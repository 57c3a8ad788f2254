import { afterAll, describe, expect, it } from "vitest";
import { inWorkspace, onHost, plainArithmetic, type Workspace } from "../../src/linalg/arithmetic.ts";
import { eigenvaluesIn, eighIn, eighSize, type Eigh } from "../../src/linalg/eigh.ts";
import { openWasm } from "../../src/tensor/backends/wasm/index.ts";
import type { MatrixBlock } from "../../src/tensor/index.ts";
import { epsilon64, tridiagonal } from "./dense.ts";

/* Sizes beyond a panel, a leaf and a group of reflections, on the engine: spectra that deflate fully, partly and not at all. */

const engines = [openWasm({ threads: 1 }), openWasm({ threads: 2 })] as const;
afterAll(() => {
  for (const { engine } of engines) engine.close();
});

function random(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state * 48271) % 2147483647;
    return state / 2 ** 30 - 1;
  };
}

/** The product of matrices by the engine: its own error is far below the bounds here. */
function product(rows: number, depth: number, columns: number, a: Float64Array, b: Float64Array): Float64Array {
  return inWorkspace(engines[0], rows * depth + depth * columns + rows * columns, (space) => {
    const [x, y, z] = [space.matrix(rows, depth), space.matrix(depth, columns), space.matrix(rows, columns)];
    x.data.set(a, x.at);
    y.data.set(b, y.at);
    space.arithmetic.product(z, x, y);
    return z.data.slice(z.at, z.at + rows * columns);
  });
}

const transposed = (a: Float64Array, n: number): Float64Array => a.map((_, at) => a[(at % n) * n + Math.floor(at / n)] as number);
const largest = (x: Float64Array): number => x.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
const frobenius = (x: Float64Array): number => Math.sqrt(x.reduce((sum, value) => sum + value * value, 0));

/** A symmetric matrix of a given spectrum: reflections applied to its diagonal from both sides. */
function ofSpectrum(spectrum: Float64Array, seed: number): Float64Array {
  const n = spectrum.length;
  const a = new Float64Array(n * n);
  spectrum.forEach((value, i) => (a[i * n + i] = value));
  const draw = random(seed);
  for (let k = 0; k < 2; k++) {
    const u = Float64Array.from({ length: n }, draw);
    const half = u.reduce((sum, value) => sum + value * value, 0) / 2;
    const space: MatrixBlock = { data: a, at: 0, rows: n, columns: n, stride: n };
    const p = new Float64Array(n);
    plainArithmetic.timesVector({ data: p, at: 0 }, space, { data: u, at: 0 });
    const shift = u.reduce((sum, value, i) => sum + value * (p[i] as number), 0) / (2 * half * half);
    for (let i = 0; i < n; i++) {
      for (let j = 0; j < n; j++) {
        const [ui, uj] = [u[i] as number, u[j] as number];
        a[i * n + j] = (a[i * n + j] as number) - (ui * (p[j] as number) + uj * (p[i] as number)) / half + 2 * shift * ui * uj;
      }
    }
  }
  // Symmetric to the last bit.
  for (let i = 0; i < n; i++) for (let j = 0; j < i; j++) a[j * n + i] = a[i * n + j] as number;
  return a;
}

const families: Record<string, (n: number) => Float64Array> = {
  "random entries": (n) => {
    const draw = random(n);
    const a = Float64Array.from({ length: n * n }, draw);
    return a.map((value, at) => (value + (a[(at % n) * n + Math.floor(at / n)] as number)) / 2);
  },
  "a geometric spectrum": (n) =>
    ofSpectrum(
      Float64Array.from({ length: n }, (_, i) => 0.9 ** i),
      3,
    ),
  "a flat spectrum": (n) => ofSpectrum(new Float64Array(n).fill(2), 4),
  "two clusters": (n) =>
    ofSpectrum(
      Float64Array.from({ length: n }, (_, i) => (i % 2) + 1e-13 * i),
      5,
    ),
  "rank 7": (n) =>
    ofSpectrum(
      Float64Array.from({ length: n }, (_, i) => (i < 7 ? 7 - i : 0)),
      6,
    ),
  "one huge eigenvalue": (n) =>
    ofSpectrum(
      Float64Array.from({ length: n }, (_, i) => (i === 0 ? 1e8 : 1 / (i + 1))),
      7,
    ),
  "second differences": (n) =>
    tridiagonal(
      n,
      () => 2,
      () => -1,
    ).data,
  "Wilkinson's pairs": (n) =>
    tridiagonal(
      n,
      (i) => Math.abs(i - (n - 1) / 2),
      () => 1,
    ).data,
  "glued Wilkinson": (n) =>
    tridiagonal(
      n,
      (i) => Math.abs((i % 21) - 10),
      (i) => (i % 21 === 20 ? 1e-8 : 1),
    ).data,
  "graded, large last": (n) =>
    tridiagonal(
      n,
      (i) => 10 ** ((16 * i) / n - 16),
      (i) => 0.5 * 10 ** ((16 * i) / n - 16),
    ).data,
  "couplings of 1e-12": (n) =>
    tridiagonal(
      n,
      () => 1,
      (i) => 1e-12 * Math.sin(i + 1),
    ).data,
  zero: (n) => new Float64Array(n * n),
  "all entries equal": (n) => new Float64Array(n * n).fill(1),
};

/** max(3n, 15) ε: what LAPACK keeps, with room. The Frobenius norm is never below the 2-norm. */
function check(a: Float64Array, n: number, { values, vectors }: Eigh): void {
  expect(values).toEqual(values.slice().sort());
  const bound = Math.max(3 * n, 15) * epsilon64;
  const scaledVectors = vectors.map((value, at) => value * (values[at % n] as number));
  const rebuilt = product(n, n, n, scaledVectors, transposed(vectors, n));
  const size = largest(values);
  expect(frobenius(rebuilt.map((value, at) => value - (a[at] as number)))).toBeLessThanOrEqual(bound * size);
  const gram = product(n, n, n, transposed(vectors, n), vectors);
  expect(frobenius(gram.map((value, at) => value - (at % (n + 1) === 0 ? 1 : 0)))).toBeLessThanOrEqual(bound);
}

const on = <T>(backend: (typeof engines)[number], n: number, f: (space: Workspace) => T): T => inWorkspace(backend, eighSize(n), f);

describe.each(Object.entries(families))("eigh on the engine: %s", (_, make) => {
  it.each([15, 31, 32, 33, 34, 64, 65, 66, 97, 130, 257])("of order %i reconstructs, with orthonormal vectors", (n) => {
    const a = make(n);
    check(
      a,
      n,
      on(engines[0], n, (space) => eighIn(space, a, n)),
    );
  });

  it("has the eigenvalues that QL finds without vectors, and those of the plain loops", () => {
    const n = 150;
    const a = make(n);
    const { values } = on(engines[0], n, (space) => eighIn(space, a, n));
    const bound = Math.max(3 * n, 15) * epsilon64 * largest(values);
    for (const other of [
      on(engines[0], n, (space) => eigenvaluesIn(space, a, n)),
      onHost(eighSize(n), (space) => eighIn(space, a, n)).values,
    ]) {
      values.forEach((value, i) => expect(Math.abs(value - (other[i] as number))).toBeLessThanOrEqual(bound));
    }
  });

  it("has the same bits on one and two threads", () => {
    const n = 260;
    const a = make(n);
    const [one, two] = engines.map((backend) => on(backend, n, (space) => eighIn(space, a, n))) as [Eigh, Eigh];
    expect(two.values).toHaveSameBits(one.values);
    expect(two.vectors).toHaveSameBits(one.vectors);
  });
});

it.each(["random entries", "a geometric spectrum", "two clusters", "second differences", "glued Wilkinson"])(
  "eigh on the engine of order 1024 reconstructs: %s",
  (name) => {
    const n = 1024;
    const a = (families[name] as (n: number) => Float64Array)(n);
    check(
      a,
      n,
      on(engines[1], n, (space) => eighIn(space, a, n)),
    );
  },
);
