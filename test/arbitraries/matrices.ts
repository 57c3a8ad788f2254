import fc, { type Arbitrary } from "fast-check";
import { build, diagonal, identity, minus, product, scaled, symmetricPart, transpose, type Matrix } from "../linalg/dense.ts";

/*
 * Matrices whose spectrum is known because they are built from it: A = scale · Q Λ Qᵀ. The orthogonal Q comes from one integer
 * (0 gives the identity), so a failing case shrinks to a small, diagonal matrix with plain eigenvalues.
 */

/** A symmetric matrix, and the eigenvalues it was built from (ascending, scale included). */
export interface SpectralCase {
  readonly a: Matrix;
  readonly n: number;
  readonly spectrum: Float64Array;
}

export const seeds: Arbitrary<number> = fc.integer({ min: 0, max: 2 ** 31 - 1 });
export const sizes: Arbitrary<number> = fc.integer({ min: 1, max: 24 });
/** float32 and float64 both hold these, but their squares leave float32. */
const scales: Arbitrary<number> = fc.constantFrom(1, 1e-30, 1e30);

/** Independent standard normal numbers from a seed (mulberry32 and Box–Muller). */
function normals(seed: number): () => number {
  let state = seed | 0;
  const uniform = (): number => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
  return () => Math.sqrt(-2 * Math.log(1 - uniform())) * Math.cos(2 * Math.PI * uniform());
}

/** A matrix of independent normal numbers; the seed 0 gives ones, for a shrunk case that is easy to read. */
export function normalMatrix(rows: number, columns: number, seed: number): Matrix {
  const draw = normals(seed);
  return build(rows, columns, () => (seed === 0 ? 1 : draw()));
}

/** A random orthogonal matrix, the product of n reflections; the seed 0 gives the identity. */
export function orthogonal(n: number, seed: number): Matrix {
  if (seed === 0) return identity(n);
  let q = identity(n);
  for (let k = 0; k < n; k++) {
    const u = normalMatrix(n, 1, seed + k);
    const length = product(transpose(u), u).data[0] as number;
    q = minus(q, scaled(product(q, u, transpose(u)), 2 / length));
  }
  return q;
}

/** The symmetric matrix of a given spectrum in the basis of `seed`. */
export function ofSpectrum(values: ArrayLike<number>, seed: number, scale = 1): SpectralCase {
  const n = values.length;
  const q = orthogonal(n, seed);
  const a = scaled(symmetricPart(product(q, diagonal(values), transpose(q))), scale);
  return { a, n, spectrum: Float64Array.from(values, (value) => value * scale).sort() };
}

/** A matrix [m, n] of given singular values, zeros where they end, between the bases of `seed`. */
export function ofSingularValues(m: number, n: number, values: readonly number[], seed: number): Matrix {
  const between = build(m, n, (i, j) => (i === j ? (values[i] ?? 0) : 0));
  return product(orthogonal(m, seed), between, transpose(orthogonal(n, seed === 0 ? 0 : seed + m)));
}

/** Shapes of spectra that curvature matrices and other trouble-makers have, simplest first. `ratio` in (0, 1]. */
const spectra = {
  flat: () => 1,
  geometric: (k, _, ratio) => ratio ** k,
  clustered: (k, n, ratio) => 0.95 + (1e-6 * ratio * k) / n,
  rankDeficient: (k, n, ratio) => (k < n / 3 ? ratio ** k : 0),
  oneHuge: (k, _, ratio) => (k === 0 ? 1e8 : ratio),
  withZeros: (k, _, ratio) => (k % 2 === 0 ? 0 : ratio ** k),
} satisfies Record<string, (k: number, n: number, ratio: number) => number>;
export type SpectrumName = keyof typeof spectra;

function spectrumOf(name: SpectrumName, n: number, ratio: number): number[] {
  return Array.from({ length: n }, (_, k) => spectra[name](k, n, ratio));
}

const spectrumNames = Object.keys(spectra) as SpectrumName[];
const ratios = fc.constantFrom(1, 0.9, 0.5, 0.1);

