import { eigh, inversePositiveDefinite } from "../../linalg/index.ts";
import type { Parameter } from "../../nn/index.ts";
import { isFloat, machineEpsilon, NumericalError, Tensor, tidy, unscoped, UsageError } from "../../tensor/index.ts";
import type { BlockState } from "../curvature/block.ts";
import { klClip, rmsClip } from "../curvature/clip.ts";
import { piShares, type DampingKind } from "../curvature/damping.ts";
import { KroneckerBlock, type FactorSnapshot, type KroneckerInverse, type KroneckerOptions } from "../curvature/kronecker.ts";
import { Precondition, type CurvatureOptions, type RegistrationRow } from "../curvature/precondition.ts";
import { Optimizer } from "../optimizer.ts";
import type { Schedule } from "../schedules.ts";
import { momentum, weightDecay, type MomentumOptions } from "../transforms.ts";

/** What the curvature optimizers take besides their own. */
export interface CurvatureOptimizerOptions extends CurvatureOptions, MomentumOptions {
  readonly learningRate: Schedule;
  /** `{ kl: κ }` (all layers together), `{ rms: limit }` (each layer), or false. Default `{ kl: 1e-3 }`. */
  readonly clip?: { readonly kl: Schedule } | { readonly rms: Schedule } | false | undefined;
  /** Decoupled from the preconditioner. Default 0. */
  readonly weightDecay?: Schedule | undefined;
}

export interface KfacOptions extends CurvatureOptimizerOptions, Omit<KroneckerOptions, "damping"> {
  /** λ. Default .1. */
  readonly damping?: Schedule | undefined;
  /** Default `relative`. With `inverse: "cholesky"` only `absolute` and `pi`, and the default is `pi`. */
  readonly dampingKind?: DampingKind | undefined;
  /**
   * `eigh`: eigendecompositions, so that damping may change every step and be exact on the product. `cholesky`: inverses of the
   * factors damped one by one; several times cheaper. Default `eigh`.
   */
  readonly inverse?: "eigh" | "cholesky" | undefined;
}

/**
 * Exact K-FAC: Kronecker-factored approximate curvature (Martens and Grosse 2015, arXiv 1503.05671; for convolutions Grosse and
 * Martens 2016, arXiv 1602.01407). The learning rate and the clip limit the step together; with the default KL clip of 1e-3, rates
 * of .3 down to .01 are usual.
 *
 * @throws UsageError for a damping kind that the inverse cannot do.
 */
export class Kfac extends Optimizer {
  readonly #precondition: Precondition;

  constructor(parameters: readonly Parameter[], options: KfacOptions) {
    const { inverse = "eigh", dampingKind = inverse === "eigh" ? "relative" : "pi", damping = 0.1, clip = { kl: 1e-3 } } = options;
    if (inverse === "cholesky" && dampingKind === "relative") {
      throw new UsageError(
        'Kfac: inverse "cholesky" does not know the largest eigenvalues that dampingKind "relative" needs; use "pi", "absolute" or inverse "eigh"',
      );
    }
    const makeInverse = (): KroneckerInverse => (inverse === "eigh" ? new EighInverse(dampingKind) : new CholeskyInverse(dampingKind));
    const precondition = new Precondition(
      parameters,
      `kfac (${inverse})`,
      (view) => new KroneckerBlock(view.weight.name, makeInverse(), { ...options, damping }),
      options,
    );
    const clips = clip === false ? [] : ["kl" in clip ? klClip(clip.kl) : rmsClip(clip.rms)];
    super(parameters, {
      learningRate: options.learningRate,
      transforms: [precondition, ...clips, weightDecay(options.weightDecay ?? 0), momentum(parameters, options)],
      precondition,
    });
    this.#precondition = precondition;
  }

  /** Which parameter got a block and why the others have none. Complete after the first step. */
  registration(): RegistrationRow[] {
    return this.#precondition.registration();
  }
}

/** Eigenvectors as columns, eigenvalues as a vector, and the figures of them that damping needs. */
interface Spectrum {
  readonly vectors: Tensor;
  readonly values: Tensor;
  readonly largest: number;
  readonly smallest: number;
  readonly trace: number;
}

/**
 * Ω = Q_a diag(d_a) Q_aᵀ and Γ = Q_g diag(d_g) Q_gᵀ, so that P = Q_g [(Q_gᵀ J Q_a) / (d_g d_aᵀ + λ)] Q_aᵀ inverts the damped
 * product exactly.
 */
class EighInverse implements KroneckerInverse {
  readonly #kind: DampingKind;
  #input: Spectrum | null = null;
  #output: Spectrum | null = null;

  constructor(kind: DampingKind) {
    this.#kind = kind;
  }

  get ready(): boolean {
    return this.#input !== null;
  }

