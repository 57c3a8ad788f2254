import type { Parameter } from "../../nn/index.ts";
import { concat, im2col, patchCovariance, Tensor, tidy, unscoped, UsageError } from "../../tensor/index.ts";
import type { LayerKind, LayerRecord } from "./capture.ts";

/** The records of one weight in one pass over one batch: one a call. */
export type Pass = readonly LayerRecord[];

/** What was recorded of one weight in one micro-batch. */
export interface MicroBatch {
  /** The pass that gave the training gradient. */
  readonly training: Pass;
  /**
   * The passes that make up the Fisher. The empirical Fisher's is the training pass itself; others have one pass a vector, and
   * the outer products of the vectors add up.
   */
  readonly fisher: readonly Pass[];
  /** The micro-batch's part in the mean of the closures' losses: 1 / their number. */
  readonly share: number;
}

/**
 * All records of one weight in one step (calls × Fisher passes × micro-batches), as the quantities that curvature methods
 * consume. Computed on demand and kept until the step ends. The scaling of gradients is resolved here and nowhere else.
 *
 * Symbols: n samples, T positions a sample, a [dA] the input row with a trailing 1 if the layer has a bias, g [dOut] the
 * gradient of one sample's own loss. Several calls of one weight count as further positions (the expand convention).
 */
export interface CurvatureView {
  readonly weight: Parameter;
  readonly bias: Parameter | null;
  readonly kind: LayerKind;
  /** Samples, over all micro-batches. */
  readonly n: number;
  /** Positions a sample, over all calls. */
  readonly positions: number;
  /** Width of `a`: dIn, and 1 more with a bias. */
  readonly dA: number;
  readonly dOut: number;
  /** What the weight's gradient is to be multiplied by to be the mean of the samples' own gradients: 1 for a mean loss, 1/n for a sum. */
  readonly toSampleMean: number;
  /** Whether the records make up the whole gradient of weight and bias: false if the loss uses one of them in another way, too. */
  readonly explainsGradient: boolean;
  /** Number of rows a, n · T: Ω has no larger rank. */
  readonly inputRows: number;
  /** Number of rows g, n · T of each pass of the Fisher: Γ has no larger rank. */
  readonly outputRows: number;
  /** Ω = (1/n) Σ a aᵀ, [dA, dA]. */
  inputCovariance(): Tensor;
  /** Γ = (1/nT) Σ g gᵀ, [dOut, dOut]. */
  outputCovariance(): Tensor;
  /** C [dA, n] with C Cᵀ = Ω. @throws UsageError unless T = 1. */
  thinInput(): Tensor;
  /**
   * C [dOut, n · vectors] with C Cᵀ = Γ (`fisher`), or [dOut, n] such that C thinInput()ᵀ is the weight's gradient (`training`).
   * @throws UsageError unless T = 1.
   */
  thinOutputGradient(of?: "fisher" | "training"): Tensor;
  /** Rows of samples from … to − 1: a [m, T, dA] and g [m, T, dOut]; a sample's gradient is Σ_t g aᵀ. Training pass. */
  perSample(from: number, to: number): { a: Tensor; g: Tensor };
  /** Inner products of the samples' gradients, [n, n]. Training pass. */
  gram(): Tensor;
  /**
   * Second moments (1/n) Σ u uᵀ of a sample's gradient u = (∂γ_c, ∂β_c) for each channel c, [channels, 2, 2]
   * (or 1 × 1 without β).
   * @throws UsageError unless the kind is `scaleShift`, which has these in place of all quantities above.
   */
  channelMoments(): Tensor;
}

