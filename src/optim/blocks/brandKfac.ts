import { brandUpdate, eigh, type LowRank } from "../../linalg/index.ts";
import type { Parameter } from "../../nn/index.ts";
import { concat, Generator, machineEpsilon, requireFloat, Tensor, tidy, unscoped, UsageError, type Shape } from "../../tensor/index.ts";
import { dampingOf } from "../curvature/adaptiveDamping.ts";
import { AverageWeights } from "../curvature/average.ts";
import { joined, NOTHING, partOf, type BlockFactory, type BlockState } from "../curvature/block.ts";
import {
  countsOf,
  CovarianceFactor,
  diagonalOf,
  requireShape,
  widthOf,
  type FactorAverage,
  type FactorName,
  type FactorSnapshot,
  type FactorTerms,
  type ShiftedFactor,
} from "../curvature/factor.ts";
import { inversionEvery, KroneckerBlock } from "../curvature/kronecker.ts";
import { CurvatureOptimizer } from "../curvature/optimizer.ts";
import { Terms } from "../curvature/terms.ts";
import type { CurvatureView } from "../curvature/view.ts";
import { hyperParameter, type Schedule } from "../schedules.ts";
import { decompose, rankAt } from "./dominant.ts";
import { LowRankKroneckerInverse, type LowRankOptions, type LowRankSnapshot } from "./lowRank.ts";
import { randomizedSearch } from "./rsKfac.ts";
import { withScaleShift } from "./scaleShift.ts";

export interface BrandKfacOptions extends LowRankOptions {
  /**
   * What is done, besides the updates, about the error that truncations leave in a followed factor:
   * - `b`: nothing. No d × d matrix is ever formed;
   * - `b-r`: the average itself is kept, too, d² numbers, and decomposed afresh every `restartEvery` inversions;
   * - `b-r-c`: besides, some of the eigenvectors are corrected by it every `correctEvery` updates.
   *
   * Default `b`.
   */
  readonly variant?: "b" | "b-r" | "b-r-c" | undefined;
  /**
   * When a followed factor loses the modes beyond `rank` that an update gave it: `before-update`, just before the next one, so that the
   * inverse has all r + n of them; or `at-once`, so that it is cheaper to apply. Default `before-update`.
   */
  readonly truncation?: "before-update" | "at-once" | undefined;
  /** Inversions, of `inversionEvery` steps each, between fresh decompositions. Default 5. */
  readonly restartEvery?: Schedule | undefined;
  /** Updates between corrections. Default 5. */
  readonly correctEvery?: Schedule | undefined;
  /** φ, the part of the eigenvectors that a correction picks at random, in (0, 1]. Default .2. */
  readonly correctedPart?: number | undefined;
  /** Power iterations of the randomized SVD, of two products each. Default 4. */
  readonly iterations?: number | undefined;
}

/**
 * B-KFAC, B-R-KFAC and B-R-C-KFAC (Puiu 2022, "Brand New K-FACs", arXiv 2210.08494): K-FAC whose large dense layers follow the dominant
 * eigenpairs of their factors from batch to batch, by Brand's update of a low-rank decomposition, so that a step costs time and memory
 * linear in a layer's width.
 *
 * A factor is followed if the layer has one position a sample and the factor more rows than `rank` (of step 0) and the columns of the
 * first batch together; each of its updates is an inversion at once. The other factors are averaged and decomposed as in RS-KFAC. Averages
 * that begin with the identity are followed as those of the form `zero`: ρᵏ I is added to the eigenvalues, which is the same matrix.
 * `inversionLag` puts off the inversions of layers of which no factor is followed.
 *
 * @throws UsageError for an option that the variant does not use, or a part to be corrected that is not in (0, 1].
 */
