import { inversePositiveDefinite, svd } from "../../linalg/index.ts";
import type { Parameter } from "../../nn/index.ts";
import {
  CheckpointError,
  concat,
  Generator,
  NumericalError,
  requireFloat,
  Tensor,
  tidy,
  unscoped,
  UsageError,
} from "../../tensor/index.ts";
import { NO_NEEDS, type BlockReport, type BlockState, type CaptureNeeds, type CurvatureBlock } from "../curvature/block.ts";
import { MORE_DAMPING } from "../curvature/inversion.ts";
import { CurvatureOptimizer, type CurvatureOptimizerOptions } from "../curvature/optimizer.ts";
import type { CurvatureView } from "../curvature/view.ts";
import { hyperParameter, type Schedule } from "../schedules.ts";
import {
  combine,
  combineByMeans,
  explicitTensors,
  innerProducts,
  project,
  projectThin,
  sampleForms,
  sketchScalings,
  type SampleForm,
  type SampleGradients,
  type SketchScaling,
} from "./sampleGradients.ts";
import type { ThinOptions } from "./thin.ts";

export interface SengOptions extends Omit<CurvatureOptimizerOptions, "fisher" | "fisherSeed" | "scaleShift">, ThinOptions {
  /** λ, added to the Fisher matrix. Default 2, for a mean loss of order 1. */
  readonly damping?: Schedule | undefined;
  /** Steps between refreshes of the samples' gradients. Default 200. */
  readonly refreshEvery?: Schedule | undefined;
  /**
   * c: a layer's small system is made from c² of its entries, or from c rows of each factor, drawn without replacement; a layer that has
   * no more than that is exact, and so is a dense layer with one position a sample, where exact costs less. Infinity: always exact.
   * The number of samples does not matter: the small system has one row for each. A sketched direction is no positive definite matrix times
   * the gradient, and may go uphill where the sketch is small and the damping low. Default 256.
   */
  readonly columns?: number | undefined;
  /**
   * `unbiased`: entries are scaled so that inner products are right on average. `paper`: as in the authors' code, which scales both sides
   * by d/c² and so divides the damping by that; dense layers are sketched too. Default `unbiased`.
   */
  readonly scaling?: SketchScaling | undefined;
  /** Layers with more entries keep the factors of the samples' gradients instead of these (the authors' `im_size_threshold`). Default 700 000. */
  readonly explicitUpTo?: number | undefined;
  /** Of such layers, samples with more positions are truncated to this many singular triplets. Default 16. */
  readonly svdRank?: number | undefined;
  /** Of such layers, turn the solution back by the factors themselves (`exact`), or by the authors' approximation. Default `exact`. */
  readonly backProjection?: "exact" | "paper" | undefined;
  /** Which entries are drawn. Default 0. */
  readonly seed?: number | undefined;
}

/**
 * SENG: sketched empirical natural gradient (Yang, Xu, Wen, Chen, Xu 2020, arXiv 2006.05924). For each layer (F + λI)⁻¹J by Woodbury in the
 * space of the samples: with U [n, d] the samples' gradients over √n,
 *
 *     P = J/λ − Uᵀ (λI + UUᵀ)⁻¹ U J/λ
 *
 * where the inner products may be sketched. U is frozen between refreshes. A batch smaller than the largest seen does not refresh: the
 * next full one does, and after a whole interval without one the largest of that interval is full. Where λI + UUᵀ cannot be inverted, 10,
 * 100 and 1000 times the damping are tried, and then the last U stays; each is reported as a problem. By default there is no clip, and a momentum of .9.
 */
export class Seng extends CurvatureOptimizer {
  constructor(parameters: readonly Parameter[], options: SengOptions) {
    const { damping = 2, clip = false, momentum = 0.9 } = options;
    if (options.columns !== undefined && !(options.columns >= 1)) {
      throw new UsageError(`Seng: columns must be at least 1, or Infinity for no sketch, but is ${options.columns}`);
    }
    const identity: Schedule = (step) => 1 / (1 + hyperParameter("damping", damping, step, "positive"));
    // As the authors do, the Fisher matrix of all other parameters is taken for the identity.
    super(parameters, "seng", (view) => new SengBlock(view, options), { ...options, clip, momentum }, { damping, others: identity });
  }
}

/** What a refresh leaves behind: U and (λI + UUᵀ)⁻¹ [n, n]. */
interface Frozen {
  readonly samples: SampleGradients;
  readonly inverse: Tensor;
  /** What λ is multiplied by: above 1 where there was no inverse otherwise. */
  readonly more: number;
}