/** Why the calls of a weight, one pass a micro-batch, do not make up one layer; or null if they do. */
export function whyNoBlock(passes: readonly Pass[]): string | null {
  const records = passes.flat();
  const [first] = records;
  if (!first) return "never reached by a gradient";
  const biases = new Set(records.map((record) => record.bias).filter((bias) => bias !== null));
  if (records.some((record) => record.geometry.groups > 1)) return "a convolution with groups > 1";
  if (records.some((record) => record.kind !== first.kind)) return "shared between layers of two kinds";
  if (biases.size > 1) return "called with two different biases";
  const sizes = passes.map((pass) => new Set(pass.map((record) => record.geometry.n)).size);
  return Math.max(...sizes) > 1 ? "called with batches of two sizes" : null;
}

/** Why there is no Fisher of a weight, though its passes were made; or null if there is. */
export function whyNoFisher(batches: readonly MicroBatch[], fisher: string): string | null {
  const missed = batches.some(({ fisher: passes }) => passes.length > 0 && passes.every((pass) => pass.length === 0));
  return missed ? `fisher "${fisher}" needs a crossEntropy or meanSquaredError of what the layer computes, and there is none` : null;
}

export class RecordedView implements CurvatureView {
  readonly weight: Parameter;
  readonly bias: Parameter | null;
  readonly kind: LayerKind;
  readonly n: number;
  readonly positions: number;
  readonly dA: number;
  readonly dOut: number;
  readonly toSampleMean: number;
  readonly explainsGradient: boolean;
  readonly #batches: readonly MicroBatch[];
  readonly #cache = new Map<string, Tensor>();

  constructor(batches: readonly MicroBatch[], usedElsewhere: ReadonlySet<Parameter> = new Set()) {
    // A pass that did not go by this weight, as that of another head's loss, adds nothing.
    this.#batches = batches.map(({ fisher, ...batch }) => ({ ...batch, fisher: fisher.filter((pass) => pass.length > 0) }));
    const calls = this.#batches.map(({ training }) => training);
    const first = calls[0]?.[0];
    if (!first) throw new UsageError("a curvature view needs at least one record");
    this.weight = first.weight;
    this.bias = calls.flat().find((record) => record.bias)?.bias ?? null;
    this.kind = first.kind;
    this.n = sum(calls.map((pass) => pass[0]?.geometry.n ?? 0));
    this.positions = sum((calls[0] as Pass).map((record) => record.geometry.positions));
    this.dA = first.geometry.dIn + (this.bias ? 1 : 0);
    this.dOut = first.geometry.dOut;
    // The gradient is the sum of the micro-batches' own, each weighted by its share, and each a mean or a sum over its samples.
    this.toSampleMean = 1 / ((this.#batches[0] as MicroBatch).share * (first.lossReduction === "mean" ? this.#batches.length : this.n));
    this.explainsGradient = !usedElsewhere.has(this.weight) && !(this.bias && usedElsewhere.has(this.bias));
  }

  get inputRows(): number {
    return rowsOf(this.#calls());
  }

  get outputRows(): number {
    return rowsOf(this.#batches.flatMap((batch) => this.#fisher(batch).flat()));
  }

  inputCovariance(): Tensor {
    this.#requireFactors();
    return this.#cached("inputCovariance", () =>
      total(this.#calls().map((record) => inputProduct(record, this.bias !== null, 1 / this.n))),
    );
  }

  outputCovariance(): Tensor {
    this.#requireFactors();
    return this.#cached("outputCovariance", () => {
      const rows = this.inputRows;
      const records = this.#batches.flatMap((batch) => this.#fisher(batch).flat());
      return total(records.map((record) => gradientRows(record).gram(sampleScale(record) ** 2 / rows)));
    });
  }

  thinInput(): Tensor {
    return this.#cached("thinInput", () => {
      this.#requireThin();
      const rows = this.#calls().map((record) => inputRows(record, this.bias !== null));
      return joined(rows)
        .transpose()
        .multiply(1 / Math.sqrt(this.n));
    });
  }

