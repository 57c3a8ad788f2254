import { widened } from "../../linalg/transfer.ts"; // no part of the interface: a device without float64 has a host that has it
import { CheckpointError, formatShape, requireFloat, sameShape, Tensor, tidy, unscoped } from "../../tensor/index.ts";
import { MatrixAverage, type AverageCounts, type AverageForm } from "./average.ts";
import { joined, partOf, type BlockState } from "./block.ts";
import { Terms, type TermBounds } from "./terms.ts";
import type { CurvatureView } from "./view.ts";

/** The two Kronecker factors: Ω, of a layer's inputs, and Γ, of the gradients of its outputs. */
export type FactorName = "input" | "output";

/** Something of each factor. */
export type Factors<Part> = Readonly<Record<FactorName, Part>>;

/**
 * Something of each factor, computed one after the other, so that only one has its intermediate results in memory. If the second one
 * fails, the first one's is released.
 */
export async function ofBoth<Part>(compute: (name: FactorName) => Promise<Part>, release: (part: Part) => void): Promise<Factors<Part>> {
  const input = await compute("input");
  try {
    return { input, output: await compute("output") };
  } catch (error) {
    release(input);
    throw error;
  }
}

/** A factor at the time of inversion: matrix + residual · I. */
export interface FactorSnapshot {
  readonly matrix: Tensor;
  readonly residual: number;
  /** What is left in the matrix of an identity that its average began with: no eigenvalue is smaller. */
  readonly floor: number;
}

/** A factor with more on its diagonal. */
export interface ShiftedFactor<Snapshot> {
  readonly snapshot: Snapshot;
  /** Releases what was made for it. */
  dispose(): void;
}

/** What a factor is made of: enough to bound the decay of its spectrum. */
export interface FactorTerms {
  /** Number of rows. */
  readonly width: number;
  /** Number of values. */
  readonly values: number;
  /** The largest ρ that they were averaged with. */
  readonly decay: number;
  /** What is left of the identity that the average began with. */
  readonly identity: number;
  readonly bounds: TermBounds;
}

/** One Kronecker factor over time, in the form in which it is inverted. */
export interface FactorAverage<Snapshot> {
  /** Number of values that are in it. */
  readonly count: number;
  /** Takes in the step's value. Runs inside a tidy. */
  observe(view: CurvatureView): void;
  /**
   * Finishes what `observe` began, where that takes reading. Whether the factor changed in such a way that an inversion is due at once,
   * whatever the cadence.
   * @throws NumericalError; the factor is then without the value.
   */
  update?(step: number): Promise<boolean>;
  /** As it is now. The tensors stay the average's, until its next value. */
  snapshot(): Snapshot;
  /** Another one with what is in this one now, for an inversion that goes on over its next values. Absent if that is not to be. */
  copy?(): FactorAverage<Snapshot>;
  /** The same with `extra` on the diagonal, for an inversion that failed without. */
  shifted(extra: number): ShiftedFactor<Snapshot>;
  /** Without the residual. */
  meanEigenvalue(): Promise<number>;
  terms(): Promise<FactorTerms>;
  /** The tensors' handles are the receiver's. */
  state(): BlockState;
  /** @throws CheckpointError if the state does not fit. */
  check(state: BlockState): void;
  load(state: BlockState): void;
  dispose(): void;
}

export interface FactorOptions {
  /** Decay ρ of the factors' exponential averages, or a function of the number of values seen. Default .95. */
  readonly statDecay?: number | ((count: number) => number) | undefined;
  /** How the averages begin. Default `normalized`. */
  readonly averageForm?: AverageForm | undefined;
  /**
   * How the scale of Γ ⊗ Ω is split between the factors: `kfc`, Ω = (1/n) Σ a aᵀ and Γ = (1/nT) Σ g gᵀ, or `paper`, Ω/T² and T²Γ
   * as in the paper's code. The product is the same; it matters to identity-initialised averages. Default `kfc`.
   */
  readonly factorScaling?: "kfc" | "paper" | undefined;
}

/** What a factor needs to know of its layer. */
export type FactorLayer = Pick<CurvatureView, "weight" | "dA" | "dOut">;

/** A factor as the exponential average of its covariance matrices. */
export class CovarianceFactor implements FactorAverage<FactorSnapshot> {
  readonly #name: FactorName;
  readonly #layer: string;
  readonly #width: number;
  readonly #scaling: FactorOptions["factorScaling"];
  readonly #average: MatrixAverage;
  readonly #terms = new Terms();
  /** Makes one of the same layer without values. */
  readonly #another: () => CovarianceFactor;

