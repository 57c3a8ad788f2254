import { CheckpointError, concat, formatShape, sameShape, tidy, unscoped, type Tensor } from "../../tensor/index.ts";
import { MatrixAverage } from "../curvature/average.ts";
import {
  NO_NEEDS,
  type BlockFactory,
  type BlockReport,
  type BlockState,
  type CaptureNeeds,
  type CurvatureBlock,
} from "../curvature/block.ts";
import type { CurvatureView } from "../curvature/view.ts";
import { hyperParameter, type Schedule } from "../schedules.ts";

export interface ScaleShiftOptions {
  readonly damping?: Schedule | undefined;
  readonly statDecay?: number | ((count: number) => number) | undefined;
  readonly factorUpdateEvery?: Schedule | undefined;
}

/** Gives the scales and shifts of batch norms a `ScaleShiftBlock`, and everything else what `create` makes. */
export function withScaleShift(create: BlockFactory, options: ScaleShiftOptions): BlockFactory {
  return (view, saved) => (view.kind === "scaleShift" ? new ScaleShiftBlock(view, options) : create(view, saved));
}

/** Below this, the largest second moment counts as 0: the reciprocal must not overflow in float32. */
const TINY = 1e-30;

/**
 * The curvature of a batch norm's scale γ and shift β, channel by channel: the 2 × 2 matrices F_c = E[u uᵀ] of the samples' gradients
 * u = (∂γ_c, ∂β_c), damped by λ times the largest eigenvalue of all of them. With train-mode statistics the samples of a batch depend on
 * each other, so that u is only nearly a sample's own gradient (as in every method that looks at samples).
 * Source: unit-wise curvature, Osawa et al. 2019, arXiv 1811.12019, section 4.2.
 */
class ScaleShiftBlock implements CurvatureBlock {
  readonly method = "scale and shift";
  readonly #name: string;
  readonly #shape: readonly number[];
  readonly #options: ScaleShiftOptions;
  readonly #moments: MatrixAverage;
  #observedAt = -1;
  /** Whether the moments have a value that was not looked at yet. */
  #changed = false;
  /** Since the last report. */
  #figures: Readonly<Record<string, number>> | null = null;
  #problems: string[] = [];

  constructor(view: CurvatureView, options: ScaleShiftOptions) {
    this.#name = view.weight.name;
    this.#shape = [view.dOut, view.dA, view.dA];
    this.#options = options;
    this.#moments = new MatrixAverage({ decay: options.statDecay });
  }

  needs(step: number): CaptureNeeds {
    return this.#due(step) ? { curvature: true, gradient: false } : NO_NEEDS;
  }

  #due(step: number): boolean {
    const every = hyperParameter("factorUpdateEvery", this.#options.factorUpdateEvery ?? 10, step, "a whole number of at least 1");
    return this.#moments.count === 0 || step % every === 0;
  }

  observe(view: CurvatureView, step: number): void {
    // As in a `KroneckerBlock`.
    if (!this.#due(step) || (this.#observedAt === step && this.#moments.count > 0)) return;
    this.#moments.observe(view.channelMoments());
    [this.#observedAt, this.#changed] = [step, true];
  }

  /** There is nothing to invert beforehand; but moments that a value has spoilt would stay so for ever, and a report has figures. */
  async refresh(step: number): Promise<void> {
    if (!this.#changed) return;
    // A maximum may pass over what is no number, the sum does not.
    using read = unscoped(() => tidy(() => concat([this.#largest().reshape([1]), this.#moments.value.sum().reshape([1])], 0)));
    const [largest = NaN, sum] = await read.data();
    const [channels, width] = this.#shape as [number, number];
    this.#figures = { channels, width, values: this.#moments.count, largest };
    if (!Number.isFinite(sum)) {
      this.#moments.load({ value: null, count: 0, weight: 0, residual: 1 });
      this.#problems.push(`the moments are not finite at step ${step}: their average begins anew with the next value`);
    }
    this.#changed = false;
  }

  report(): BlockReport | null {
    const [figures, problems] = [this.#figures, this.#problems];
    [this.#figures, this.#problems] = [null, []];
    return figures && { figures, spectra: {}, problems, remarks: [] };
  }

  /** Entry i, j of each channel's matrix, [channels, 1]. */
  #entry(i: number, j: number): Tensor {
    const [channels] = this.#shape as [number];
    return this.#moments.value.slice([0, i, j], [channels, 1, 1]).reshape([channels, 1]);
  }

  /** The largest eigenvalue of all channels' matrices. */
  #largest(): Tensor {
    if (this.#shape[1] === 1) return this.#entry(0, 0).max();
    const [a, b, c] = [this.#entry(0, 0), this.#entry(0, 1), this.#entry(1, 1)];
    const half = a.subtract(c).multiply(0.5);
    return a.add(c).multiply(0.5).add(half.square().add(b.square()).sqrt()).max();
  }

  precondition(gradient: Tensor, { step }: { readonly step: number }): Tensor {
    const lambda = hyperParameter("damping", this.#options.damping ?? 0.1, step, "positive");
    if (this.#moments.count === 0) return gradient.multiply(0); // nothing is known
    const [channels, width] = this.#shape as [number, number];
    const largest = this.#largest().maximum(TINY);
    if (width === 1) return gradient.divide(this.#entry(0, 0).add(largest.multiply(lambda)));
    const [a, b, c] = [this.#entry(0, 0), this.#entry(0, 1), this.#entry(1, 1)];
    // Relative to the largest eigenvalue, so that no product leaves the range of the type.
    const [p, q, r] = [a.divide(largest).add(lambda), b.divide(largest), c.divide(largest).add(lambda)];
    const [left, right] = [gradient.slice([0, 0], [channels, 1]), gradient.slice([0, 1], [channels, 1])];
    const determinant = p.multiply(r).subtract(q.square()).multiply(largest);
    const first = r.multiply(left).subtract(q.multiply(right)).divide(determinant);
    const second = p.multiply(right).subtract(q.multiply(left)).divide(determinant);
    return first.pad([0, 0], [0, 1]).add(second.pad([0, 1], [0, 0]));
  }

  state(): BlockState {
    const { value, ...counts } = this.#moments.state();
    return { tensors: new Map(value ? [["moments", value]] : []), numbers: { ...counts, observedAt: this.#observedAt } };
  }

  load({ tensors, numbers }: BlockState): void {
    const value = tensors.get("moments") ?? null;
    if (value && !sameShape(value.shape, this.#shape)) {
      throw new CheckpointError(
        `load: the saved moments of "${this.#name}" are ${formatShape(value.shape)} but the layer's are ${formatShape(this.#shape)}, ` +
          "a matrix for each channel; load them into the network that they were saved from, with the same parameters",
      );
    }
    this.#moments.load({ value, count: numbers["count"] ?? 0, weight: numbers["weight"] ?? 0, residual: numbers["residual"] ?? 1 });
    this.#observedAt = numbers["observedAt"] ?? -1;
    [this.#changed, this.#figures, this.#problems] = [false, null, []];
  }

  dispose(): void {
    this.#moments.dispose();
  }
}
