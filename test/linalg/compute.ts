import { inWorkspace, onHost, type Workspace } from "../../src/linalg/arithmetic.ts";
import { choleskyIn, choleskySize } from "../../src/linalg/cholesky.ts";
import { eigenvaluesIn, eighIn, eighSize } from "../../src/linalg/eigh.ts";
import { cholesky, eigh, qr, svd } from "../../src/linalg/index.ts";
import { qrIn, qrSize, type QrOptions } from "../../src/linalg/qr.ts";
import { singularValuesIn, singularValuesSize, svdIn, svdSize } from "../../src/linalg/svd.ts";
import { openWasm } from "../../src/tensor/backends/wasm/index.ts";
import { Tensor, type Backend, type FloatDType } from "../../src/tensor/index.ts";
import { matrix, type Matrix } from "./dense.ts";

/* The factorizations of plain matrices: by an arithmetic in a workspace, and as functions on tensors. */

/** Computes in a workspace of `size` numbers. */
export type Compute = <T>(size: number, f: (space: Workspace) => T) => T;
export const onBackend =
  (backend: Backend): Compute =>
  (size, f) =>
    inWorkspace(backend, size, f);

/** The engine on one thread. */
export const onEngine = onBackend(openWasm({ threads: 1 }));
/** Every implementation of the arithmetic that factorizations are made of. */
export const arithmetics: readonly (readonly [name: string, compute: Compute])[] = [
  ["plain loops", onHost],
  ["the engine", onEngine],
];

/** The result, or what was thrown. */
export type Outcome<T> = { readonly result: T } | { readonly error: unknown };
export function attempt<T>(f: () => T): Outcome<T> {
  try {
    return { result: f() };
  } catch (error) {
    return { error };
  }
}

export const attempted = <T>(promise: Promise<T>): Promise<Outcome<T>> =>
  promise.then(
    (result) => ({ result }),
    (error: unknown) => ({ error }),
  );

export interface Eigenpairs {
  readonly values: Float64Array;
  readonly vectors: Matrix;
}
export function eighBy(compute: Compute, { data, rows: n }: Matrix): Eigenpairs {
  const { values, vectors } = compute(eighSize(n), (space) => eighIn(space, data, n));
  return { values, vectors: matrix(n, n, vectors) };
}
export const eigenvaluesBy = (compute: Compute, { data, rows: n }: Matrix): Float64Array =>
  compute(eighSize(n), (space) => eigenvaluesIn(space, data, n));

export interface SingularTriplets {
  readonly u: Matrix;
  readonly values: Float64Array;
  readonly v: Matrix;
}
export function svdBy(compute: Compute, { data, rows: m, columns: n }: Matrix): SingularTriplets {
  const { u, values, v } = compute(svdSize(m, n), (space) => svdIn(space, data, m, n));
  return { u: matrix(m, values.length, u), values, v: matrix(n, values.length, v) };
}
export const singularValuesBy = (compute: Compute, { data, rows: m, columns: n }: Matrix): Float64Array =>
  compute(singularValuesSize(m, n), (space) => singularValuesIn(space, data, m, n));

export interface Triangularized {
  readonly q: Matrix;
  readonly r: Matrix;
}
export function qrBy(compute: Compute, { data, rows: m, columns: n }: Matrix, options: QrOptions = {}): Triangularized {
  const size = options.full ? m : Math.min(m, n);
  const { q, r } = compute(qrSize(m, n, options), (space) => qrIn(space, data, m, n, options));
  return { q: matrix(m, size, q), r: matrix(size, n, r) };
}

export const choleskyBy = (compute: Compute, { data, rows: n }: Matrix): Matrix =>
  matrix(
    n,
    n,
    compute(choleskySize(n), (space) => choleskyIn(space, data, n)),
  );

/** The matrix that a tensor of the type holds. */
export const held = (a: Matrix, dtype: FloatDType): Matrix =>
  dtype === "float64" ? a : matrix(a.rows, a.columns, Float32Array.from(a.data));
export const tensorOf = (a: Matrix, dtype: FloatDType, backend?: Backend): Tensor =>
  Tensor.from(a.data, { dtype, shape: [a.rows, a.columns], ...(backend && { backend }) });

/** What a tensor holds as a matrix; the tensor is disposed. */
export async function taken(t: Tensor): Promise<Matrix> {
  using own = t;
  const [rows = 1, columns = 1] = t.shape;
  return matrix(rows, columns, await own.data());
}

/* The functions on tensors, of matrices in a given type and on a given backend. */

export async function eighOfTensor(a: Matrix, dtype: FloatDType, backend?: Backend): Promise<Eigenpairs> {
  using t = tensorOf(a, dtype, backend);
  const { values, vectors } = await eigh(t);
  return { values: (await taken(values)).data, vectors: await taken(vectors) };
}

export async function svdOfTensor(a: Matrix, dtype: FloatDType, backend?: Backend): Promise<SingularTriplets> {
  using t = tensorOf(a, dtype, backend);
  const { u, values, v } = await svd(t);
  return { u: await taken(u), values: (await taken(values)).data, v: await taken(v) };
}

export async function qrOfTensor(a: Matrix, dtype: FloatDType, backend?: Backend): Promise<Triangularized> {
  using t = tensorOf(a, dtype, backend);
  const { q, r } = await qr(t);
  return { q: await taken(q), r: await taken(r) };
}

export async function choleskyOfTensor(a: Matrix, dtype: FloatDType, backend?: Backend): Promise<Matrix> {
  using t = tensorOf(a, dtype, backend);
  return await taken(await cholesky(t));
}