  constructor(name: FactorName, { weight, dA, dOut }: FactorLayer, options: FactorOptions) {
    const { statDecay, averageForm, factorScaling } = options;
    this.#name = name;
    this.#layer = weight.name;
    this.#width = widthOf(name, { dA, dOut });
    this.#scaling = factorScaling;
    this.#another = () => new CovarianceFactor(name, { weight, dA, dOut }, options);
    this.#average = new MatrixAverage({ form: averageForm, decay: statDecay });
  }

  get count(): number {
    return this.#average.count;
  }

  observe(view: CurvatureView): void {
    const covariance = this.#name === "input" ? view.inputCovariance() : view.outputCovariance();
    const scale = this.#scaling === "paper" ? view.positions ** (this.#name === "input" ? -2 : 2) : 1;
    const value = scale === 1 ? covariance : covariance.multiply(scale);
    this.#average.observe(value);
    this.#terms.observe(this.#name === "input" ? view.inputRows : view.outputRows, diagonalOf(value).sum());
  }

  snapshot(): FactorSnapshot {
    const { value: matrix, residual, identity } = this.#average;
    return { matrix, residual, floor: identity - residual };
  }

  copy(): CovarianceFactor {
    const copy = this.#another();
    const state = this.state();
    copy.load(state);
    for (const tensor of state.tensors.values()) tensor.dispose();
    return copy;
  }

  shifted(extra: number): ShiftedFactor<FactorSnapshot> {
    const { matrix, residual, floor } = this.snapshot();
    const dtype = requireFloat("a factor", matrix.dtype);
    const identity = { dtype, backend: matrix.backend };
    const sum = unscoped(() => tidy(() => matrix.add(Tensor.eye(this.#width, identity).multiply(extra))));
    return {
      snapshot: { matrix: sum, residual, floor: floor + extra },
      dispose: () => {
        sum.dispose();
      },
    };
  }

  async meanEigenvalue(): Promise<number> {
    return (await traceOf(this.#average.value)) / this.#width;
  }

  async terms(): Promise<FactorTerms> {
    const { count, slowest, identity } = this.#average;
    return { width: this.#width, values: count, decay: slowest, identity, bounds: await this.#terms.bounds() };
  }

  state(): BlockState {
    const { value, ...counts } = this.#average.state();
    const { tensors, numbers } = joined({ terms: this.#terms.state() });
    return { tensors: new Map([...tensors, ...(value ? ([["matrix", value]] as const) : [])]), numbers: { ...numbers, ...counts } };
  }

  check({ tensors }: BlockState): void {
    requireShape(`${this.#name} factor`, this.#layer, tensors.get("matrix"), [this.#width, this.#width]);
  }

  load(state: BlockState): void {
    this.#average.load({ value: state.tensors.get("matrix") ?? null, ...countsOf(state.numbers) });
    this.#terms.load(partOf(state, "terms"));
  }

  dispose(): void {
    this.#average.dispose();
    this.#terms.dispose();
  }
}

/** Both factors of a layer as averages of covariance matrices. */
export function covarianceFactors(view: CurvatureView, options: FactorOptions): Factors<CovarianceFactor> {
  return { input: new CovarianceFactor("input", view, options), output: new CovarianceFactor("output", view, options) };
}

/** Number of rows of a factor. */
export function widthOf(name: FactorName, { dA, dOut }: Pick<CurvatureView, "dA" | "dOut">): number {
  return name === "input" ? dA : dOut;
}

/** The counts of an average in a saved state; those of a new one where there are none. */
export function countsOf(numbers: Readonly<Record<string, number>>): AverageCounts {
  return { count: numbers["count"] ?? 0, weight: numbers["weight"] ?? 0, residual: numbers["residual"] ?? 1 };
}

/** @throws CheckpointError unless a saved tensor, if there is one, has the layer's shape. */
export function requireShape(what: string, layer: string, saved: Tensor | undefined, shape: readonly number[]): void {
  if (!saved || sameShape(saved.shape, shape)) return;
  throw new CheckpointError(`the saved ${what} of "${layer}" is ${formatShape(saved.shape)} but the layer's is ${formatShape(shape)}`);
}

/** Every (n + 1)th element of a square matrix. */
export function diagonalOf(matrix: Tensor): Tensor {
  const n = matrix.shape[0] as number;
  return matrix.reshape([-1]).slice([0], [n], [n + 1]);
}

/** The sum of the diagonal of a square matrix. */
export async function traceOf(matrix: Tensor): Promise<number> {
  using diagonal = unscoped(() => tidy(() => diagonalOf(matrix))); // of which only these elements are read
  return Array.from(await diagonal.data()).reduce((sum, value) => sum + value, 0);
}

/** A matrix as an attempt computes with it: in its own type, or in float64. The caller's. */
export function inPrecision(matrix: Tensor, wide: boolean): Promise<Tensor> {
  return wide ? widened(matrix) : Promise.resolve(matrix.hold());
}
