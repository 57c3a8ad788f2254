import { frobeniusNorm, type Routines } from "../../linalg/index.ts";
import { narrowed } from "../../linalg/transfer.ts"; // no part of the interface: see `inPrecision`
import type { Parameter } from "../../nn/index.ts";
import {
  formatShape,
  Generator,
  machineEpsilon,
  NumericalError,
  requireFloat,
  Tensor,
  tidy,
  unscoped,
  UsageError,
} from "../../tensor/index.ts";
import type { BlockReport, BlockState } from "../curvature/block.ts";
import { dampingOf, type DampingOptions } from "../curvature/adaptiveDamping.ts";
import { shares, type DampingKind, type DampingOfFactors, type FactorExtent } from "../curvature/damping.ts";
import {
  covarianceFactors,
  inPrecision,
  ofBoth,
  traceOf,
  type FactorName,
  type Factors,
  type FactorSnapshot,
} from "../curvature/factor.ts";
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
  relativeRounding,
  releaseSpectra,
  rotated,
  rotatedBack,
  saveSpectra,
  spectraOf,
  type Spectra,
  type Spectrum,
} from "./spectrum.ts";
import { ThinApplication, type ThinCosts, type ThinOptions } from "./thin.ts";

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
 * @throws UsageError for a damping kind that the inverse cannot do, and for thin application with an inverse that has none.
 */
