import { readFileSync } from "node:fs";
import { normalMatrix, ofSpectrum } from "../arbitraries/matrices.ts";
import { at, build, diagonal, identity, matrix, product, scaled, shifted, transpose, tridiagonal, type Matrix } from "./dense.ts";

/*
 * The named matrices that every factorization is tested on. Those whose name is in test/golden/linalg_hard.json are given there by the
 * same formulas (make_linalg_hard.py). Matrices of any order are in families.ts.
 */

export interface HardMatrix {
  readonly a: Matrix;
  /** What is known of it: eigenvalues, ascending. */
  readonly spectrum?: readonly number[];
  /** What is known of it: singular values, descending. */
  readonly singularValues?: readonly number[];
}

/** The matrix B = QᵀM on which LAPACK's float32 gesdd does not converge (test/golden/README.md), and its singular values. */
const hardSvd = ((): { b: Matrix; singularValues: readonly number[] } => {
  const golden = new URL("../golden/", import.meta.url);
  const bytes = readFileSync(new URL("hard_svd_145x145.f32", golden));
  const b = matrix(145, 145, new Float32Array(bytes.buffer, bytes.byteOffset, 145 * 145));
  const json: unknown = JSON.parse(readFileSync(new URL("hard_svd.json", golden), "utf8"));
  const { singular_values_float64: singularValues } = json as { singular_values_float64: number[] };
  return { b, singularValues };
})();

export const directSum = (a: Matrix, b: Matrix): Matrix =>
  build(a.rows + b.rows, a.columns + b.columns, (i, j) => {
    if (i < a.rows && j < a.columns) return at(a, i, j);
    return i >= a.rows && j >= a.columns ? at(b, i - a.rows, j - a.columns) : 0;
  });
const repeated = (value: number, times: number): number[] => new Array<number>(times).fill(value);
/** Eigenvalues of both signs, two equal, one small, one 0. */
export const spread = ofSpectrum([-2, -1, 0, 1e-3, 1, 1, 3], 11).a;
const toeplitz = (n: number): Matrix => build(n, n, (i, j) => 1 / (1 + Math.abs(i - j)));
const wilkinson = (copies: number): Matrix =>
  tridiagonal(
    21 * copies,
    (i) => Math.abs((i % 21) - 10),
    (i) => (i % 21 === 20 ? 1e-8 : 1),
  );
/** Σₖ wₖ(i)·wₖ(j) for k = 1, 2, 3. */
const waves = (i: number, j: number, wave: (k: number, i: number) => number): number =>
  [1, 2, 3].reduce((sum, k) => sum + wave(k, i) * wave(k, j), 0);

/** Symmetric. */
export const symmetric: Readonly<Record<string, HardMatrix>> = {
  "empty, 0 × 0": { a: build(0, 0, () => 0), spectrum: [] },
  "a single number": { a: matrix(1, 1, [-3]), spectrum: [-3] },
  "two by two, equal but for the last bit": { a: matrix(2, 2, [1, 2 ** -53, 2 ** -53, 1 + 2 ** -52]) },
  zero: { a: build(7, 7, () => 0), spectrum: repeated(0, 7) },
  "the identity": { a: identity(9), spectrum: repeated(1, 9) },
  "diagonal, out of order": { a: diagonal([3, -1, 0, 3, 2]), spectrum: [-1, 0, 2, 3, 3] },
  "all equal 12": { a: build(12, 12, () => 1), spectrum: [...repeated(0, 11), 12] },
  "reversal 10": { a: build(10, 10, (i, j) => (i + j === 9 ? 1 : 0)), spectrum: [...repeated(-1, 5), ...repeated(1, 5)] },
  "second differences 200": {
    a: tridiagonal(
      200,
      () => 2,
      () => -1,
    ),
    spectrum: Array.from({ length: 200 }, (_, k) => 2 - 2 * Math.cos((Math.PI * (k + 1)) / 201)),
  },
  // Published: 10.746194182903322 and 10.746194182903393, the closest of ten pairs.
  "wilkinson 21": { a: wilkinson(1) },
  "glued wilkinson 105": { a: wilkinson(5) },
  "hilbert 12": { a: build(12, 12, (i, j) => 1 / (i + j + 1)) },
  "graded 17": { a: build(17, 17, (i, j) => 10 ** -Math.max(i, j)) },
  "graded 1e-16 … 1, large corner last": { a: build(17, 17, (i, j) => 10 ** Math.max(-16, Math.min(i, j) - 16)) },
  "graded 200": { a: build(200, 200, (i, j) => 10 ** (-0.08 * Math.max(i, j)) * Math.cos(i * j)) },
  "clustered 150": { a: build(150, 150, (i, j) => (i === j ? 1 + 1e-10 * Math.sin(i) : 1e-12 * Math.cos(i + j))) },
  "0.95 I plus rank 3, 40": {
    a: build(40, 40, (i, j) => (i === j ? 0.95 : 0) + 0.01 * waves(i, j, (k, at) => Math.cos(at * k + k))),
  },
  "the Gram matrix of hard_svd": {
    a: product(transpose(hardSvd.b), hardSvd.b),
    spectrum: hardSvd.singularValues.map((s) => s * s).reverse(),
  },
  "a spectrum from 1e-150 to 1e150": { a: ofSpectrum([1e-150, 1e-75, 1, 1e75, 1e150], 3).a },
  "entries near the largest float64": { a: shifted(toeplitz(4), 1021) },
  "near denormal 30": { a: shifted(toeplitz(30), -1000) },
  "denormal 20": { a: shifted(toeplitz(20), -1060) },
  "entries near the smallest float64": {
    a: scaled(
      build(4, 4, (i, j) => (i === j ? 4 : 1)),
      Number.MIN_VALUE,
    ),
    spectrum: [3, 3, 3, 7].map((value) => value * Number.MIN_VALUE),
  },
  "couplings whose squares underflow": {
    a: tridiagonal(
      12,
      (i) => (i % 3 === 0 ? 1 : 0),
      (i) => 1e-170 * (i + 1),
    ),
  },
  "a block whose squares are subnormal, beside a 1": { a: directSum(identity(1), scaled(spread, 1e-161)) },
  "a 1 beside a block of subnormal numbers": { a: directSum(scaled(spread, 1e-318), identity(1)) },
};

