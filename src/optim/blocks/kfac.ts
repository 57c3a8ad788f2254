import { eigh, inversePositiveDefinite } from "../../linalg/index.ts";
import type { Parameter } from "../../nn/index.ts";
import { isFloat, machineEpsilon, NumericalError, Tensor, tidy, unscoped, UsageError } from "../../tensor/index.ts";
import type { BlockState } from "../curvature/block.ts";
import { piShares, type DampingKind } from "../curvature/damping.ts";
import { KroneckerBlock, type FactorSnapshot, type KroneckerInverse, type KroneckerOptions } from "../curvature/kronecker.ts";
import { CurvatureOptimizer, type CurvatureOptimizerOptions } from "../curvature/optimizer.ts";
import type { Schedule } from "../schedules.ts";

export interface KfacOptions extends CurvatureOptimizerOptions, Omit<KroneckerOptions, "damping"> {
  /** λ. Default .1. */
  readonly damping?: Schedule | undefined;
  /** Default `relative`. With `inverse: "cholesky"` only `factored` and `pi`, and the default is `pi`. */
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
export class Kfac extends CurvatureOptimizer {
  constructor(parameters: readonly Parameter[], options: KfacOptions) {
    const { inverse = "eigh", dampingKind = inverse === "eigh" ? "relative" : "pi", damping = 0.1 } = options;
    const makeInverse = inverse === "eigh" ? () => new EighInverse(dampingKind) : () => new CholeskyInverse(factoredOnly(dampingKind));
    makeInverse(); // an impossible damping is an error here, not in the first step
    super(parameters, `kfac (${inverse})`, (view) => new KroneckerBlock(view, makeInverse(), { ...options, damping }), options);
  }
}

type FactoredDamping = "factored" | "pi";

function factoredOnly(kind: DampingKind): FactoredDamping {
  if (kind === "factored" || kind === "pi") return kind;
  throw new UsageError(
    `Kfac: inverse "cholesky" inverts the factors one by one, so it cannot do dampingKind "${kind}"; use "pi", "factored" or inverse "eigh"`,
  );
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
  readonly method = "kfac (eigh)";
  readonly #kind: DampingKind;
  #factors: { readonly input: Spectrum; readonly output: Spectrum } | null = null;

  constructor(kind: DampingKind) {
    this.#kind = kind;
  }

  get ready(): boolean {
    return this.#factors !== null && !isZero(this.#factors);
  }

  async refresh(inputFactor: FactorSnapshot, outputFactor: FactorSnapshot): Promise<void> {
    const input = await spectrumOf(inputFactor);
    const output = await spectrumOf(outputFactor).catch((error: unknown) => {
      release(input);
      throw error;
    });
    this.dispose();
    this.#factors = { input, output };
  }

  apply(gradient: Tensor, damping: number): Tensor {
    if (!this.#factors) throw new UsageError("a Kronecker inverse was applied before its first refresh");
    if (isZero(this.#factors)) return gradient.multiply(0);
    const { input, output } = this.#factors;
    const rotated = output.vectors.matmul(gradient, { transposeA: true }).matmul(input.vectors);
    const scaled = rotated.divide(this.#denominators(input, output, damping));
    return output.vectors.matmul(scaled).matmul(input.vectors, { transposeB: true });
  }

  #denominators(a: Spectrum, g: Spectrum, damping: number): Tensor {
    if (damping === 0 && Math.min(a.smallest, g.smallest) === 0) {
      throw new NumericalError(
        `a factor is singular (smallest eigenvalues: input ${a.smallest}, output ${g.smallest}) and the damping is 0; use a positive damping`,
      );
    }
    const [row, column] = [a.values.reshape([1, -1]), g.values.reshape([-1, 1])];
    switch (this.#kind) {
      case "relative":
        return column.multiply(row).add(damping * a.largest * g.largest);
      case "absolute":
        return column.multiply(row).add(damping);
      case "factored":
      case "pi": {
        const shares = sharesOf(this.#kind, damping, { ...a, width: a.values.size }, { ...g, width: g.values.size });
        return column.add(shares.output).multiply(row.add(shares.input));
      }
      default:
        return this.#kind satisfies never;
    }
  }

  state(): BlockState {
    const tensors = new Map<string, Tensor>();
    const numbers: Record<string, number> = {};
    for (const [name, { vectors, values, ...figures }] of Object.entries(this.#factors ?? {})) {
      tensors.set(`${name}.vectors`, vectors.keep());
      tensors.set(`${name}.values`, values.keep());
      for (const [key, value] of Object.entries(figures)) numbers[`${name}.${key}`] = value;
    }
    return { tensors, numbers };
  }

  load({ tensors, numbers }: BlockState): void {
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
    this.dispose();
    const [input, output] = [spectrum("input"), spectrum("output")];
    this.#factors = input && output && { input, output };
  }

  dispose(): void {
    for (const spectrum of Object.values(this.#factors ?? {})) release(spectrum);
    this.#factors = null;
  }
}

/** A layer that no gradient has reached yet, or whose input was always 0: there is no curvature to speak of. */
function isZero({ input, output }: { readonly input: Spectrum; readonly output: Spectrum }): boolean {
  return input.largest === 0 || output.largest === 0;
}

function release({ vectors, values }: Spectrum): void {
  vectors.dispose();
  values.dispose();
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

interface Extent {
  readonly trace: number;
  readonly width: number;
}

function sharesOf(kind: FactoredDamping, damping: number, input: Extent, output: Extent): { input: number; output: number } {
  const root = Math.sqrt(damping);
  return kind === "pi" ? piShares(damping, input, output) : { input: root, output: root };
}

/** (Γ + s_g I)⁻¹ J (Ω + s_a I)⁻¹ with the shares s of the damping of the last refresh. */
class CholeskyInverse implements KroneckerInverse {
  readonly method = "kfac (cholesky)";
  readonly #kind: FactoredDamping;
  #inverses: { readonly input: Tensor; readonly output: Tensor } | null = null;

  constructor(kind: FactoredDamping) {
    this.#kind = kind;
  }

  get ready(): boolean {
    return this.#inverses !== null;
  }

  /** @throws NumericalError with the pivot if a damped factor is not positive definite. */
  async refresh(inputFactor: FactorSnapshot, outputFactor: FactorSnapshot, damping: number): Promise<void> {
    const shares = sharesOf(this.#kind, damping, await measure(inputFactor), await measure(outputFactor));
    const input = await dampedInverse(inputFactor, shares.input);
    const output = await dampedInverse(outputFactor, shares.output).catch((error: unknown) => {
      input.dispose();
      throw error;
    });
    this.dispose();
    this.#inverses = { input, output };
  }

  apply(gradient: Tensor): Tensor {
    if (!this.#inverses) throw new UsageError("a Kronecker inverse was applied before its first refresh");
    return this.#inverses.output.matmul(gradient).matmul(this.#inverses.input);
  }

  state(): BlockState {
    return { tensors: new Map(Object.entries(this.#inverses ?? {}).map(([name, tensor]) => [name, tensor.keep()])), numbers: {} };
  }

  load({ tensors }: BlockState): void {
    this.dispose();
    const [input, output] = [tensors.get("input"), tensors.get("output")];
    this.#inverses = input && output ? { input: input.hold(), output: output.hold() } : null;
  }

  dispose(): void {
    for (const tensor of Object.values(this.#inverses ?? {})) tensor.dispose();
    this.#inverses = null;
  }
}

async function measure({ matrix, residual }: FactorSnapshot): Promise<Extent> {
  const width = matrix.shape[0] as number;
  const data = await matrix.data();
  let trace = width * residual;
  for (let i = 0; i < width; i++) trace += data[i * width + i] as number;
  return { trace, width };
}

async function dampedInverse({ matrix, residual }: FactorSnapshot, damping: number): Promise<Tensor> {
  const { dtype, backend } = matrix;
  const damped = unscoped(() =>
    tidy(() => matrix.add(Tensor.eye(matrix.shape[0] as number, { dtype, backend }).multiply(damping + residual))),
  );
  try {
    return await inversePositiveDefinite(damped);
  } finally {
    damped.dispose();
  }
}
