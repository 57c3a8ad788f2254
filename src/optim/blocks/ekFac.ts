import type { Parameter } from "../../nn/index.ts";
import { NumericalError, tidy, unscoped, UsageError, Variable, where, type Tensor } from "../../tensor/index.ts";
import { dampingOf, type DampingOptions } from "../curvature/adaptiveDamping.ts";
import type { BlockReport, BlockState } from "../curvature/block.ts";
import { covarianceFactors, type FactorSnapshot } from "../curvature/factor.ts";
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
} from "./spectrum.ts";

export interface EkFacOptions extends CurvatureOptimizerOptions, Omit<KroneckerOptions, "damping">, DampingOptions {
  /** `relative`: λ · max s is added to the eigenvalues s; `absolute`: λ itself. Default `relative`. */
  readonly dampingKind?: "relative" | "absolute" | undefined;
  /**
   * Where the eigenvalues come from between inversions: `intra`, the second moments of the present batch's per-sample gradients in the
   * basis, every step; `running`, an average of n z² for the samples' mean gradient z in the basis, which begins with K-FAC's own eigenvalues
   * and needs no per-sample gradients. Default `running`.
   */
  readonly eigenvalues?: "running" | "intra" | undefined;
  /** Weight of the old value in the running average. Default .75. */
  readonly eigenvalueDecay?: number | undefined;
}

/**
 * EK-FAC (George, Laurent, Bouthillier, Ballas, Vincent 2018, arXiv 1806.03884): K-FAC's eigenbasis Q = Q_g ⊗ Q_a, but with the
 * eigenvalues that are best for it, s = E[(Q_gᵀ g aᵀ Q_a)²]: for a fixed basis they minimise ‖F − Q diag(s) Qᵀ‖_F, and keep the trace.
 */
export class EkFac extends CurvatureOptimizer {
  /** @throws UsageError for a decay of the eigenvalues that is not in [0, 1). */
  constructor(parameters: readonly Parameter[], options: EkFacOptions) {
    const { eigenvalues = "running", eigenvalueDecay = 0.75 } = options;
    const { damping, review } = dampingOf(options);
    if (!(eigenvalueDecay >= 0 && eigenvalueDecay < 1)) {
      throw new UsageError(`EkFac: eigenvalueDecay must be in [0, 1) but is ${eigenvalueDecay}`);
    }
    const inverse = (): EkFacInverse => new EkFacInverse(options.dampingKind ?? "relative", eigenvalues, eigenvalueDecay);
    super(
      parameters,
      `ek-fac (${eigenvalues})`,
      withScaleShift((view) => new KroneckerBlock(view, covarianceFactors(view, options), inverse(), { ...options, damping }), {
        ...options,
        damping,
      }),
      options,
      { damping, review },
    );
  }
}

/** Numbers of per-sample gradients that are in memory at a time. */
const CHUNK = 2 ** 22;

/**
 * The second moments (1/n) Σᵢ zᵢ² [dOut, dA] of the samples' gradients zᵢ = Σ_t (Q_gᵀ g_it)(Q_aᵀ a_it)ᵀ in the factors' bases. With one
 * position a sample that is one product, ((gQ_g)²)ᵀ (aQ_a)² / n.
 */
export function secondMoments({ input, output }: Spectra, view: CurvatureView): Tensor {
  const { n, positions, dA, dOut } = view;
  const rotate = (x: Tensor, basis: Tensor): Tensor => x.reshape([-1, basis.shape[0] as number]).matmul(basis);
  if (positions === 1) {
    const { a, g } = view.perSample(0, n);
    return rotate(g, output.vectors)
      .square()
      .matmul(rotate(a, input.vectors).square(), { transposeA: true })
      .multiply(1 / n);
  }
  const samples = Math.max(1, Math.floor(CHUNK / (dA * dOut)));
  const partOf = (from: number, to: number): Tensor => {
    const { a, g } = view.perSample(from, to);
    const [left, right] = [rotate(g, output.vectors), rotate(a, input.vectors)];
    const own = left.reshape([to - from, positions, dOut]).matmul(right.reshape([to - from, positions, dA]), { transposeA: true });
    return own.square().sum(0);
  };
  let sum = tidy(() => partOf(0, Math.min(n, samples)));
  for (let from = samples; from < n; from += samples) {
    const before = sum;
    sum = tidy(() => before.add(partOf(from, Math.min(n, from + samples))));
  }
  return sum.multiply(1 / n);
}

/** Those of the Kronecker product, d_g d_aᵀ [dOut, dA]. */
function productOfEigenvalues({ input, output }: Spectra): Tensor {
  return output.values.reshape([-1, 1]).multiply(input.values.reshape([1, -1]));
}

class EkFacInverse implements KroneckerInverse {
  readonly method: string;
  readonly wantsGradient = true;
  readonly #kind: "relative" | "absolute";
  readonly #intra: boolean;
  readonly #decay: number;
  #factors: Spectra | null = null;
  /** s [dOut, dA], of `running`. */
  #running: Variable | null = null;

  constructor(kind: "relative" | "absolute", eigenvalues: "running" | "intra", decay: number) {
    this.method = `ek-fac (${eigenvalues})`;
    this.#kind = kind;
    this.#decay = decay;
    this.#intra = eigenvalues === "intra";
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
        if (this.#intra) return;
        this.#start(unscoped(() => tidy(() => productOfEigenvalues(next))));
      },
      dispose: () => releaseSpectra(next),
    };
  }

  apply(gradient: Tensor, { damping, view }: ApplyContext): Tensor {
    const factors = this.#factors;
    if (!factors) throw new UsageError("a Kronecker inverse was applied before its first refresh");
    if (isZero(factors)) return gradient.multiply(0);
    if (!(damping > 0)) throw new NumericalError(`EK-FAC's eigenvalues may be 0, so it needs a positive damping, but that is ${damping}`);
    const z = rotated(factors, gradient);
    const s = this.#eigenvalues(factors, z, view);
    const added = this.#kind === "relative" ? s.max().multiply(damping) : damping;
    return rotatedBack(factors, z.divide(s.add(added)));
  }

  #eigenvalues(factors: Spectra, z: Tensor, view: CurvatureView | null): Tensor {
    if (this.#intra) {
      // Nothing is to be learnt where no forward pass reached the layer, but a penalty did, or where the batch has no gradient for it.
      const known = productOfEigenvalues(factors);
      if (!view) return known;
      const s = secondMoments(factors, view);
      return where(s.max().equal(0), known, s);
    }
    const running = this.#running as Variable;
    if (!view) return running.value;
    const weight = (1 - this.#decay) * view.n * view.toSampleMean ** 2;
    running.assign(running.value.multiply(this.#decay).add(z.square().multiply(weight)));
    return running.value;
  }

  /** The running average begins with a value, which it takes over. */
  #start(value: Tensor): void {
    this.#running = unscoped(() => new Variable("EK-FAC's eigenvalues", value));
    value.dispose();
  }

  describe(): Pick<BlockReport, "figures" | "spectra"> {
    return describeSpectra(this.#factors);
  }

  state(): BlockState {
    const { tensors, numbers } = saveSpectra(this.#factors);
    if (this.#running) tensors.set("running", this.#running.value.keep());
    return { tensors, numbers };
  }

  load(state: BlockState): void {
    this.dispose();
    this.#factors = loadSpectra(state);
    const running = state.tensors.get("running");
    if (running) this.#start(running.hold());
  }

  dispose(): void {
    releaseSpectra(this.#factors);
    this.#running?.dispose();
    [this.#factors, this.#running] = [null, null];
  }
}