export class BrandKfac extends CurvatureOptimizer {
  constructor(parameters: readonly Parameter[], options: BrandKfacOptions) {
    const { variant = "b" } = options;
    const { damping, review } = dampingOf(options);
    checkOptions(variant, options);
    const method = `${variant}-kfac`;
    const create: BlockFactory = (view, saved) => {
      const names = (["input", "output"] as const).filter((name) => isFollowed(name, view, saved, options));
      const factor = (name: FactorName): FactorAverage<FactorSnapshot | LowRankSnapshot> =>
        names.includes(name) ? new FollowedFactor(name, view, options) : new CovarianceFactor(name, view, options);
      const label = `${method} (${names.length === 0 ? "none" : names.join(" and ")} followed)`;
      const inverse = new LowRankKroneckerInverse(label, view, randomizedSearch(options.iterations), options);
      return new KroneckerBlock(view, { input: factor("input"), output: factor("output") }, inverse, { ...options, damping });
    };
    super(parameters, method, withScaleShift(create, { ...options, damping }), options, { damping, review });
  }
}

function checkOptions(variant: NonNullable<BrandKfacOptions["variant"]>, options: BrandKfacOptions): void {
  const unused = [
    ...(variant === "b" ? (["restartEvery"] as const) : []),
    ...(variant === "b-r-c" ? [] : (["correctEvery", "correctedPart"] as const)),
  ].filter((key) => options[key] !== undefined);
  if (unused.length > 0)
    throw new UsageError(`BrandKfac: variant "${variant}" does not use ${unused.join(" and ")}; choose another variant`);
  const { correctedPart = 0.2 } = options;
  if (!(correctedPart > 0 && correctedPart <= 1))
    throw new UsageError(`BrandKfac: correctedPart must be in (0, 1] but is ${correctedPart}`);
}

/** A saved block is restored as it was; a new one goes by its first batch. */
function isFollowed(name: FactorName, view: CurvatureView, saved: BlockState | null, options: LowRankOptions): boolean {
  if (saved) return partOf(saved, name).numbers[FOLLOWED] === 1;
  const rank = rankAt(options, 0);
  const d = widthOf(name, view);
  return view.positions === 1 && d > rank && d > rank + (thinFactor(name, view).shape[1] as number);
}

/** In the state of a followed factor, to tell it from others. */
const FOLLOWED = "followed";

/** C [d, n] such that C Cᵀ is the step's value of the factor. One position a sample. */
function thinFactor(name: FactorName, view: CurvatureView): Tensor {
  return name === "input" ? view.thinInput() : view.thinOutputGradient("fisher");
}

type Pairs = Required<LowRank>;

/**
 * An average of C Cᵀ as its dominant eigenpairs U diag(D) Uᵀ and its trace: each value is an update of these. Equal to the average as long
 * as no truncation leaves something out, and never above it in the variant without a matrix.
 *
 * The first batch had one position a sample. Of a later one with several, nT columns, the value comes as a d × d matrix, and its own dominant
 * eigenpairs are taken in.
 */
class FollowedFactor implements FactorAverage<LowRankSnapshot> {
  readonly #name: FactorName;
  readonly #layer: string;
  readonly #width: number;
  readonly #options: BrandKfacOptions;
  readonly #weights: AverageWeights;
  /** The average itself, for the variants that need it. */
  readonly #average: CovarianceFactor | null;
  readonly #terms = new Terms();
  #pairs: Pairs | null = null;
  /** The step's value until it is taken in: C, or the whole matrix. */
  #value: { readonly tensor: Tensor; readonly whole: boolean } | null = null;

  constructor(name: FactorName, view: CurvatureView, options: BrandKfacOptions) {
    this.#name = name;
    this.#layer = view.weight.name;
    this.#width = widthOf(name, view);
    this.#options = options;
    // The identity has no place in a low-rank matrix.
    const averageForm = options.averageForm === "identity" ? "zero" : options.averageForm;
    this.#weights = new AverageWeights({ form: averageForm, decay: options.statDecay });
    this.#average = (options.variant ?? "b") === "b" ? null : new CovarianceFactor(name, view, { ...options, averageForm });
  }

  get count(): number {
    return this.#weights.count;
  }

