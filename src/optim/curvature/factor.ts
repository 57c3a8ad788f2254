import { CheckpointError, formatShape, requireFloat, sameShape, Tensor, tidy, unscoped } from "../../tensor/index.ts";
import { MatrixAverage, type AverageCounts, type AverageForm } from "./average.ts";
import type { BlockState } from "./block.ts";
import type { CurvatureView } from "./view.ts";

/** The two Kronecker factors: Ω, of a layer's inputs, and Γ, of the gradients of its outputs. */
export type FactorName = "input" | "output";

/** Something of each factor. */
export type Factors<Part> = Readonly<Record<FactorName, Part>>;

/**
 * Something of each factor, computed for both at the same time. If one of them fails, the other's is released.
 * @throws what failed, the input factor's before the output factor's.
 */
export async function ofBoth<Part>(compute: (name: FactorName) => Promise<Part>, release: (part: Part) => void): Promise<Factors<Part>> {
  const [input, output] = await Promise.allSettled([compute("input"), compute("output")]);
  if (input.status === "fulfilled" && output.status === "fulfilled") return { input: input.value, output: output.value };
  for (const part of [input, output]) if (part.status === "fulfilled") release(part.value);
  throw input.status === "rejected" ? input.reason : (output as PromiseRejectedResult).reason;
}

/** A factor at the time of inversion: matrix + residual · I. */
export interface FactorSnapshot {
  readonly matrix: Tensor;
  readonly residual: number;
}

/** A factor with more on its diagonal. */
export interface ShiftedFactor<Snapshot> {
  readonly snapshot: Snapshot;
  /** Releases what was made for it. */
  dispose(): void;
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
export type FactorLayer = Pick<CurvatureView, "weight" | "dA" | "dOut" | "positions">;

/** A factor as the exponential average of its covariance matrices. */
export class CovarianceFactor implements FactorAverage<FactorSnapshot> {
  readonly #name: FactorName;
  readonly #layer: string;
  readonly #width: number;
  readonly #scale: number;
  readonly #average: MatrixAverage;
  /** Makes one of the same layer without values. */
  readonly #another: () => CovarianceFactor;

  constructor(name: FactorName, { weight, dA, dOut, positions }: FactorLayer, options: FactorOptions) {
    const { statDecay, averageForm, factorScaling } = options;
    this.#name = name;
    this.#layer = weight.name;
    this.#width = widthOf(name, { dA, dOut });
    this.#scale = factorScaling === "paper" ? positions ** (name === "input" ? -2 : 2) : 1;
    this.#another = () => new CovarianceFactor(name, { weight, dA, dOut, positions }, options);
    this.#average = new MatrixAverage({ form: averageForm, decay: statDecay });
  }

  get count(): number {
    return this.#average.count;
  }

  observe(view: CurvatureView): void {
    const value = this.#name === "input" ? view.inputCovariance() : view.outputCovariance();
    this.#average.observe(this.#scale === 1 ? value : value.multiply(this.#scale));
  }

  snapshot(): FactorSnapshot {
    return { matrix: this.#average.value, residual: this.#average.residual };
  }

  copy(): CovarianceFactor {
    const copy = this.#another();
    const state = this.#average.state();
    copy.#average.load(state);
    state.value?.dispose();
    return copy;
  }

  shifted(extra: number): ShiftedFactor<FactorSnapshot> {
    const { matrix, residual } = this.snapshot();
    const dtype = requireFloat("a factor", matrix.dtype);
    const identity = { dtype, backend: matrix.backend };
    const sum = unscoped(() => tidy(() => matrix.add(Tensor.eye(this.#width, identity).multiply(extra))));
    return {
      snapshot: { matrix: sum, residual },
      dispose: () => {
        sum.dispose();
      },
    };
  }

  async meanEigenvalue(): Promise<number> {
    return (await traceOf(this.#average.value)) / this.#width;
  }

  state(): BlockState {
    const { value, ...counts } = this.#average.state();
    return { tensors: new Map(value ? [["matrix", value]] : []), numbers: counts };
  }

  check({ tensors }: BlockState): void {
    requireShape(`${this.#name} factor`, this.#layer, tensors.get("matrix"), [this.#width, this.#width]);
  }

  load({ tensors, numbers }: BlockState): void {
    this.#average.load({ value: tensors.get("matrix") ?? null, ...countsOf(numbers) });
  }

  dispose(): void {
    this.#average.dispose();
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

/** The sum of the diagonal of a square matrix. */
export async function traceOf(matrix: Tensor): Promise<number> {
  const n = matrix.shape[0] as number;
  // Every (n + 1)th element, of which only these are read.
  using diagonal = unscoped(() => tidy(() => matrix.reshape([-1]).slice([0], [n], [n + 1])));
  return Array.from(await diagonal.data()).reduce((sum, value) => sum + value, 0);
}