class SengBlock implements CurvatureBlock {
  readonly method = "seng";
  readonly #name: string;
  readonly #options: SengOptions;
  readonly #scaling: SketchScaling;
  readonly #shape: readonly [dOut: number, dA: number];
  /** Samples of a full batch, the largest seen: smaller ones do not refresh. */
  #full = 0;
  /** Samples of the largest batch since the last step in which a refresh was due, by schedule. */
  #recent = 0;
  #declined = false;
  /** Since the last report. */
  #refreshed = false;
  #problems: string[] = [];
  #remarks: string[] = [];
  /** Observed, but not refreshed yet. */
  #observed: SampleGradients | null = null;
  #frozen: Frozen | null = null;

  constructor(view: CurvatureView, options: SengOptions) {
    this.#name = view.weight.name;
    this.#options = options;
    this.#scaling = options.scaling ?? "unbiased";
    this.#shape = [view.dOut, view.dA];
  }

  needs(step: number): CaptureNeeds {
    return this.#wantsFactors || this.#due(step) ? { curvature: false, gradient: true } : NO_NEEDS;
  }

  /** Whether the frozen samples may meet the factors of a step's gradient. */
  get #wantsFactors(): boolean {
    return this.#options.thin !== false && this.#frozen?.samples.form === "thin";
  }

  #due(step: number): boolean {
    return this.#frozen === null || this.#declined || this.#scheduled(step);
  }

  #scheduled(step: number): boolean {
    return step % hyperParameter("refreshEvery", this.#options.refreshEvery ?? 200, step, "a whole number of at least 1") === 0;
  }

  observe(view: CurvatureView, step: number): void {
    if (!this.#due(step)) return;
    if (this.#scheduled(step)) {
      // A whole interval without a full batch: training goes on with smaller ones, the largest of which is full from now on.
      if (this.#declined) this.#full = this.#recent;
      this.#recent = 0;
    }
    [this.#full, this.#recent] = [Math.max(this.#full, view.n), Math.max(this.#recent, view.n)];
    // Where there is nothing to go on with, as after a first refresh that failed, any batch is better than none.
    this.#declined = this.#frozen !== null && view.n < this.#full;
    if (this.#declined) {
      if (this.#scheduled(step)) {
        this.#remarks.push(
          `no refresh at step ${step}: a batch of ${view.n} is not full, the largest had ${this.#full}; the next full one refreshes`,
        );
      }
      return;
    }
    const { a, g } = view.perSample(0, view.n);
    const scaled = g.multiply(1 / Math.sqrt(view.n));
    const form = this.#formOf(view);
    const entries = form === "explicit" ? this.#explicit(a, scaled, step) : this.#factors(form, a, scaled, step);
    if (this.#observed) release(this.#observed);
    const tensors = new Map(Object.entries(entries).map(([name, tensor]) => [name, tensor.hold()]));
    this.#observed = { form, scaling: this.#scaling, tensors };
  }

  /** That of one refresh: the next batch may have another number of positions a sample. */
  #formOf({ positions, dOut, dA }: CurvatureView): SampleForm {
    if (positions === 1 && this.#scaling === "unbiased") return "thin";
    return dOut * dA <= (this.#options.explicitUpTo ?? 700_000) ? "explicit" : "implicit";
  }

  #explicit(a: Tensor, g: Tensor, step: number): Record<string, Tensor> {
    const [dOut, dA] = this.#shape;
    return explicitTensors(a, g, this.#draw("entries", dOut * dA, (this.#options.columns ?? 256) ** 2, step));
  }

  #factors(form: SampleForm, a: Tensor, g: Tensor, step: number): Record<string, Tensor> {
    if (form === "thin") return { a, g };
    const { columns = 256 } = this.#options;
    const rowsOfA = this.#draw("input rows", this.#shape[1], columns, step);
    const rowsOfG = this.#draw("output rows", this.#shape[0], columns, step);
    const { backend } = a;
    return {
      a,
      g,
      ...(rowsOfA && { rowsOfA: Tensor.from(rowsOfA, { backend }) }),
      ...(rowsOfG && { rowsOfG: Tensor.from(rowsOfG, { backend }) }),
    };
  }

  /** `count` of `all` positions without replacement, or null if there are no more than that. */
  #draw(what: string, all: number, count: number, step: number): Int32Array | null {
    if (count >= all) return null;
    return new Generator(this.#options.seed ?? 0).fork(`seng ${what} of ${this.#name} at step ${step}`).choice(all, count);
  }

  async refresh(step: number): Promise<void> {
    const observed = this.#observed;
    if (!observed) return;
    this.#observed = null;
    let samples = observed;
    try {
      const { svdRank = 16, damping = 2 } = this.#options;
      const lambda = hyperParameter("damping", damping, step, "positive");
      if (observed.form === "implicit") samples = await truncated(observed, svdRank);
      const { inverse, more, failure } = await inverted(samples, lambda);
      this.#releaseFrozen();
      this.#frozen = { samples, inverse, more };
      if (failure) this.#problems.push(`inverted with ${more} times the damping at step ${step}, since ${failure.message}`);
    } catch (cause) {
      release(samples);
      if (!(cause instanceof NumericalError)) throw cause;
      if (!this.#frozen) {
        throw new NumericalError(`the curvature of "${this.#name}" could not be inverted at step ${step}: ${cause.message}`, { cause });
      }
      this.#problems.push(`not inverted at step ${step}, so the inverse from before stays, since ${cause.message}`);
    }
    this.#refreshed = true;
  }

  precondition(gradient: Tensor, { step, view }: { readonly step: number; readonly view: CurvatureView | null }): Tensor {
    if (!this.#frozen) throw new UsageError(`the curvature of "${this.#name}" was applied before its first refresh`);
    const { samples, inverse, more } = this.#frozen;
    const { damping = 2, backProjection = "exact" } = this.#options;
    // The λ of the solve and that of J/λ are one: with more in the solve alone, the step would be longer, not shorter.
    const over = 1 / (more * hyperParameter("damping", damping, step, "positive"));
    const t = inverse.matmul(this.#along(samples, gradient, view)).multiply(over);
    const approximate = samples.form === "implicit" && backProjection === "paper";
    return gradient.multiply(over).subtract(approximate ? combineByMeans(samples, t) : combine(samples, t, this.#shape));
  }

  /** U J. */
  #along(samples: SampleGradients, gradient: Tensor, view: CurvatureView | null): Tensor {
    const [dOut, dA] = this.#shape;
    // The factors of the step's gradient are to be had of one position a sample, and only if the records explain all of it.
    const known = view !== null && view.positions === 1 && view.explainsGradient;
    if (!this.#wantsFactors || !known || view.n * (dOut + dA) >= dOut * dA) return project(samples, gradient);
    return projectThin(samples, view.thinOutputGradient("training"), view.thinInput());
  }

  report(): BlockReport | null {
    const [problems, remarks] = [this.#problems, this.#remarks];
    if (!this.#refreshed && remarks.length === 0) return null;
    [this.#refreshed, this.#problems, this.#remarks] = [false, [], []];
    return { figures: { samples: this.#frozen?.inverse.shape[0] ?? 0 }, spectra: {}, problems, remarks };
  }

  state(): BlockState {
    const frozen = this.#frozen;
    const tensors = new Map([...(frozen?.samples.tensors ?? [])].map(([name, tensor]) => [name, tensor.keep()]));
    if (frozen) tensors.set("inverse", frozen.inverse.keep());
    const [dOut, dA] = this.#shape;
    const own = { dOut, dA, full: this.#full, recent: this.#recent, declined: this.#declined ? 1 : 0 };
    if (!frozen) return { tensors, numbers: own };
    const { samples, more } = frozen;
    const places = { form: sampleForms.indexOf(samples.form), scaling: sketchScalings.indexOf(samples.scaling) };
    return { tensors, numbers: { ...own, ...places, more } };
  }

  load({ tensors, numbers }: BlockState): void {
    const { inverse, ...rest } = Object.fromEntries(tensors);
    const form = sampleForms[numbers["form"] ?? NaN];
    if (inverse) this.#requireFit(numbers);
    this.#releaseFrozen();
    [this.#full, this.#recent, this.#declined] = [numbers["full"] ?? 0, numbers["recent"] ?? 0, numbers["declined"] === 1];
    if (!inverse) return;
    if (form === undefined) {
      // States of before these were saved: whether the samples are read as they were meant is not known, and a wrong direction not seen.
      this.#remarks.push("the saved state does not say how its samples' gradients are scaled, so the first step refreshes them");
      return;
    }
    const held = new Map(Object.entries(rest).map(([name, tensor]) => [name, tensor.hold()]));
    this.#frozen = { samples: { form, scaling: this.#scaling, tensors: held }, inverse: inverse.hold(), more: numbers["more"] ?? 1 };
  }

  /** @throws CheckpointError for the state of another layer, or of another scaling. */
  #requireFit({ dOut, dA, scaling }: BlockState["numbers"]): void {
    const [ownOut, ownA] = this.#shape;
    const saved = `load: the saved curvature of "${this.#name}"`;
    if (dOut !== ownOut || dA !== ownA) {
      throw new CheckpointError(
        `${saved} is of a layer of ${dOut} outputs and ${dA} inputs, but this one has ${ownOut} and ${ownA}, the bias among the inputs; ` +
          "load it into the network that it was saved from",
      );
    }
    const other = sketchScalings[scaling ?? NaN] ?? this.#scaling;
    if (other !== this.#scaling) {
      throw new CheckpointError(
        `${saved} is that of the scaling "${other}", but the optimizer has the scaling "${this.#scaling}", and would go in a wrong direction ` +
          `until its next refresh; make it with scaling: "${other}", or go on without the saved state`,
      );
    }
  }

  #releaseFrozen(): void {
    if (!this.#frozen) return;
    release(this.#frozen.samples);
    this.#frozen.inverse.dispose();
    this.#frozen = null;
  }

  dispose(): void {
    this.#releaseFrozen();
    if (this.#observed) release(this.#observed);
    this.#observed = null;
  }
}

/**
 * (λI + UUᵀ)⁻¹, if need be with more damping: how many times λ it has, and what failed without.
 *
 * There is no second attempt in float64, as Kronecker factors have. The inversion is in float64 as it is, so that the attempt would gain digits
 * of UUᵀ, whose rounding, ε ‖UUᵀ‖, is more than λ where it matters. But P = J/λ − Uᵀt, computed in the samples' type in every step, then loses
 * what UUᵀ gained: its error is ε ‖J‖/λ, and J/‖UUᵀ‖ what is to be left. More damping helps both.
 *
 * @throws NumericalError, the first attempt's, if all fail.
 */
async function inverted(
  samples: SampleGradients,
  lambda: number,
): Promise<{ inverse: Tensor; more: number; failure: NumericalError | null }> {
  using products = unscoped(() => tidy(() => innerProducts(samples)));
  const { shape, dtype, backend } = products;
  const identity = { dtype: requireFloat("seng", dtype), backend };
  let failure: NumericalError | null = null;
  for (const more of [1, ...MORE_DAMPING]) {
    using system = unscoped(() => tidy(() => products.add(Tensor.eye(shape[0] as number, identity).multiply(more * lambda))));
    try {
      return { inverse: await inversePositiveDefinite(system), more, failure };
    } catch (cause) {
      if (!(cause instanceof NumericalError)) throw cause;
      failure ??= cause;
    }
  }
  throw failure as NumericalError;
}

function release({ tensors }: SampleGradients): void {
  for (const tensor of tensors.values()) tensor.dispose();
}

/** Each sample's gradient gᵀa by its largest singular triplets, if it has more positions than that: g ← U Σ and a ← V. Takes `samples`. */
async function truncated(samples: SampleGradients, rank: number): Promise<SampleGradients> {
  const { a, g } = Object.fromEntries(samples.tensors) as { a: Tensor; g: Tensor };
  const [n = 0, positions = 0, dA = 0] = a.shape;
  if (positions <= rank) return samples;
  const dOut = g.shape[2] as number;
  const parts: { a: Tensor; g: Tensor }[] = [];
  try {
    for (let i = 0; i < n; i++) {
      using own = unscoped(() => tidy(() => g.slice([i, 0, 0], [1, positions, dOut]).reshape([positions, dOut])));
      using left = unscoped(() => tidy(() => a.slice([i, 0, 0], [1, positions, dA]).reshape([positions, dA])));
      // gᵀ = V Σ Uᵀ for g = U Σ Vᵀ: the gradient gᵀa is V Σ (Uᵀa).
      const { u, values, v } = await svd(own);
      parts.push(
        unscoped(() =>
          tidy(() => ({
            g: v
              .multiply(values)
              .slice([0, 0], [dOut, Math.min(rank, values.size)])
              .transpose(),
            a: u.matmul(left, { transposeA: true }).slice([0, 0], [Math.min(rank, values.size), dA]),
          })),
        ),
      );
      for (const tensor of [u, values, v]) tensor.dispose();
    }
    const stacked = unscoped(() => tidy(() => ({ a: stack(parts.map((part) => part.a)), g: stack(parts.map((part) => part.g)) })));
    const rows = [...samples.tensors].filter(([name]) => name.startsWith("rows"));
    a.dispose();
    g.dispose();
    return { ...samples, tensors: new Map<string, Tensor>([...rows, ["a", stacked.a], ["g", stacked.g]]) };
  } finally {
    for (const part of parts) for (const tensor of [part.a, part.g]) tensor.dispose();
  }
}

const stack = (parts: readonly Tensor[]): Tensor =>
  concat(
    parts.map((part) => part.reshape([1, ...part.shape])),
    0,
  );
