import { frobeniusNormHost, routines, type Routines } from "../../linalg/index.ts";
import { resolution } from "../../linalg/semidefinite.ts"; // no part of the interface: a statement about `eigh` and `cholesky`
import { machineEpsilon, requireFloat, Tensor, unscoped, type DType } from "../../tensor/index.ts";
import type { BlockReport, BlockState } from "../curvature/block.ts";
import { ofBoth, type FactorSnapshot } from "../curvature/factor.ts";

/** A factor's eigenvectors as columns, eigenvalues as a vector, and the figures of them that damping needs. */
export interface Spectrum {
  readonly vectors: Tensor;
  readonly values: Tensor;
  readonly largest: number;
  readonly smallest: number;
  readonly trace: number;
  /** The eigenvalues on the host, descending; not after loading. */
  readonly numbers?: readonly number[];
}

/** The spectra of both factors of a layer. */
export interface Spectra {
  readonly input: Spectrum;
  readonly output: Spectrum;
}

/**
 * By how much rounding may move the eigenvalues of a factor M of order d, relative to ‖M‖_F: one that is not larger cannot be told from 0.
 *
 * An entry that is rounded to M's type is off by at most ε times itself, so that M + E comes out, ‖E‖₂ ≤ ‖E‖_F ≤ ε‖M‖_F, and no eigenvalue
 * moves by more than ‖E‖₂ (Weyl). But entries are sums, whose terms were rounded, too. Errors of sums are nearly independent: with d, ‖E‖₂ grows
 * like √d, and ‖M‖_F like d. Of some 40 000 singular Gram matrices of float32 rows, and averages of them (d from 2 to 800, rank 1 to d − 1,
 * 1 to 32768 rows of either or of one sign), eigenvalues that stand for 0 were measured as at most 9/√d ε‖M‖_F; 24/√d leaves room. The
 * decomposition itself, in float64, adds `resolution`.
 */
export function relativeRounding(d: number, dtype: DType): number {
  return (1 + 24 / Math.sqrt(d)) * machineEpsilon[requireFloat("a factor", dtype)] + resolution(d);
}

/** The eigendecomposition of a factor, residual included. Eigenvalues that are rounding are 0. */
async function spectrumOf({ matrix, residual }: FactorSnapshot, linalg: Routines): Promise<Spectrum> {
  const { dtype, backend } = matrix;
  const { values, vectors } = await linalg.eigh(matrix);
  const host = Float64Array.from(await values.data());
  values.dispose();
  // A factor is positive semidefinite. The threshold is relative, since late factors of a well-trained network have largest eigenvalues
  // far below 1.
  const top = host.reduce((a, b) => Math.max(a, b), 0);
  const floor = relativeRounding(host.length, dtype) * frobeniusNormHost(host);
  const clean = host.map((value) => (value <= floor ? 0 : value) + residual);
  return {
    vectors,
    values: unscoped(() => Tensor.from(clean, { dtype, backend })),
    largest: top + residual,
    smallest: clean.reduce((a, b) => Math.min(a, b), Infinity),
    trace: clean.reduce((a, b) => a + b, 0),
    numbers: Array.from(clean).reverse(),
  };
}

/**
 * Both factors' eigendecompositions. A second attempt in float64 can do no better: `eigh` computes in float64 whatever the type, and λ is not
 * added here, but to eigenvalues, when the inverse is applied. There nothing of it is lost that counts: a sum rounds λ away only where the
 * eigenvalue is 1/ε times as large.
 */
export function spectraOf(input: FactorSnapshot, output: FactorSnapshot, linalg: Routines = routines): Promise<Spectra> {
  const factors = { input, output };
  return ofBoth((name) => spectrumOf(factors[name], linalg), release);
}

/** A layer that no gradient has reached yet, or whose input was always 0: there is no curvature to speak of. */
export function isZero({ input, output }: Spectra): boolean {
  return input.largest === 0 || output.largest === 0;
}

/** Q_gᵀ J Q_a: a gradient [dOut, dA] in the factors' bases. */
export function rotated({ input, output }: Spectra, gradient: Tensor): Tensor {
  return output.vectors.matmul(gradient, { transposeA: true }).matmul(input.vectors);
}

/** Q_g Z Q_aᵀ: back from the bases. */
export function rotatedBack({ input, output }: Spectra, gradient: Tensor): Tensor {
  return output.vectors.matmul(gradient).matmul(input.vectors, { transposeB: true });
}

/** For a block's report. */
export function describeSpectra(spectra: Spectra | null): Pick<BlockReport, "figures" | "spectra"> {
  const figures: Record<string, number> = {};
  const known: Record<string, readonly number[]> = {};
  for (const [name, { vectors, largest, smallest, trace, numbers }] of Object.entries(spectra ?? {}) as [string, Spectrum][]) {
    const parts = { largest, smallest, trace, rank: vectors.shape[1] as number, truncation: 0 };
    for (const [key, value] of Object.entries(parts)) figures[`${name}.${key}`] = value;
    if (numbers) known[name] = numbers;
  }
  return { figures, spectra: known };
}

export function saveSpectra(spectra: Spectra | null): { tensors: Map<string, Tensor>; numbers: Record<string, number> } {
  const tensors = new Map<string, Tensor>();
  const numbers: Record<string, number> = {};
  for (const [name, { vectors, values, largest, smallest, trace }] of Object.entries(spectra ?? {}) as [string, Spectrum][]) {
    tensors.set(`${name}.vectors`, vectors.keep());
    tensors.set(`${name}.values`, values.keep());
    for (const [key, value] of Object.entries({ largest, smallest, trace })) numbers[`${name}.${key}`] = value;
  }
  return { tensors, numbers };
}

export function loadSpectra({ tensors, numbers }: BlockState): Spectra | null {
  const spectrum = (name: string): Spectrum | null => {
    const [vectors, values] = [tensors.get(`${name}.vectors`), tensors.get(`${name}.values`)];
    if (!vectors || !values) return null;
    const figure = (key: string): number => numbers[`${name}.${key}`] ?? 0;
    return {
      vectors: vectors.hold(),
      values: values.hold(),
      largest: figure("largest"),
      smallest: figure("smallest"),
      trace: figure("trace"),
    };
  };
  const [input, output] = [spectrum("input"), spectrum("output")];
  return input && output && { input, output };
}

export function releaseSpectra(spectra: Spectra | null): void {
  for (const spectrum of Object.values(spectra ?? {}) as Spectrum[]) release(spectrum);
}

function release({ vectors, values }: Spectrum): void {
  vectors.dispose();
  values.dispose();
}
