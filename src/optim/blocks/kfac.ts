import type { Routines } from "../../linalg/index.ts";
import type { Parameter } from "../../nn/index.ts";
import { Generator, NumericalError, Tensor, tidy, unscoped, UsageError } from "../../tensor/index.ts";
import type { BlockReport, BlockState } from "../curvature/block.ts";
import { dampingOf, type DampingOptions } from "../curvature/adaptiveDamping.ts";
import { shares, type DampingKind, type DampingOfFactors, type FactorExtent } from "../curvature/damping.ts";
import { covarianceFactors, ofBoth, traceOf, type Factors, type FactorSnapshot } from "../curvature/factor.ts";
import {
  KroneckerBlock,
  type ApplyContext,
  type KroneckerInverse,
  type KroneckerOptions,
  type RefreshContext,
  type Refreshed,
} from "../curvature/kronecker.ts";
import { CurvatureOptimizer, type CurvatureOptimizerOptions } from "../curvature/optimizer.ts";
import type { CurvatureView } from "../curvature/view.ts";
import { withScaleShift } from "./scaleShift.ts";
import {
  describeSpectra,
  isZero,
  loadSpectra,
  releaseSpectra,
  rotated,
  rotatedBack,
  saveSpectra,
  spectraOf,
  type Spectra,
  type Spectrum,
} from "./spectrum.ts";
import { throughThinFactors, wantsThin, type ThinOptions, type ThinSide } from "./thin.ts";

export interface KfacOptions extends CurvatureOptimizerOptions, Omit<KroneckerOptions, "damping">, DampingOptions, ThinOptions {
  /**
   * Default `factor-relative`, which is what the randomized methods call `relative`: the same λ damps the whole family alike. By
   * eigendecompositions the default is `relative`, as in the paper's code.
   */
  readonly dampingKind?: DampingKind | undefined;
  /**
   * `cholesky`: inverses of the factors, each damped by itself with the λ of the last refresh; several times cheaper, and the only one
   * with thin application, since a damping of the product acts on the whole gradient. `eigh`: eigendecompositions, so that damping may
   * change every step, and be one of the product. Default `cholesky`, but for a damping of the product.
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
    const { dampingKind = options.inverse === "eigh" ? "relative" : "factor-relative" } = options;
    const { inverse = ofProduct(dampingKind) ? "eigh" : "cholesky" } = options;
    const { damping, review } = dampingOf(options);
    // An impossible damping is an error here, not in the first step.
    const factored = inverse === "cholesky" && ofFactors(dampingKind);
    const makeInverse = (view: CurvatureView): KroneckerInverse =>
      factored ? new CholeskyInverse(factored, wantsThin(options, view)) : new EighInverse(dampingKind);
    super(
      parameters,
      `kfac (${inverse})`,
      withScaleShift((view) => new KroneckerBlock(view, covarianceFactors(view, options), makeInverse(view), { ...options, damping }), {
        ...options,
        damping,
      }),
      options,
      { damping, review },
    );
  }
}

function ofProduct(kind: DampingKind): kind is Exclude<DampingKind, DampingOfFactors> {
  return kind === "relative" || kind === "absolute";
}

function ofFactors(kind: DampingKind): DampingOfFactors {
  if (!ofProduct(kind)) return kind;
  throw new UsageError(
    `Kfac: inverse "cholesky" inverts the factors one by one, so it cannot do dampingKind "${kind}"; ` +
      `use "factor-relative", "pi", "factored" or inverse "eigh"`,
  );
}

/**
 * Ω = Q_a diag(d_a) Q_aᵀ and Γ = Q_g diag(d_g) Q_gᵀ, so that P = Q_g [(Q_gᵀ J Q_a) / (d_g d_aᵀ + λ)] Q_aᵀ inverts the damped
 * product exactly.
 */
class EighInverse implements KroneckerInverse {
  readonly method = "kfac (eigh)";
  readonly #kind: DampingKind;
  #factors: Spectra | null = null;

  constructor(kind: DampingKind) {
    this.#kind = kind;
  }

  get ready(): boolean {
    return this.#factors !== null && !isZero(this.#factors);
  }

  async refresh(inputFactor: FactorSnapshot, outputFactor: FactorSnapshot, { linalg }: RefreshContext): Promise<Refreshed> {
    const next = await spectraOf(inputFactor, outputFactor, linalg);
    return {
      install: () => {
        this.dispose();
        this.#factors = next;
      },
      dispose: () => releaseSpectra(next),
    };
  }