  thinOutputGradient(of: "fisher" | "training" = "fisher"): Tensor {
    return this.#cached(`thinOutputGradient ${of}`, () => {
      this.#requireThin();
      if (of === "fisher") {
        const records = this.#batches.flatMap((batch) => this.#fisher(batch).flat());
        const rows = records.map((record) => gradientRows(record).multiply(sampleScale(record)));
        return joined(rows)
          .transpose()
          .multiply(1 / Math.sqrt(this.n));
      }
      // The gradient is the batches' own, weighted by their share; the other factor has 1/√n.
      const rows = this.#batches.flatMap(({ training, share }) => training.map((record) => gradientRows(record).multiply(share)));
      return joined(rows).transpose().multiply(Math.sqrt(this.n));
    });
  }

  perSample(from: number, to: number): { a: Tensor; g: Tensor } {
    this.#requireFactors();
    return tidy(() => {
      let start = 0;
      const parts = this.#batches.flatMap(({ training: records }) => {
        const { n } = (records[0] as LayerRecord).geometry;
        const [first, last] = [Math.max(from - start, 0), Math.min(to - start, n)];
        start += n;
        if (first >= last) return [];
        // Samples are picked before patches are made: those of a whole batch would be large.
        const picked = records.map((record) => samples(record, first, last));
        const a = picked.map((record) => inputRows(record, this.bias !== null).reshape([last - first, -1, this.dA]));
        const g = picked.map((record, i) =>
          gradientRows(record)
            .multiply(sampleScale(records[i] as LayerRecord))
            .reshape([last - first, -1, this.dOut]),
        );
        return [{ a: joined(a, 1), g: joined(g, 1) }];
      });
      return { a: joined(parts.map(({ a }) => a)), g: joined(parts.map(({ g }) => g)) };
    });
  }

  gram(): Tensor {
    return this.#cached("gram", () => {
      const { a, g } = this.perSample(0, this.n);
      if (this.positions === 1) {
        // ⟨g_i a_iᵀ, g_j a_jᵀ⟩ = (g_i·g_j)(a_i·a_j): two small products instead of n gradients.
        const [p, q] = [a.reshape([this.n, this.dA]), g.reshape([this.n, this.dOut])];
        return p.matmul(p, { transposeB: true }).multiply(q.matmul(q, { transposeB: true }));
      }
      // Some rows of every sample's gradient at a time, so that never more than GRAM_CHUNK numbers of them exist.
      const rows = Math.max(1, Math.floor(GRAM_CHUNK / (this.n * this.dA)));
      let sum: Tensor | null = null;
      for (let from = 0; from < this.dOut; from += rows) {
        const count = Math.min(rows, this.dOut - from);
        sum = tidy(() => {
          const part = g.slice([0, 0, from], [this.n, this.positions, count]).matmul(a, { transposeA: true }).reshape([this.n, -1]);
          const product = part.matmul(part, { transposeB: true });
          return sum ? sum.add(product) : product;
        });
      }
      return sum as unknown as Tensor;
    });
  }

  channelMoments(): Tensor {
    if (this.kind !== "scaleShift") throw new UsageError(`"${this.weight.name}" is no scale of a batch norm, so it has no channel moments`);
    return this.#cached("channelMoments", () => {
      const passes = this.#batches.flatMap((batch) => this.#fisher(batch));
      const products = passes.map((pass) => {
        // A sample's gradient is the sum over the calls of its pass.
        const part = (of: "input" | "outputGradient"): Tensor =>
          total(pass.map((record) => record[of].multiply(sampleScale(record)).transpose().reshape([this.dOut, -1, 1])));
        const u = this.bias ? concat([part("input"), part("outputGradient")], 2) : part("input");
        return u.matmul(u, { transposeA: true });
      });
      return total(products).multiply(1 / this.n);
    });
  }

  /** Frees the covariances, of which a block has kept what it wants: those of all layers together are large. Read again, they are computed again. */
  forgetCovariances(): void {
    for (const key of ["inputCovariance", "outputCovariance"]) {
      this.#cache.get(key)?.dispose();
      this.#cache.delete(key);
    }
  }

  dispose(): void {
    for (const tensor of this.#cache.values()) tensor.dispose();
    this.#cache.clear();
  }

  /** The cached quantity outlives scopes until the view is disposed; callers get it borrowed. */
  #cached(key: string, compute: () => Tensor): Tensor {
    const known = this.#cache.get(key);
    if (known) return known;
    const value = unscoped(() => tidy(compute));
    this.#cache.set(key, value);
    return value;
  }

  /** Every call of the weight. Its input is the same in all passes, but only the training pass goes by every call. */
  #calls(): readonly LayerRecord[] {
    return this.#batches.flatMap(({ training }) => training);
  }

  #fisher({ fisher }: MicroBatch): readonly Pass[] {
    if (fisher.length === 0)
      throw new UsageError(`curvature of "${this.weight.name}" was read in a step whose needs() did not ask for curvature`);
    return fisher;
  }

  #requireFactors(): void {
    if (this.kind === "scaleShift")
      throw new UsageError(`"${this.weight.name}" scales a batch norm: its gradient has no Kronecker factors`);
  }

  #requireThin(): void {
    this.#requireFactors();
    if (this.positions !== 1)
      throw new UsageError(`thin factors of "${this.weight.name}" exist only with one position a sample, but there are ${this.positions}`);
  }
}

