import { CheckpointError, formatShape, NumericalError, requireFloat, sameShape, Tensor, tidy, unscoped } from "../../tensor/index.ts";
import { hyperParameter, type Schedule } from "../schedules.ts";
import { MatrixAverage, type AverageForm } from "./average.ts";
import { NO_NEEDS, type BlockReport, type BlockState, type CaptureNeeds, type CurvatureBlock } from "./block.ts";
import type { CurvatureView } from "./view.ts";

export interface KroneckerOptions {
  /** λ; what it is relative to is the inverse's affair. */
  readonly damping: Schedule;
  /** Decay ρ of the factors' exponential averages, or a function of the number of values seen. Default .95. */
  readonly statDecay?: number | ((count: number) => number) | undefined;
  /** How the averages begin. Default `normalized`. */
  readonly averageForm?: AverageForm | undefined;
  /**
   * How the scale of Γ ⊗ Ω is split between the factors: `kfc`, Ω = (1/n) Σ a aᵀ and Γ = (1/nT) Σ g gᵀ, or `paper`, Ω/T² and T²Γ
   * as in the paper's code. The product is the same; it matters to identity-initialised averages. Default `kfc`.
   */
  readonly factorScaling?: "kfc" | "paper" | undefined;
  /** T_KU: steps between updates of the factors. Default 10. */
  readonly factorUpdateEvery?: Schedule | undefined;
  /** T_KI: steps between inversions. Default 50. */
  readonly inversionEvery?: Schedule | undefined;
}

/** How many times the damping an inversion that failed in float64, too, is tried with. */
const MORE_DAMPING = [10, 100, 1000];

/** A factor at the time of inversion: matrix + residual · I. */
export interface FactorSnapshot {
  readonly matrix: Tensor;
  readonly residual: number;
}

/** What a refresh has besides the factors. */
export interface RefreshContext {
  readonly step: number;
  /** λ of this step, or a multiple of it in a later attempt. */
  readonly damping: number;
  /** Compute in float64 whatever the factors' type: for a second attempt. */
  readonly wide: boolean;
}

/** What a step has for the preconditioning of one layer. */
export interface ApplyContext {
  /** λ of this step. */
  readonly damping: number;
  /** The step's own records, if they were asked for. */
  readonly view: CurvatureView | null;
}

/** How a method represents the two factors so that the damped product can be inverted. */
export interface KroneckerInverse {
  /** The method, as the registration table shows it. */
  readonly method: string;
  /** Whether `apply` wants the step's own factors of the gradient in its view. Default false. */
  readonly wantsGradient?: boolean;
  /** Computes from the factors and installs the result at once; what was installed before stays until then. */
  refresh(input: FactorSnapshot, output: FactorSnapshot, context: RefreshContext): Promise<void>;
  /** Finishes what `load` began, if reading is needed for that. */
  prepare?(): Promise<void>;
  /** Whether what is installed can be applied: false before the first refresh, and while a factor is zero. */
  readonly ready: boolean;
  /**
   * (Γ ⊗ Ω damped)⁻¹ applied to the gradient J [dOut, dA]. Where a factor is zero, nothing is known and the result is 0.
   * @throws NumericalError if the damped product is singular.
   */
  apply(gradient: Tensor, context: ApplyContext): Tensor;
  /** Of what is installed: see `BlockReport`. */
  describe(): Pick<BlockReport, "figures" | "spectra">;
  state(): BlockState;
  /** Replaces what is installed; an empty state leaves nothing. */
  load(state: BlockState): void;
  dispose(): void;
}

/** The curvature block of the methods that approximate a layer's Fisher by Γ ⊗ Ω (Martens and Grosse 2015; KFC, 2016). */
export class KroneckerBlock implements CurvatureBlock {
  readonly #name: string;
  readonly #widths: readonly [input: number, output: number];
  readonly #options: KroneckerOptions;
  readonly #inverse: KroneckerInverse;
  readonly #input: MatrixAverage;
  readonly #output: MatrixAverage;
  #observedAt = -1;
  /** Whether the factors have changed since the last inversion. */
  #changed = false;
  /** Since the last report. */
  #refreshed = false;
  #problems: string[] = [];