  apply(gradient: Tensor, { damping }: ApplyContext): Tensor {
    if (!this.#factors) throw new UsageError("a Kronecker inverse was applied before its first refresh");
    if (isZero(this.#factors)) return gradient.multiply(0);
    const { input, output } = this.#factors;
    return rotatedBack(this.#factors, rotated(this.#factors, gradient).divide(this.#denominators(input, output, damping)));
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
      default: {
        const extents = { input: { ...a, width: a.values.size }, output: { ...g, width: g.values.size } };
        const { input, output } = shares(this.#kind, damping, extents);
        return column.add(output).multiply(row.add(input));
      }
    }
  }

  describe(): Pick<BlockReport, "figures" | "spectra"> {
    return describeSpectra(this.#factors);
  }

  state(): BlockState {
    return saveSpectra(this.#factors);
  }

  load(state: BlockState): void {
    this.dispose();
    this.#factors = loadSpectra(state);
  }

  dispose(): void {
    releaseSpectra(this.#factors);
    this.#factors = null;
  }
}

/** (Γ + s_g I)⁻¹ J (Ω + s_a I)⁻¹ with the shares s of the damping of the last refresh. */
class CholeskyInverse implements KroneckerInverse {
  readonly method = "kfac (cholesky)";
  readonly wantsGradient: boolean;
  readonly #kind: DampingOfFactors;
  #inverses: Factors<Tensor> | null = null;
  /** Whether a factor was zero at the last refresh, and with it a damping relative to it: there is no curvature to speak of. */
  #isZero = false;

  constructor(kind: DampingOfFactors, wantsGradient: boolean) {
    this.#kind = kind;
    this.wantsGradient = wantsGradient;
  }

  get ready(): boolean {
    return this.#inverses !== null;
  }

  /** @throws NumericalError with the pivot if a damped factor is not positive definite. */
  async refresh(inputFactor: FactorSnapshot, outputFactor: FactorSnapshot, { damping, linalg }: RefreshContext): Promise<Refreshed> {
    const factors = { input: inputFactor, output: outputFactor };
    const extents = {
      input: await measure(inputFactor, this.#kind, linalg),
      output: await measure(outputFactor, this.#kind, linalg),
    };
    if (extents.input.largest === 0 || extents.output.largest === 0) {
      const install = (): void => {
        this.dispose();
        this.#isZero = true;
      };
      return { install, dispose: () => undefined };
    }
    const added = shares(this.#kind, damping, extents);
    const next = await ofBoth(
      (name) => dampedInverse(factors[name], added[name], linalg),
      (inverse) => inverse.dispose(),
    );
    return {
      install: () => {
        this.dispose();
        this.#inverses = next;
      },
      dispose: () => Object.values<Tensor>(next).forEach((inverse) => inverse.dispose()),
    };
  }

  apply(gradient: Tensor, { view }: ApplyContext): Tensor {
    if (this.#isZero) return gradient.multiply(0);
    if (!this.#inverses) throw new UsageError("a Kronecker inverse was applied before its first refresh");
    const { input, output } = this.#inverses;
    return (this.wantsGradient && view && this.#thinly(view)) || output.matmul(gradient).matmul(input);
  }

  #thinly(view: CurvatureView): Tensor | null {
    const side = (inverse: Tensor): ThinSide => ({ columnCost: 2 * inverse.size, left: (columns) => inverse.matmul(columns) });
    const { input, output } = this.#inverses as Factors<Tensor>;
    const { dA, dOut } = view;
    return throughThinFactors(view, side(input), side(output), 2 * dA * dOut * (dA + dOut));
  }

  describe(): Pick<BlockReport, "figures" | "spectra"> {
    return { figures: {}, spectra: {} };
  }

  state(): BlockState {
    const tensors = new Map(Object.entries(this.#inverses ?? {}).map(([name, tensor]) => [name, tensor.keep()]));
    return { tensors, numbers: { isZero: this.#isZero ? 1 : 0 } };
  }

  load({ tensors, numbers }: BlockState): void {
    this.dispose();
    this.#isZero = numbers["isZero"] === 1;
    const [input, output] = [tensors.get("input"), tensors.get("output")];
    this.#inverses = input && output ? { input: input.hold(), output: output.hold() } : null;
  }

  dispose(): void {
    for (const tensor of Object.values(this.#inverses ?? {})) tensor.dispose();
    [this.#inverses, this.#isZero] = [null, false];
  }
}

async function measure({ matrix, residual }: FactorSnapshot, kind: DampingOfFactors, linalg: Routines): Promise<FactorExtent> {
  const width = matrix.shape[0] as number;
  const largest = kind === "factor-relative" ? (await largestEigenvalue(matrix, linalg)) + residual : NaN;
  return { trace: (await traceOf(matrix)) + width * residual, width, largest };
}

/** Width up to which all eigenvalues cost next to nothing. */
const NARROW = 128;

/** Of a wide factor from below, and close: a damping needs no more than that. */
async function largestEigenvalue(matrix: Tensor, linalg: Routines): Promise<number> {
  if ((matrix.shape[0] as number) <= NARROW) {
    const values = await linalg.eigvalsh(matrix);
    const largest = (await values.data()).at(-1) as number;
    values.dispose();
    return Math.max(0, largest);
  }
  const sketch = { rank: 1, oversampling: 7, iterations: 8, generator: new Generator(0) };
  const { vectors, values } = await linalg.randomizedEigh(matrix, sketch);
  const [largest = 0] = await values.data();
  for (const tensor of [vectors, values]) tensor.dispose();
  return largest;
}

async function dampedInverse({ matrix, residual }: FactorSnapshot, damping: number, linalg: Routines): Promise<Tensor> {
  const { dtype, backend } = matrix;
  const damped = unscoped(() =>
    tidy(() => matrix.add(Tensor.eye(matrix.shape[0] as number, { dtype, backend }).multiply(damping + residual))),
  );
  try {
    return await linalg.inversePositiveDefinite(damped);
  } finally {
    damped.dispose();
  }
}