const kahan = (n: number): Matrix =>
  build(n, n, (i, j) => (j < i ? 0 : j === i ? Math.sin(1.2) ** i : -Math.cos(1.2) * Math.sin(1.2) ** i));

/** Positive definite, or all but, of several leaves. */
export const definite: Readonly<Record<string, HardMatrix>> = {
  "Kahan's graded triangle, times its transpose": { a: product(transpose(kahan(90)), kahan(90)) },
  "graded over 300 decades": { a: build(61, 61, (i, j) => 10 ** (-2.5 * (i + j)) * (i === j ? 1 : 0.5)) },
  "graded over 300 decades, small corner first": { a: build(61, 61, (i, j) => 10 ** (-2.5 * (120 - i - j)) * (i === j ? 1 : 0.5)) },
  "subnormal entries": {
    a: scaled(
      build(50, 50, (i, j) => (i === j ? 100 : 1)),
      Number.MIN_VALUE,
    ),
    spectrum: [...repeated(99, 49), 149].map((value) => value * Number.MIN_VALUE),
  },
};

/** [i, j] of the orthonormal columns cos(π(2i + 1)j/2m), scaled. */
const cosines = (m: number, n: number): Matrix =>
  build(m, n, (i, j) => Math.sqrt((j === 0 ? 1 : 2) / m) * Math.cos((Math.PI * (2 * i + 1) * j) / (2 * m)));

/** Not symmetric, or not square. */
export const general: Readonly<Record<string, HardMatrix>> = {
  "empty, 0 × 3": { a: build(0, 3, () => 0), singularValues: [] },
  "empty, 4 × 0": { a: build(4, 0, () => 0), singularValues: [] },
  "a column": { a: matrix(4, 1, [1, -2, 2, 4]), singularValues: [5] },
  "a row": { a: matrix(1, 4, [2, -4, 5, 6]), singularValues: [9] },
  "a column of zeros": { a: build(40, 1, () => 0), singularValues: [0] },
  "a long column": { a: build(400, 1, () => 1), singularValues: [20] },
  "a long row": { a: build(1, 400, () => -1), singularValues: [20] },
  "zero, tall": { a: build(9, 4, () => 0), singularValues: repeated(0, 4) },
  "all equal, wide": { a: build(3, 12, () => 1), singularValues: [6, 0, 0] },
  "nilpotent, ones beside the diagonal": {
    a: build(40, 40, (i, j) => (j === i + 1 ? 1 : 0)),
    singularValues: [...repeated(1, 39), 0],
  },
  "a cyclic permutation with signs": { a: build(35, 35, (i, j) => (i === (j + 1) % 35 ? (-1) ** j : 0)), singularValues: repeated(1, 35) },
  "kahan 30": { a: kahan(30) },
  "laeuchli 10": { a: build(11, 10, (i, j) => (i === 0 ? 1 : i === j + 1 ? 1e-8 : 0)) },
  "hilbert 20 by 12": { a: build(20, 12, (i, j) => 1 / (i + j + 1)) },
  "graded 200 by 180": { a: build(200, 180, (i, j) => 10 ** (-0.04 * (i + j)) * Math.cos(i * j + i)) },
  "clustered 150 by 140": {
    a: ((): Matrix => {
      const columns = cosines(150, 140);
      return product(
        build(150, 140, (i, j) => at(columns, i, j) * (0.95 + 1e-6 * j)),
        build(140, 140, (i, j) => (i === j ? 1 : 0) - 2 / 140),
      );
    })(),
    singularValues: Array.from({ length: 140 }, (_, j) => 0.95 + 1e-6 * (139 - j)),
  },
  "rank 3, 120 by 80": {
    a: build(120, 80, (i, j) => [1, 2, 3].reduce((sum, k) => sum + (Math.sin(k * (i + 1)) * Math.cos(k * (j + 1))) / k, 0)),
  },
  "wide 30 by 160": { a: build(30, 160, (i, j) => Math.sin(i * j + j) + (i === j ? 2 : 0)) },
  "denormal 40 by 25": {
    a: shifted(
      build(40, 25, (i, j) => Math.cos(i * j + 1)),
      -1060,
    ),
  },
  hard_svd: { a: hardSvd.b, singularValues: hardSvd.singularValues },
  "hard_svd, transposed": { a: transpose(hardSvd.b), singularValues: hardSvd.singularValues },
  "entries near the largest float64, 5 × 3": {
    a: shifted(
      build(5, 3, (i, j) => 1 / (i + j + 1)),
      1022,
    ),
  },
  "columns graded over 600 decades": { a: build(20, 12, (i, j) => Math.cos(i * j + 1) * 10 ** (300 - 50 * j)) },
  "rows graded over 600 decades": { a: build(12, 20, (i, j) => Math.cos(i * j + 1) * 10 ** (50 * i - 300)) },
  "a 1 beside a bidiagonal block of subnormal numbers": {
    a: directSum(
      identity(1),
      build(6, 6, (i, j) => (j === i || j === i + 1 ? 3 * Number.MIN_VALUE : 0)),
    ),
  },
  "a 1 beside a block whose squares are subnormal": { a: directSum(scaled(normalMatrix(6, 5, 4), 1e-161), identity(1)) },
};