/** Positive semidefinite matrices of every named spectrum and of free ones, at ordinary, tiny and huge scale. */
export function semidefiniteMatrices(): Arbitrary<SpectralCase> {
  const named = fc
    .record({ n: sizes, name: fc.constantFrom(...spectrumNames), ratio: ratios, seed: seeds, scale: scales })
    .map(({ n, name, ratio, seed, scale }) => ofSpectrum(spectrumOf(name, n, ratio), seed, scale));
  return fc.oneof(named, freeMatrices(0));
}

/** Symmetric matrices: as above with every other eigenvalue negated, and free spectra of both signs. */
export function symmetricMatrices(): Arbitrary<SpectralCase> {
  const named = fc
    .record({ n: sizes, name: fc.constantFrom(...spectrumNames), ratio: ratios, seed: seeds, scale: scales })
    .map(({ n, name, ratio, seed, scale }) =>
      ofSpectrum(
        spectrumOf(name, n, ratio).map((value, k) => (k % 2 === 0 ? value : -value)),
        seed,
        scale,
      ),
    );
  return fc.oneof(semidefiniteMatrices(), named, freeMatrices(-1));
}

function freeMatrices(min: number): Arbitrary<SpectralCase> {
  // So small that they would be subnormal after scaling, where rounding is no longer relative: those cases have tests of their own.
  const eigenvalue = fc.double({ min, max: 1, noNaN: true }).map((value) => (Math.abs(value) < 2 ** -100 ? 0 : value));
  const eigenvalues = fc.array(eigenvalue, { minLength: 1, maxLength: 24 });
  return fc.record({ eigenvalues, seed: seeds, scale: scales }).map(({ eigenvalues, seed, scale }) => ofSpectrum(eigenvalues, seed, scale));
}

export interface DefiniteOptions {
  /** Condition numbers go up to 10^decades. Default 6. */
  readonly decades?: number;
  /** Largest number of rows. Default 24. */
  readonly maxSize?: number;
}

/** Positive definite matrices of a given condition number, with eigenvalues evenly spread in logarithm. */
export function definiteMatrices(options: DefiniteOptions = {}): Arbitrary<SpectralCase & { readonly condition: number }> {
  const { decades: most = 6, maxSize = 24 } = options;
  return fc
    .record({ n: fc.integer({ min: 1, max: maxSize }), decades: fc.integer({ min: 0, max: most }), seed: seeds, scale: scales })
    .map(({ n, decades, seed, scale }) => {
      const values = Array.from({ length: n }, (_, k) => 10 ** (n === 1 ? 0 : (-decades * k) / (n - 1)));
      return { ...ofSpectrum(values, seed, scale), condition: n === 1 ? 1 : 10 ** decades };
    });
}

/** A matrix [m, n] of any shape, and the singular values it was built from (descending, scale included). */
export interface SingularCase {
  readonly a: Matrix;
  readonly singularValues: Float64Array;
}

/** Tall, wide, square and empty matrices of every named spectrum, at ordinary, tiny and huge scale. */
export function rectangularMatrices(): Arbitrary<SingularCase> {
  const extent = fc.integer({ min: 0, max: 20 });
  return fc
    .record({ m: extent, n: extent, name: fc.constantFrom(...spectrumNames), ratio: ratios, seed: seeds, scale: scales })
    .map(({ m, n, name, ratio, seed, scale }) => {
      const values = spectrumOf(name, Math.min(m, n), ratio);
      const singularValues = Float64Array.from(values, (value) => value * scale)
        .sort()
        .reverse();
      return { a: scaled(ofSingularValues(m, n, values, seed), scale), singularValues };
    });
}

/** Random orthogonal matrices; they shrink to small identities. */
export function orthogonalMatrices(): Arbitrary<Matrix> {
  return fc.tuple(sizes, seeds).map(([n, seed]) => orthogonal(n, seed));
}

/** Matrices of any (small) shape with entries that shrink to 0 and to whole numbers. */
export function smallMatrices(rows: Arbitrary<number> | number, columns: Arbitrary<number> | number): Arbitrary<Matrix> {
  const extent = (e: Arbitrary<number> | number): Arbitrary<number> => (typeof e === "number" ? fc.constant(e) : e);
  return fc
    .tuple(extent(rows), extent(columns))
    .chain(([m, n]) =>
      fc
        .array(fc.integer({ min: -1024, max: 1024 }), { minLength: m * n, maxLength: m * n })
        .map((entries) => build(m, n, (i, j) => (entries[i * n + j] as number) / 64)),
    );
}