  constructor(view: CurvatureView, inverse: KroneckerInverse, options: KroneckerOptions) {
    this.#name = view.weight.name;
    this.#widths = [view.dA, view.dOut];
    this.#options = options;
    this.#inverse = inverse;
    const average = { form: options.averageForm, decay: options.statDecay };
    this.#input = new MatrixAverage(average);
    this.#output = new MatrixAverage(average);
  }

  get method(): string {
    return this.#inverse.method;
  }

  needs(step: number): CaptureNeeds {
    const gradient = this.#inverse.wantsGradient ?? false;
    const curvature = this.#updateDue(step);
    return curvature || gradient ? { curvature, gradient } : NO_NEEDS;
  }

  #updateDue(step: number): boolean {
    const every = hyperParameter("factorUpdateEvery", this.#options.factorUpdateEvery ?? 10, step, "a whole number of at least 1");
    return this.#input.count === 0 || step % every === 0;
  }

  observe(view: CurvatureView, step: number): void {
    // A step that failed later and is tried again has been observed already.
    if (!this.#updateDue(step) || this.#observedAt === step) return;
    const scale = this.#options.factorScaling === "paper" ? view.positions ** 2 : 1;
    const scaled = (factor: Tensor, by: number): Tensor => (by === 1 ? factor : factor.multiply(by));
    this.#input.observe(scaled(view.inputCovariance(), 1 / scale));
    this.#output.observe(scaled(view.outputCovariance(), scale));
    [this.#observedAt, this.#changed] = [step, true];
  }

  async refresh(step: number): Promise<void> {
    await this.#inverse.prepare?.();
    if (this.#input.count === 0) return;
    const every = hyperParameter("inversionEvery", this.#options.inversionEvery ?? 50, step, "a whole number of at least 1");
    const due = this.#inverse.ready ? step % every === 0 : this.#changed;
    if (!due) return;
    const factors = [this.#input, this.#output].map(({ value, residual }): FactorSnapshot => ({ matrix: value.hold(), residual }));
    try {
      await this.#invert(factors as [FactorSnapshot, FactorSnapshot], this.#damping(step), step);
      this.#changed = false;
      this.#refreshed = true;
    } finally {
      for (const { matrix } of factors) matrix.dispose();
    }
  }

  /**
   * Inverts, and where that fails tries again in float64, then with more damping; then it stays with the inverse from before. Every such
   * step is reported.
   * @throws NumericalError, that of the first attempt, if there is no inverse from before.
   */
  async #invert([input, output]: readonly [FactorSnapshot, FactorSnapshot], damping: number, step: number): Promise<void> {
    const attempts = [
      { name: "", wide: false, more: 0 },
      { name: "in float64", wide: true, more: 0 },
      ...MORE_DAMPING.map((more) => ({ name: `in float64 with ${more} times the damping`, wide: true, more })),
    ];
    let first: unknown;
    for (const { name, wide, more } of attempts) {
      const own: Tensor[] = [];
      try {
        // For methods that damp when they are applied, the factors themselves have more on their diagonal: that many times λ of the mean
        // eigenvalue.
        const factors: FactorSnapshot[] = [];
        for (const factor of [input, output]) factors.push(more === 0 ? factor : await shifted(factor, more * damping, own));
        const [a, g] = factors as [FactorSnapshot, FactorSnapshot];
        await this.#inverse.refresh(a, g, { step, damping: damping * Math.max(1, more), wide });
        if (first !== undefined) this.#problems.push(`inverted ${name} at step ${step}, since ${messageOf(first)}`);
        return;
      } catch (cause) {
        if (!(cause instanceof NumericalError)) throw cause;
        first ??= cause;
      } finally {
        for (const tensor of own) tensor.dispose();
      }
    }
    if (!this.#inverse.ready) throw this.#explained(first, "inverted", step);
    this.#problems.push(`not inverted at step ${step}, so the inverse from before stays, since ${messageOf(first)}`);
  }

  report(): BlockReport | null {
    if (!this.#refreshed && this.#problems.length === 0) return null;
    const problems = this.#problems;
    [this.#refreshed, this.#problems] = [false, []];
    return { ...this.#inverse.describe(), problems };
  }

  precondition(gradient: Tensor, { step, view }: { readonly step: number; readonly view: CurvatureView | null }): Tensor {
    try {
      return tidy(() => this.#inverse.apply(gradient, { damping: this.#damping(step), view }));
    } catch (cause) {
      throw this.#explained(cause, "applied", step);
    }
  }

  #damping(step: number): number {
    return hyperParameter("damping", this.#options.damping, step, "at least 0");
  }

  #explained(cause: unknown, what: string, step: number): unknown {
    if (!(cause instanceof NumericalError)) return cause;
    return new NumericalError(`the curvature of "${this.#name}" could not be ${what} at step ${step}: ${cause.message}`, { cause });
  }

  #averages(): readonly (readonly [name: string, average: MatrixAverage, width: number])[] {
    return [
      ["input", this.#input, this.#widths[0]],
      ["output", this.#output, this.#widths[1]],
    ];
  }

  state(): BlockState {
    const tensors = new Map<string, Tensor>();
    const numbers: Record<string, number> = { observedAt: this.#observedAt, changed: this.#changed ? 1 : 0 };
    for (const [name, average] of this.#averages()) {
      const { value, ...counts } = average.state();
      if (value) tensors.set(name, value);
      for (const [key, count] of Object.entries(counts)) numbers[`${name}.${key}`] = count;
    }
    const inverse = this.#inverse.state();
    for (const [key, tensor] of inverse.tensors) tensors.set(`${INVERSE}${key}`, tensor);
    for (const [key, value] of Object.entries(inverse.numbers)) numbers[`${INVERSE}${key}`] = value;
    return { tensors, numbers };
  }

  load({ tensors, numbers }: BlockState): void {
    for (const [name, , width] of this.#averages()) {
      const value = tensors.get(name);
      if (value && !sameShape(value.shape, [width, width])) {
        throw new CheckpointError(
          `the saved ${name} factor of "${this.#name}" is ${formatShape(value.shape)} but the layer's is ${formatShape([width, width])}`,
        );
      }
    }
    for (const [name, average] of this.#averages()) {
      const count = (key: string, fresh = 0): number => numbers[`${name}.${key}`] ?? fresh;
      average.load({ value: tensors.get(name) ?? null, count: count("count"), weight: count("weight"), residual: count("residual", 1) });
    }
    [this.#observedAt, this.#changed] = [numbers["observedAt"] ?? -1, numbers["changed"] === 1];
    const own = <T>(entries: Iterable<readonly [string, T]>): [string, T][] =>
      [...entries].flatMap(([key, value]) => (key.startsWith(INVERSE) ? [[key.slice(INVERSE.length), value]] : []));
    this.#inverse.load({ tensors: new Map(own(tensors)), numbers: Object.fromEntries(own(Object.entries(numbers))) });
  }

  dispose(): void {
    this.#input.dispose();
    this.#output.dispose();
    this.#inverse.dispose();
  }
}

/** Begins the names of the inverse's entries in a state. */
const INVERSE = "inverse.";

/** The factor with `share` of its mean eigenvalue more on its diagonal; the new matrix is added to `own`. */
async function shifted({ matrix, residual }: FactorSnapshot, share: number, own: Tensor[]): Promise<FactorSnapshot> {
  const n = matrix.shape[0] as number;
  const extra = (share * (await traceOf(matrix))) / n;
  if (!Number.isFinite(extra)) throw new NumericalError("the trace of a factor is not finite");
  const { backend } = matrix;
  const dtype = requireFloat("a factor", matrix.dtype);
  const sum = unscoped(() => tidy(() => matrix.add(Tensor.eye(n, { dtype, backend }).multiply(extra))));
  own.push(sum);
  return { matrix: sum, residual };
}

/** The sum of the diagonal of a square matrix. */
export async function traceOf(matrix: Tensor): Promise<number> {
  const n = matrix.shape[0] as number;
  // Every (n + 1)th element, of which only these are read.
  using diagonal = unscoped(() => tidy(() => matrix.reshape([-1]).slice([0], [n], [n + 1])));
  return Array.from(await diagonal.data()).reduce((sum, value) => sum + value, 0);
}

function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