  async refresh(input: FactorSnapshot, output: FactorSnapshot, damping: number): Promise<void> {
    const a = await spectrumOf(input);
    const g = await spectrumOf(output);
    if (damping === 0 && Math.min(a.smallest, g.smallest) === 0) {
      throw new NumericalError(
        `a Kronecker factor is singular (smallest eigenvalues: input ${a.smallest}, output ${g.smallest}) and the damping is 0; use a positive damping`,
      );
    }
    this.dispose();
    [this.#input, this.#output] = [a, g];
  }

  apply(gradient: Tensor, damping: number): Tensor {
    const [a, g] = [this.#input, this.#output];
    if (!a || !g) throw new UsageError("a Kronecker inverse was applied before its first refresh");
    const rotated = g.vectors.matmul(gradient, { transposeA: true }).matmul(a.vectors);
    const scaled = rotated.divide(this.#denominators(a, g, damping));
    return g.vectors.matmul(scaled).matmul(a.vectors, { transposeB: true });
  }

  #denominators(a: Spectrum, g: Spectrum, damping: number): Tensor {
    const [row, column] = [a.values.reshape([1, -1]), g.values.reshape([-1, 1])];
    switch (this.#kind) {
      case "relative":
        return column.multiply(row).add(damping * a.largest * g.largest);
      case "absolute":
        return column.multiply(row).add(damping);
      case "pi": {
        const width = ({ values, trace }: Spectrum): { trace: number; width: number } => ({ trace, width: values.size });
        const shares = piShares(damping, width(a), width(g));
        return column.add(shares.output).multiply(row.add(shares.input));
      }
      default:
        return this.#kind satisfies never;
    }
  }

  state(): BlockState {
    const tensors = new Map<string, Tensor>();
    const numbers: Record<string, number> = {};
    for (const [name, spectrum] of [
      ["input", this.#input],
      ["output", this.#output],
    ] as const) {
      if (!spectrum) continue;
      tensors.set(`${name}.vectors`, spectrum.vectors.keep());
      tensors.set(`${name}.values`, spectrum.values.keep());
      numbers[`${name}.largest`] = spectrum.largest;
      numbers[`${name}.smallest`] = spectrum.smallest;
      numbers[`${name}.trace`] = spectrum.trace;
    }
    return { tensors, numbers };
  }

  load({ tensors, numbers }: BlockState): void {
    const spectrum = (name: string): Spectrum | null => {
      const [vectors, values] = [tensors.get(`${name}.vectors`), tensors.get(`${name}.values`)];
      if (!vectors || !values) return null;
      const number = (key: "largest" | "smallest" | "trace"): number => numbers[`${name}.${key}`] ?? 0;
      return {
        vectors: vectors.hold(),
        values: values.hold(),
        largest: number("largest"),
        smallest: number("smallest"),
        trace: number("trace"),
      };
    };
    this.dispose();
    [this.#input, this.#output] = [spectrum("input"), spectrum("output")];
  }

  dispose(): void {
    for (const spectrum of [this.#input, this.#output]) {
      spectrum?.vectors.dispose();
      spectrum?.values.dispose();
    }
    [this.#input, this.#output] = [null, null];
  }
}

async function spectrumOf({ matrix, residual }: FactorSnapshot): Promise<Spectrum> {
  const { values, vectors } = await eigh(matrix);
  const host = Float64Array.from(await values.data());
  values.dispose();
  // A factor is positive semidefinite; what eigh leaves below d ε max is rounding. The threshold is relative, since late factors
  // of a well-trained network have largest eigenvalues far below 1.
  const top = host.reduce((a, b) => Math.max(a, b), 0);
  const floor = host.length * machineEpsilon[isFloat(matrix.dtype) ? matrix.dtype : "float32"] * top;
  const clean = host.map((value) => (value <= floor ? 0 : value) + residual);
  return {
    vectors,
    values: unscoped(() => Tensor.from(clean, { dtype: matrix.dtype, backend: matrix.backend })),
    largest: top + residual,
    smallest: clean.reduce((a, b) => Math.min(a, b), Infinity),
    trace: clean.reduce((a, b) => a + b, 0),
  };
}

/** (Γ + s_g I)⁻¹ J (Ω + s_a I)⁻¹ with the shares s of the damping of the last refresh. */
class CholeskyInverse implements KroneckerInverse {
  readonly #kind: DampingKind;
  #input: Tensor | null = null;
  #output: Tensor | null = null;

  constructor(kind: DampingKind) {
    this.#kind = kind;
  }

  get ready(): boolean {
    return this.#input !== null;
  }

  async refresh(input: FactorSnapshot, output: FactorSnapshot, damping: number): Promise<void> {
    const [a, g] = [await measure(input), await measure(output)];
    const root = Math.sqrt(damping);
    const shares = this.#kind === "pi" ? piShares(damping, a, g) : { input: root, output: root };
    const inputInverse = await dampedInverse(input, shares.input);
    const outputInverse = await dampedInverse(output, shares.output);
    this.dispose();
    [this.#input, this.#output] = [inputInverse, outputInverse];
  }

  apply(gradient: Tensor): Tensor {
    if (!this.#input || !this.#output) throw new UsageError("a Kronecker inverse was applied before its first refresh");
    return this.#output.matmul(gradient).matmul(this.#input);
  }

  state(): BlockState {
    const entries = [
      ["input", this.#input],
      ["output", this.#output],
    ] as const;
    return { tensors: new Map(entries.flatMap(([name, tensor]) => (tensor ? [[name, tensor.keep()] as const] : []))), numbers: {} };
  }

  load({ tensors }: BlockState): void {
    this.dispose();
    [this.#input, this.#output] = [tensors.get("input")?.hold() ?? null, tensors.get("output")?.hold() ?? null];
  }

  dispose(): void {
    this.#input?.dispose();
    this.#output?.dispose();
    [this.#input, this.#output] = [null, null];
  }
}

async function measure({ matrix, residual }: FactorSnapshot): Promise<{ trace: number; width: number }> {
  const width = matrix.shape[0] as number;
  const data = await matrix.data();
  let trace = width * residual;
  for (let i = 0; i < width; i++) trace += data[i * width + i] as number;
  return { trace, width };
}

/** Dampings below this are lifted: a factor of rank n < d is singular without. */
const SMALLEST_DAMPING = 1e-8;

async function dampedInverse({ matrix, residual }: FactorSnapshot, damping: number): Promise<Tensor> {
  const added = Math.max(SMALLEST_DAMPING, damping) + residual;
  const damped = unscoped(() => tidy(() => matrix.add(Tensor.eye(matrix.shape[0] as number, matrix).multiply(added))));
  try {
    return await inversePositiveDefinite(damped);
  } finally {
    damped.dispose();
  }
}