  observe(view: CurvatureView): void {
    this.#value?.tensor.dispose();
    const whole = view.positions > 1;
    if (whole) {
      const [matrix, rows] = this.#name === "input" ? [view.inputCovariance(), view.inputRows] : [view.outputCovariance(), view.outputRows];
      this.#value = { tensor: matrix.hold(), whole };
      this.#terms.observe(rows, diagonalOf(matrix).sum());
    } else {
      const columns = thinFactor(this.#name, view);
      this.#value = { tensor: columns.hold(), whole };
      this.#terms.observe(columns.shape[1] as number, columns.square().sum());
    }
    this.#average?.observe(view);
  }

  async update(step: number): Promise<boolean> {
    const { tensor = null, whole = false } = this.#value ?? {};
    using value = tensor;
    this.#value = null;
    await this.#renewAverage();
    if (this.#average && this.#restartIsDue(step)) this.#install(await this.#decomposed(this.#average.snapshot().matrix, step));
    else if (value) {
      const updated = whole ? await this.#updatedBy(value, step) : await this.#updated(value, step);
      this.#install(await this.#corrected(updated, step));
    } else return false;
    if (value) this.#weights.advance();
    return true;
  }

  /** What is not finite would stay in the average for ever: it begins anew with the next value. */
  async #renewAverage(): Promise<void> {
    const average = this.#average;
    if (average && average.count > 0 && !Number.isFinite(await average.meanEigenvalue())) average.load(NOTHING);
  }

  /** The first value needs no decomposition: it is C Cᵀ. */
  #restartIsDue(step: number): boolean {
    const every = hyperParameter("restartEvery", this.#options.restartEvery ?? 5, step, "a whole number of at least 1");
    return this.count > 0 && this.#average?.count !== 0 && step % (every * inversionEvery(this.#options, step)) === 0;
  }

  #decomposed(matrix: Tensor, step: number): Promise<Pairs> {
    const draw = `${this.#layer} ${this.#name} at step ${step}`;
    return decompose(matrix, randomizedSearch(this.#options.iterations), this.#options, { step, draw });
  }

  /** By a value that is known as a matrix: U diag(√D) of its dominant eigenpairs is its C. The trace is that of all of it. */
  async #updatedBy(matrix: Tensor, step: number): Promise<Pairs> {
    const before = this.#pairs?.trace ?? 0;
    const own = await this.#decomposed(matrix, step);
    try {
      const values = Array.from(await own.values.data());
      const epsilon = machineEpsilon[requireFloat("a factor", matrix.dtype)];
      const top = values.reduce((a, b) => Math.max(a, b), 0);
      // The others are rounding of a matrix of lower rank, whose roots would pass for columns.
      const known = Array.from(values.keys()).filter((i) => (values[i] as number) > this.#width * epsilon * top);
      using columns = unscoped(() =>
        tidy(() => {
          const pairs = picked(own, known);
          return pairs.vectors.multiply(pairs.values.sqrt());
        }),
      );
      const { decay, weight } = this.#weights.next();
      return { ...(await this.#updated(columns, step)), trace: decay * before + weight * own.trace };
    } finally {
      release(own);
    }
  }

  async #updated(columns: Tensor, step: number): Promise<Pairs> {
    const rank = rankAt(this.#options, step);
    const old = await this.#leading(rank, columns);
    const atOnce = this.#options.truncation === "at-once";
    try {
      const { vectors, values, trace = 0 } = await brandUpdate(old, columns, { ...this.#weights.next(), ...(atOnce && { rank }) });
      return { vectors, values, trace };
    } finally {
      release(old);
    }
  }

  /** The largest eigenpairs; at first there are none. */
  async #leading(rank: number, { dtype, backend }: Tensor): Promise<Pairs> {
    const pairs = this.#pairs;
    if (!pairs) {
      const none = (shape: Shape): Tensor => unscoped(() => Tensor.zeros(shape, { dtype, backend }));
      return { vectors: none([this.#width, 0]), values: none([0]), trace: 0 };
    }
    const values = await pairs.values.data();
    const descending = Array.from(values.keys()).sort((i, j) => (values[j] as number) - (values[i] as number));
    return unscoped(() => tidy(() => picked(pairs, descending.slice(0, rank))));
  }

  /**
   * If it is time: some of the eigenvectors, picked at random, are rotated to the eigenvectors of the average's restriction to their span,
   * with its eigenvalues. On that span they are then exact, and ‖M − U diag(D) Uᵀ‖_F is no larger than before. Takes over the pairs.
   */
  async #corrected(pairs: Pairs, step: number): Promise<Pairs> {
    const { variant, correctEvery = 5, correctedPart = 0.2, seed = 0 } = this.#options;
    const [r, count] = [pairs.values.size, this.count + 1];
    if (variant !== "b-r-c" || !this.#average?.count || r === 0) return pairs;
    if (count % hyperParameter("correctEvery", correctEvery, step, "a whole number of at least 1") !== 0) return pairs;
    const order = new Generator(seed).fork(`${this.#layer} ${this.#name}, correction ${count}`).permutation(r);
    const size = Math.max(1, Math.round(correctedPart * r));
    const { matrix } = this.#average.snapshot();
    const part = (from: number, to: number): Pairs => picked(pairs, Array.from(order.subarray(from, to)));
    try {
      using projection = unscoped(() =>
        tidy(() => {
          const { vectors } = part(0, size);
          return vectors.matmul(matrix.matmul(vectors), { transposeA: true });
        }),
      );
      const ritz = await eigh(projection);
      using turn = ritz.vectors;
      using values = ritz.values;
      return unscoped(() =>
        tidy(() => {
          const [chosen, others] = [part(0, size), part(size, r)];
          return {
            vectors: concat([others.vectors, chosen.vectors.matmul(turn)], 1),
            values: concat([others.values, values], 0),
            trace: pairs.trace,
          };
        }),
      );
    } finally {
      release(pairs);
    }
  }

  /** Takes over the pairs. */
  #install(pairs: Pairs): void {
    if (this.#pairs) release(this.#pairs);
    this.#pairs = pairs;
  }

  snapshot(): LowRankSnapshot {
    if (!this.#pairs) throw new UsageError("a followed factor was read before its first value");
    return { pairs: this.#pairs, residual: this.#weights.residual };
  }

  shifted(extra: number): ShiftedFactor<LowRankSnapshot> {
    const { pairs, residual } = this.snapshot();
    return { snapshot: { pairs, residual: residual + extra }, dispose: () => undefined };
  }

  meanEigenvalue(): Promise<number> {
    return Promise.resolve((this.#pairs?.trace ?? 0) / this.#width);
  }

  async terms(): Promise<FactorTerms> {
    const { count, slowest, identity } = this.#weights;
    return { width: this.#width, values: count, decay: slowest, identity, bounds: await this.#terms.bounds() };
  }

  state(): BlockState {
    const { vectors, values, trace = 0 } = this.#pairs ?? {};
    const parts = joined({ terms: this.#terms.state(), ...(this.#average && { average: this.#average.state() }) });
    return {
      tensors: new Map([
        ...parts.tensors,
        ...(vectors && values
          ? ([
              ["vectors", vectors.keep()],
              ["values", values.keep()],
            ] as const)
          : []),
      ]),
      numbers: { ...parts.numbers, ...this.#weights.state(), trace, [FOLLOWED]: 1 },
    };
  }

  check(state: BlockState): void {
    const { vectors, values } = Object.fromEntries(state.tensors);
    requireShape(`basis of the ${this.#name} factor`, this.#layer, vectors, [this.#width, values?.size ?? 0]);
    this.#average?.check(partOf(state, "average"));
  }

  load(state: BlockState): void {
    this.dispose();
    const { vectors, values } = Object.fromEntries(state.tensors);
    if (vectors && values) this.#install({ vectors: vectors.hold(), values: values.hold(), trace: state.numbers["trace"] ?? 0 });
    this.#weights.load(countsOf(state.numbers));
    this.#average?.load(partOf(state, "average"));
    this.#terms.load(partOf(state, "terms"));
  }

  dispose(): void {
    this.#value?.tensor.dispose();
    if (this.#pairs) release(this.#pairs);
    [this.#value, this.#pairs] = [null, null];
    this.#average?.dispose();
    this.#terms.dispose();
  }
}

/** Some of the eigenpairs. */
function picked({ vectors, values, trace }: Pairs, columns: readonly number[]): Pairs {
  const indices = Tensor.from(Int32Array.from(columns), { backend: vectors.backend });
  return { vectors: vectors.transpose().gather(indices).transpose(), values: values.gather(indices), trace };
}

function release({ vectors, values }: Pairs): void {
  vectors.dispose();
  values.dispose();
}
