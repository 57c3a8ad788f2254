import { normalMatrix } from "../arbitraries/matrices.ts";
import { at, build, identity, plus, product, scaled, symmetricPart, transpose, tridiagonal, type Matrix } from "./dense.ts";

/* Matrices of any order with a name: curvature matrices and what breaks eigensolvers. Hard matrices of one order are in hardList.ts. */

/** (I − 2uuᵀ/uᵀu) A */
function reflected(a: Matrix, u: Matrix): Matrix {
  const half = (product(transpose(u), u).data[0] as number) / 2;
  const along = product(transpose(u), a);
  return build(a.rows, a.columns, (i, j) => at(a, i, j) - (at(u, i, 0) * at(along, 0, j)) / half);
}

/** Q A for the product Q of three reflections. */
const turned = (a: Matrix, seed: number): Matrix =>
  [0, 1, 2].reduce((b, k) => (a.rows === 0 ? b : reflected(b, normalMatrix(a.rows, 1, seed + k))), a);

/** With given singular values: a diagonal matrix, turned from both sides. */
function ofSingularValues(m: number, n: number, seed: number, value: (k: number) => number): Matrix {
  const diagonal = build(m, n, (i, j) => (i === j ? value(i) : 0));
  return transpose(turned(transpose(turned(diagonal, seed)), seed + 3));
}

/** With given eigenvalues, symmetric to the last bit. */
function ofEigenvalues(n: number, seed: number, value: (k: number) => number): Matrix {
  const diagonal = build(n, n, (i, j) => (i === j ? value(i) : 0));
  return symmetricPart(transpose(turned(transpose(turned(diagonal, seed)), seed)));
}

/** Spectra that curvature matrices have, and others that deflate fully, partly and not at all: value k of n. */
const spectra = {
  "a geometric spectrum": (k) => 0.9 ** k,
  "a flat spectrum": () => 2,
  "two clusters": (k) => (k % 2) + 1e-13 * k,
  "0.95·I plus small rank": (k) => (k < 5 ? 1 + 0.1 * k : 0.95),
  "rank 7": (k) => (k < 7 ? 7 - k : 0),
  "one huge value": (k) => (k === 0 ? 1e8 : 1 / (k + 1)),
  "zeros in between": (k) => (k % 2 === 0 ? 0 : 0.99 ** k),
  "values from 1 to 1e-16": (k, n) => 10 ** ((-16 * k) / n),
} satisfies Record<string, (k: number, n: number) => number>;

/** Given entry by entry, for the shape [m, n]. */
const entrywise = {
  zero: () => 0,
  "all entries equal": () => 3,
  "the identity, cut or padded": (_m, _n, i, j) => (i === j ? 1 : 0),
  "a permutation, reversing": (m, n, i, j) => (i + j === Math.max(m, n) - 1 ? 1 : 0),
  "a permutation, cyclic": (m, _n, i, j) => (i === (j + 1) % m ? -1 : 0),
  "Kahan's, almost without full rank and with no small diagonal": (_m, _n, i, j) =>
    i > j ? 0 : Math.sin(1.2) ** i * (i === j ? 1 : -Math.cos(1.2)),
  "Läuchli's, whose Gram matrix is singular in float64": (_m, _n, i, j) => (i === 0 ? 1 : i === j + 1 ? 1e-9 : 0),
  "Hilbert's": (_m, _n, i, j) => 1 / (i + j + 1),
  "ones on the diagonal and beside it": (_m, _n, i, j) => (j === i || j === i + 1 ? 1 : 0),
  "nilpotent, ones beside the diagonal": (_m, _n, i, j) => (j === i + 1 ? 1 : 0),
  "bidiagonal, graded 1 … 1e-16": (m, _n, i, j) => (j === i || j === i + 1 ? 10 ** ((-16 * i) / m) : 0),
  "bidiagonal, graded 1e-16 … 1": (m, _n, i, j) => (j === i || j === i + 1 ? 10 ** ((16 * (i + 1 - m)) / m) : 0),
  "bidiagonal, equal blocks glued by 1e-8": (_m, _n, i, j) => (j === i ? 1 + (i % 21) : j === i + 1 ? (i % 21 === 20 ? 1e-8 : 1) : 0),
  "bidiagonal, every third element of the diagonal 0": (_m, _n, i, j) => (j === i ? (i % 3 === 1 ? 0 : 1) : j === i + 1 ? 1 : 0),
} satisfies Record<string, (m: number, n: number, i: number, j: number) => number>;