export class Kfac extends CurvatureOptimizer {
  constructor(parameters: readonly Parameter[], options: KfacOptions) {
    const { dampingKind = options.inverse === "eigh" ? "relative" : "factor-relative" } = options;
    const { inverse = ofProduct(dampingKind) ? "eigh" : "cholesky" } = options;
    const { damping, review } = dampingOf(options);
    // An impossible damping is an error here, not in the first step.
    const factored = inverse === "cholesky" && ofFactors(dampingKind);
    if (options.thin === true && !factored) {
      throw new UsageError(
        'Kfac: thin application needs the inverse "cholesky", since by "eigh" the damping acts on the whole gradient; use that, or leave thin out',
      );
    }
    const makeInverse = (view: CurvatureView): KroneckerInverse =>
      factored ? new CholeskyInverse(factored, new ThinApplication(options, view)) : new EighInverse(dampingKind);
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
  readonly #kind: DampingOfFactors;
  readonly #thin: ThinApplication;
  #inverses: Factors<Tensor> | null = null;
  /** Whether a factor was zero at the last refresh, and with it a damping relative to it: there is no curvature to speak of. */
  #isZero = false;

  constructor(kind: DampingOfFactors, thin: ThinApplication) {
    this.#kind = kind;
    this.#thin = thin;
  }

  get wantsGradient(): boolean {
    return !this.#isZero && this.#thin.wanted(this.#inverses && costsOf(this.#inverses));
  }

  get ready(): boolean {
    return this.#inverses !== null;
  }

  /** @throws NumericalError with the pivot if a damped factor is not positive definite, or if it is singular to rounding. */
  async refresh(inputFactor: FactorSnapshot, outputFactor: FactorSnapshot, context: RefreshContext): Promise<Refreshed> {
    const factors = { input: inputFactor, output: outputFactor };
    const extents = {
      input: await measure(inputFactor, this.#kind, context),
      output: await measure(outputFactor, this.#kind, context),
    };
    if (extents.input.largest === 0 || extents.output.largest === 0) {
      const install = (): void => {
        this.dispose();
        this.#isZero = true;
      };
      return { install, dispose: () => undefined };
    }
    const added = shares(this.#kind, context.damping, extents);
    const next = await ofBoth(
      (name) => dampedInverse(name, factors[name], { share: added[name], trace: extents[name].trace }, context),
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
    const inverses = {
      input: { left: (columns: Tensor) => input.matmul(columns) },
      output: { left: (columns: Tensor) => output.matmul(columns) },
    };
    return (view && this.#thin.direction(view, costsOf(this.#inverses), inverses)) ?? output.matmul(gradient).matmul(input);
  }

  describe(): Pick<BlockReport, "figures" | "spectra"> {
    return { figures: {}, spectra: {} };
  }

  state(): BlockState {
    const tensors = new Map(Object.entries(this.#inverses ?? {}).map(([name, tensor]) => [name, tensor.keep()]));
    return { tensors, numbers: { isZero: this.#isZero ? 1 : 0, ...this.#thin.state() } };
  }

  load({ tensors, numbers }: BlockState): void {
    this.dispose();
    this.#isZero = numbers["isZero"] === 1;
    this.#thin.load(numbers);
    const [input, output] = [tensors.get("input"), tensors.get("output")];
    this.#inverses = input && output ? { input: input.hold(), output: output.hold() } : null;
  }

  dispose(): void {
    for (const tensor of Object.values(this.#inverses ?? {})) tensor.dispose();
    [this.#inverses, this.#isZero] = [null, false];
  }
}

function costsOf({ input, output }: Factors<Tensor>): ThinCosts {
  return { input: { columnCost: 2 * input.size }, output: { columnCost: 2 * output.size } };
}

async function measure(
  { matrix, residual }: FactorSnapshot,
  kind: DampingOfFactors,
  { wide, linalg }: RefreshContext,
): Promise<FactorExtent> {
  const width = matrix.shape[0] as number;
  const trace = (await traceOf(matrix)) + width * residual;
  if (kind !== "factor-relative") return { trace, width, largest: NaN };
  using operand = await inPrecision(matrix, wide);
  return { trace, width, largest: (await largestEigenvalue(operand, linalg)) + residual };
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

/**
 * (M + s I)⁻¹ in M's type, for the s that is the damping's share and what is left of the identity.
 * @throws NumericalError if M + s I is not positive definite, or singular to rounding, or its inverse is beyond the range of the type.
 */
async function dampedInverse(
  name: FactorName,
  { matrix, residual }: FactorSnapshot,
  { share, trace }: { readonly share: number; readonly trace: number },
  { wide, linalg }: RefreshContext,
): Promise<Tensor> {
  const dtype = requireFloat("a factor", matrix.dtype);
  const width = matrix.shape[0] as number;
  const shift = share + residual;
  using damped = await shifted(matrix, shift, wide);
  using inverse = await linalg.inversePositiveDefinite(damped);
  // The sum with s I is rounded by ε/2 in its own type. This is what a second attempt in float64 does without.
  const rounding = relativeRounding(width, dtype) + machineEpsilon[wide ? "float64" : dtype] / 2;
  await requireDigits(`${name} factor, ${formatShape(matrix.shape)} in ${dtype},`, {
    damped,
    inverse,
    rounding,
    shift,
    trace: trace + width * share,
  });
  const result = await narrowed(inverse, { dtype, backend: matrix.backend });
  // No entry of a positive definite matrix is larger than the largest on its diagonal.
  if (!wide || Number.isFinite(await traceOf(result))) return result;
  result.dispose();
  throw new NumericalError(`the inverse of the ${name} factor is beyond the range of ${dtype}; use a larger damping`);
}

/** M + s I, added in float64 if `wide`: in M's own type, an s below the rounding of M is lost. The caller's. */
async function shifted(matrix: Tensor, s: number, wide: boolean): Promise<Tensor> {
  using operand = await inPrecision(matrix, wide);
  const { dtype, backend, shape } = operand;
  return unscoped(() => tidy(() => operand.add(Tensor.eye(shape[0] as number, { dtype, backend }).multiply(s))));
}

/** An inverse that was computed, and what tells how much of it is rounding. */
interface Inversion {
  /** M + s I, as it was inverted. */
  readonly damped: Tensor;
  readonly inverse: Tensor;
  /** By how much rounding moves eigenvalues, relative to ‖M + s I‖_F. */
  readonly rounding: number;
  /** s. */
  readonly shift: number;
  /** That of M + s I. */
  readonly trace: number;
}

/**
 * Refuses the inverse X of a damped factor M + s I if rounding leaves no digit of it.
 *
 * What is inverted is M + E + s I with ‖E‖₂ ≤ η, and (M + s I)⁻¹ − X = (M + s I)⁻¹ E X. The two are thus apart by at most η‖X‖₂ ≤ η‖X‖_F
 * relative to the first, and by η‖(M + s I)⁻¹‖₂ ≤ η/s relative to the second, since M is positive semidefinite. Where neither is below 1, the
 * eigenvalues that make X large may be those of E, and for a singular M without damping they are. The pivots do not tell: they bound the
 * smallest eigenvalue from above alone, and rounding makes that of a singular matrix positive as often as not.
 */
async function requireDigits(what: string, { damped, inverse, rounding, shift, trace }: Inversion): Promise<void> {
  // Nearly always so. The trace is known already, and at least the norm.
  if (shift > rounding * trace) return;
  const moved = rounding * (await frobeniusNorm(damped));
  const smallest = 1 / (await frobeniusNorm(inverse));
  if (Math.max(shift, smallest) > moved) return;
  throw new NumericalError(
    `the ${what} is singular to rounding: that moves its eigenvalues by up to ${moved.toExponential(1)}, and with ` +
      `${shift.toExponential(1)} on its diagonal the smallest come out as ${smallest.toExponential(1)}; ` +
      `use a ${shift > 0 ? "larger" : "positive"} damping`,
  );
}