const GRAM_CHUNK = 2 ** 22;

/** The record of samples first … last − 1 alone; its tensors belong to the scope. */
function samples(record: LayerRecord, first: number, last: number): LayerRecord {
  const pick = (x: Tensor): Tensor => x.slice([first, ...x.shape.slice(1).map(() => 0)], [last - first, ...x.shape.slice(1)]);
  const geometry = { ...record.geometry, n: last - first };
  return { ...record, geometry, input: pick(record.input), outputGradient: pick(record.outputGradient) };
}

/** Rows of all records together. */
function rowsOf(records: readonly LayerRecord[]): number {
  return sum(records.map(({ geometry }) => geometry.n * geometry.positions));
}

/** Autograd differentiates the batch's loss; one sample's own loss has a gradient n times as large if the batch's is a mean. */
function sampleScale({ lossReduction, geometry }: LayerRecord): number {
  return lossReduction === "mean" ? geometry.n : 1;
}

/** [n · T, dOut]. */
function gradientRows({ outputGradient, geometry }: LayerRecord): Tensor {
  return outputGradient.reshape([-1, geometry.dOut]);
}

/** [n · T, dIn], with a column for the bias if the layer has one: ones, or zeros in a call that left the bias out. */
function inputRows(record: LayerRecord, withBias: boolean): Tensor {
  const { input, geometry, bias } = record;
  const rows = (geometry.window ? im2col(input, geometry.window.kernel, geometry.window) : input).reshape([-1, geometry.dIn]);
  if (!withBias) return rows;
  const column = Tensor.full([rows.shape[0] as number, 1], bias ? 1 : 0, { dtype: input.dtype, backend: input.backend });
  return concat([rows, column], 1);
}

/** scale · Σ a aᵀ of one call. */
function inputProduct(record: LayerRecord, withBias: boolean, scale: number): Tensor {
  const { geometry, input, bias } = record;
  if (!geometry.window) return inputRows(record, withBias).gram(scale);
  const { kernel, ...window } = geometry.window;
  const product = patchCovariance(input, kernel, { ...window, bias: bias !== null, scale });
  return withBias && !bias ? product.pad([0, 0], [1, 1]) : product;
}

function total(terms: readonly Tensor[]): Tensor {
  return terms.reduce((a, b) => a.add(b));
}

function joined(parts: readonly Tensor[], axis = 0): Tensor {
  return parts.length === 1 ? (parts[0] as Tensor) : concat(parts, axis);
}

function sum(values: readonly number[]): number {
  return values.reduce((a, b) => a + b, 0);
}