/** A change of a matrix of normal numbers, entry by entry. */
const modified = {
  "normal numbers": (_m, _n, i, j, a) => at(a, i, j),
  "equal columns": (_m, _n, i, j, a) => at(a, i, j - (j % 2)),
  "columns of zeros": (_m, _n, i, j, a) => (j % 3 === 0 ? 0 : at(a, i, j)),
  "columns graded 1 … 1e-16": (_m, n, i, j, a) => at(a, i, j) * 10 ** ((-16 * j) / n),
  "columns graded 1e-16 … 1": (_m, n, i, j, a) => at(a, i, j) * 10 ** ((16 * (j + 1 - n)) / n),
  "rows graded 1 … 1e-16": (m, _n, i, j, a) => at(a, i, j) * 10 ** ((-16 * i) / m),
  "rows graded 1e-16 … 1": (m, _n, i, j, a) => at(a, i, j) * 10 ** ((16 * (i + 1 - m)) / m),
  "graded to below the smallest number": (_m, _n, i, j, a) => at(a, i, j) * 10 ** -(10 * (i + j)),
} satisfies Record<string, (m: number, n: number, i: number, j: number, a: Matrix) => number>;

/** The same names, for what `f` makes of each entry. */
function mapped<K extends string, T, U>(table: Readonly<Record<K, T>>, f: (entry: T) => U): Readonly<Record<K, U>> {
  return Object.fromEntries(Object.entries<T>(table).map(([name, entry]) => [name, f(entry)])) as Record<K, U>;
}

/** Matrices [m, n] of any shape; the seed is for the random ones. */
type Family = (m: number, n: number, seed?: number) => Matrix;
export const families = {
  ...mapped(modified, (entry): Family => (m, n, seed = 7) => {
    const a = normalMatrix(m, n, seed);
    return build(m, n, (i, j) => entry(m, n, i, j, a));
  }),
  ...mapped(
    spectra,
    (value): Family =>
      (m, n, seed = 7) =>
        ofSingularValues(m, n, seed, (k) => value(k, Math.min(m, n))),
  ),
  ...mapped(
    entrywise,
    (entry): Family =>
      (m, n) =>
        build(m, n, (i, j) => entry(m, n, i, j)),
  ),
};

const secondDifferences = (n: number): Matrix =>
  tridiagonal(
    n,
    () => 2,
    () => -1,
  );
const hilbert = (n: number): Matrix => build(n, n, (i, j) => 1 / (i + j + 1));
const gaussianKernel = (n: number): Matrix => build(n, n, (i, j) => Math.exp(-(((i - j) / 40) ** 2)));

/** Symmetric matrices [n, n]. */
export const symmetricFamilies = {
  "normal numbers": (n) => symmetricPart(normalMatrix(n, n, 7)),
  ...mapped(spectra, (value) => (n: number) => ofEigenvalues(n, 7, (k) => value(k, n))),
  "values of both signs": (n) => ofEigenvalues(n, 7, (k) => (k % 2 === 0 ? 1 : -1) * 0.99 ** k),
  "second differences": secondDifferences,
  "Wilkinson's pairs": (n) =>
    tridiagonal(
      n,
      (i) => Math.abs(i - (n - 1) / 2),
      () => 1,
    ),
  "glued Wilkinson": (n) =>
    tridiagonal(
      n,
      (i) => Math.abs((i % 21) - 10),
      (i) => (i % 21 === 20 ? 1e-8 : 1),
    ),
  "graded, large last": (n) =>
    tridiagonal(
      n,
      (i) => 10 ** ((16 * i) / n - 16),
      (i) => 0.5 * 10 ** ((16 * i) / n - 16),
    ),
  "graded, large first": (n) => build(n, n, (i, j) => 10 ** ((-16 * Math.max(i, j)) / n)),
  "couplings of 1e-12": (n) =>
    tridiagonal(
      n,
      () => 1,
      (i) => 1e-12 * Math.sin(i + 1),
    ),
  zero: (n) => build(n, n, () => 0),
  "all entries equal": (n) => build(n, n, () => 1),
  "the permutation that reverses": (n) => build(n, n, (i, j) => (i + j === n - 1 ? 1 : 0)),
  "Hilbert's": hilbert,
} satisfies Record<string, (n: number) => Matrix>;

/** Positive definite matrices [n, n], or all but. */
export const definiteFamilies = {
  "min(i, j), whose factor is all ones": (n) => build(n, n, (i, j) => Math.min(i, j) + 1),
  "second differences": secondDifferences,
  "Hilbert's, numerically of rank 20": hilbert,
  "a Gaussian kernel of points that nearly coincide": gaussianKernel,
  "the same with damping": (n) => plus(gaussianKernel(n), scaled(identity(n), 1e-12)),
  "a geometric spectrum": (n) => ofEigenvalues(n, 7, (k) => 0.9 ** k),
  "0.95·I plus small rank": (n) => ofEigenvalues(n, 7, (k) => (k < 5 ? 1 + 0.1 * k : 0.95)),
  "rank 3": (n) => symmetricPart(product(normalMatrix(n, 3, 5), transpose(normalMatrix(n, 3, 5)))),
} satisfies Record<string, (n: number) => Matrix>;
