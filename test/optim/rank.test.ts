import { afterAll, beforeAll, describe, expect, it, vi } from "vitest";
import { LinalgWorker, routines } from "../../src/linalg/index.ts";
import { Parameter } from "../../src/nn/index.ts";
import { NysKfac, RsKfac, SreKfac, type CurvatureOptimizer, type OptimizerState, type SreKfacOptions } from "../../src/optim/index.ts";
import { defaultBackend, linear, NumericalError, Tensor, UsageError } from "../../src/tensor/index.ts";
import { normalMatrix } from "../arbitraries/matrices.ts";
import { eachBackend } from "../backends.ts";
import { eighBy, onEngine } from "../linalg/compute.ts";
import { diagonal, matrix, minus, norm, product, scaled, transpose, type Matrix } from "../linalg/dense.ts";

/*
 * How many eigenpairs of each factor a low-rank method keeps: by a schedule of ranks, by a tolerance, and by what is
 * negligible beside the damping.
 */

const [IN, OUT, BATCH] = [30, 26, 10];
const plain = { clip: false, damping: 0.01, factorUpdateEvery: 1, inversionEvery: 1, exactUpTo: 0 } as const;

/**
 * A dense layer with inputs and output gradients that are given, other ones in each step, whose covariances have spectra that fall in common
 * directions. The loss is linear in the weight, so that the gradients do not depend on the way that the weight went.
 */
class Layer {
  readonly weight: Parameter;
  /** In how many directions the batch of a step varies. */
  readonly #directions: (step: number) => number;

  constructor(directions: (step: number) => number = () => IN) {
    this.#directions = directions;
    using zeros = Tensor.zeros([OUT, IN], { dtype: "float64" });
    this.weight = new Parameter("weight", zeros);
  }

  async step(optimizer: CurvatureOptimizer): Promise<void> {
    const [x, slope] = [this.#rows(IN, optimizer.steps, 1), scaled(this.#rows(OUT, optimizer.steps, 2), 1 / BATCH)];
    using input = Tensor.from(x.data, { shape: [BATCH, IN] });
    using outer = Tensor.from(slope.data, { shape: [BATCH, OUT] });
    await optimizer.minimize(() => linear(input, this.weight.value).multiply(outer).sum());
  }

  async steps(optimizer: CurvatureOptimizer, count: number): Promise<void> {
    for (let i = 0; i < count; i++) await this.step(optimizer);
  }

  get values(): Matrix {
    return matrix(OUT, IN, this.weight.value.dataSync());
  }

  #rows(width: number, step: number, stream: number): Matrix {
    const heights = Array.from({ length: width }, (_, k) => (k < this.#directions(step) ? 1 / (k + 1) : 0));
    return product(normalMatrix(BATCH, width, 1 + 10 * step + stream), diagonal(heights), normalMatrix(width, width, width));
  }
}

/** Reads a state of the optimizer, and releases it. */
function withState<Result>(optimizer: CurvatureOptimizer, f: (state: OptimizerState) => Result): Result {
  const state = optimizer.state();
  try {
    return f(state);
  } finally {
    for (const { tensors } of state.transforms) for (const tensor of tensors.values()) tensor.dispose();
  }
}

/** A tensor of the layer's block. */
const partOf = ({ transforms: [curvature] }: OptimizerState, name: string): Tensor => curvature?.tensors.get(`weight::${name}`) as Tensor;
const matrixOf = (tensor: Tensor): Matrix => matrix(tensor.shape[0] as number, tensor.shape[1] as number, tensor.dataSync());

/** Of both factors: its number of columns. */
const columnsOf = (optimizer: CurvatureOptimizer, part: "vectors" | "basis"): (number | undefined)[] =>
  withState(optimizer, (state) => ["input", "output"].map((factor) => partOf(state, `inverse.${factor}.${part}`).shape[1]));

interface Approximation {
  readonly rank: number;
  /** ‖F − U diag(D) Uᵀ‖_F / ‖F‖_F. */
  readonly error: number;
  /** The least rank for a relative error (Eckart–Young). */
  readonly leastRank: (tolerance: number) => number;
  /** Of the factor, ascending. */
  readonly eigenvalues: Float64Array;
}

/** How both factors were approximated in the last step. */
const approximationsOf = (optimizer: CurvatureOptimizer): Approximation[] =>
  withState(optimizer, (state) =>
    ["input", "output"].map((factor) => {
      const f = matrixOf(partOf(state, `${factor}.matrix`));
      const u = matrixOf(partOf(state, `inverse.${factor}.vectors`));
      const d = diagonal(partOf(state, `inverse.${factor}.values`).dataSync());
      const { values } = eighBy(onEngine, f);
      return {
        rank: u.columns,
        eigenvalues: values,
        error: norm(minus(f, product(u, d, transpose(u)))) / norm(f),
        leastRank: (tolerance) => {
          const least = (rank: number): number => Math.hypot(...values.subarray(0, values.length - rank)) / Math.hypot(...values);
          return Array.from(values, (_, rank) => rank).find((rank) => least(rank) <= tolerance) ?? values.length;
        },
      };
    }),
  );

/** The values after some steps, with the optimizer saved and loaded before those that are named. */
async function trained(
  make: (parameters: Parameter[]) => CurvatureOptimizer,
  count: number,
  interruptions: readonly number[] = [],
): Promise<Matrix> {
  const layer = new Layer();
  let optimizer = make([layer.weight]);
  for (let step = 0; step < count; step++) {
    if (interruptions.includes(step)) {
      const next = make([layer.weight]);
      withState(optimizer, (state) => next.load(state));
      optimizer.dispose();
      optimizer = next;
    }
    await layer.step(optimizer);
  }
  optimizer.dispose();
  return layer.values;
}

/** One for all: a thread takes long to start from TypeScript. */
let worker: LinalgWorker;
beforeAll(() => {
  worker = new LinalgWorker();
});
afterAll(() => {
  worker.close();
});

eachBackend(() => {
  describe("Nyström K-FAC whose rank changes", () => {
    const cases = [
      ["rises by more than the oversampling", 4, 14, 3],
      ["rises by less than the oversampling", 12, 14, 3],
      ["falls", 18, 6, 3],
    ] as const;

    it.each(cases)("%s: has rank + oversampling vectors from the next refresh on", async (_, from, to, oversampling) => {
      const layer = new Layer();
      const rank = (step: number): number => (step < 2 ? from : to);
      const optimizer = new NysKfac([layer.weight], { ...plain, negligible: 0, learningRate: 0, rank, oversampling });
      for (let step = 0; step < 4; step++) {
        await layer.step(optimizer);
        expect(columnsOf(optimizer, "vectors")).toEqual([rank(step), rank(step)]);
        expect(columnsOf(optimizer, "basis")).toEqual([rank(step) + oversampling, rank(step) + oversampling]);
      }
      optimizer.dispose();
    });

    it("has as many vectors besides as its oversampling says when that rises", async () => {
      const layer = new Layer();
      const oversampling = (step: number): number => 2 + 3 * step;
      const optimizer = new NysKfac([layer.weight], { ...plain, negligible: 0, learningRate: 0, rank: 12, oversampling });
      for (const expected of [14, 17, 20, 23]) {
        await layer.step(optimizer);
        expect(columnsOf(optimizer, "basis")).toEqual([expected, expected]);
      }
      optimizer.dispose();
    });

    it.each(cases)("%s: inverts at that refresh about as well as RS-KFAC of the same rank", async (_, from, to, oversampling) => {
      // The direction of the step with another rank, from factors that all methods share.
      const last = 5;
      const learningRate = (step: number): number => (step === last ? 1 : 0);
      const exact = await trained((p) => new RsKfac(p, { ...plain, learningRate, rank: IN, exactUpTo: IN }), last + 1);
      const errorOf = async (make: (parameters: Parameter[]) => CurvatureOptimizer): Promise<number> =>
        norm(minus(await trained(make, last + 1), exact)) / norm(exact);
      const rank = (step: number): number => (step < last ? from : to);
      const error = await errorOf((p) => new NysKfac(p, { ...plain, negligible: 0, learningRate, rank, oversampling }));
      const randomized = await errorOf((p) => new RsKfac(p, { ...plain, learningRate, rank, oversampling }));
      expect(error).toBeLessThanOrEqual(1.1 * randomized);
    });

    it("goes on bit for bit from a state saved before, at and after each change", async () => {
      const ranks = [4, 4, 12, 12, 13, 6, 6];
      const make = (p: Parameter[]): CurvatureOptimizer =>
        new NysKfac(p, { ...plain, negligible: 0, learningRate: 0.1, rank: (step) => ranks[step] as number, oversampling: 2 });
      const whole = await trained(make, ranks.length);
      expect(await trained(make, ranks.length)).toEqual(whole);
      for (const interruptions of [[1], [2], [3], [4], [5], [6], [1, 2, 3, 4, 5, 6]]) {
        expect(await trained(make, ranks.length, interruptions)).toEqual(whole);
      }
    });

    it("widens the basis beside the training, too", async () => {
      const make = (p: Parameter[]): CurvatureOptimizer =>
        new NysKfac(p, {
          ...plain,
          negligible: 0,
          learningRate: 0.1,
          inversionEvery: 2,
          inversionLag: 1,
          worker,
          rank: (step) => (step < 2 ? 4 : 12),
          oversampling: 2,
        });
      const whole = await trained(make, 6);
      expect(await trained(make, 6, [2, 3, 4])).toEqual(whole);
    });
  });

  describe("Nyström K-FAC without what is negligible", () => {
    const last = 5;
    const learningRate = (step: number): number => (step === last ? 1 : 0);
    const kinds = ["relative", "factored", "pi"] as const;
    const forms = ["identity", "zero", "first", "normalized"] as const;
    const searches = [
      ["searched", 0],
      ["decomposed exactly", IN],
    ] as const;

    describe.each(searches)("of factors that are %s", (_, exactUpTo) => {
      // Each inverse is off by a part p at most in any direction, so that Γ⁻¹ J Ω⁻¹ is by 2p + p². The search has an error of its own.
      const slack = exactUpTo === 0 ? 1.1 : 1;

      it.each([0.5, 0.1, 0.01])("is within 2p + p² of exact K-FAC, p = %d", async (negligible) => {
        for (const dampingKind of kinds) {
          for (const averageForm of forms) {
            const common = { ...plain, damping: 0.1, dampingKind, averageForm, statDecay: 0.5, learningRate, exactUpTo };
            const exact = await trained((p) => new RsKfac(p, { ...common, rank: IN, exactUpTo: IN }), last + 1);
            const actual = await trained((p) => new NysKfac(p, { ...common, rank: IN, negligible }), last + 1);
            expect(norm(minus(actual, exact))).toBeLessThanOrEqual(slack * (2 * negligible + negligible ** 2) * norm(exact));
          }
        }
      });

      it("keeps the eigenpairs that are not, one at least, and no more than rank", async () => {
        for (const averageForm of forms) {
          for (const [negligible, rank] of [
            [0.1, IN],
            [0.01, IN],
            [0.9, IN],
            [1e-6, 7],
          ] as const) {
            const layer = new Layer();
            const options = { ...plain, learningRate: 0, statDecay: 0.5, averageForm, exactUpTo, negligible, rank };
            const optimizer = new NysKfac([layer.weight], options);
            for (let step = 0; step < 4; step++) {
              await layer.step(optimizer);
              const remainder = averageForm === "identity" || averageForm === "zero" ? 0.5 ** (step + 1) : 0;
              for (const { rank: kept, eigenvalues } of approximationsOf(optimizer)) {
                // Of the factor with all of its identity, what lies above that is compared.
                const inMatrix = averageForm === "identity" ? remainder : 0;
                const top = (eigenvalues.at(-1) as number) - inMatrix + remainder;
                const cutoff = negligible * (remainder + options.damping * top);
                const least = eigenvalues.filter((value) => value - inMatrix > 1.001 * cutoff).length;
                const most = eigenvalues.filter((value) => value - inMatrix > 0.999 * cutoff).length;
                expect(kept).toBeGreaterThanOrEqual(Math.max(1, Math.min(rank, least - (exactUpTo === 0 ? 1 : 0))));
                expect(kept).toBeLessThanOrEqual(Math.max(1, Math.min(rank, most)));
              }
            }
            optimizer.dispose();
          }
        }
      });

      it("finds more eigenpairs at once when there are more, and fewer again for more damping", async () => {
        const layer = new Layer((step) => (step < 3 ? 2 : IN));
        const damping = (step: number): number => (step < 5 ? 0.01 : 10);
        const optimizer = new NysKfac([layer.weight], { ...plain, learningRate: 0, damping, exactUpTo, rank: 22, oversampling: 2 });
        const ranks: number[] = [];
        for (let step = 0; step < 6; step++) {
          await layer.step(optimizer);
          ranks.push(columnsOf(optimizer, "vectors")[0] as number);
        }
        expect(ranks.slice(0, 3)).toEqual([2, 2, 2]);
        expect(ranks[3]).toBeGreaterThan(8);
        expect(ranks[4]).toBeGreaterThan(8);
        expect(ranks[5]).toBeLessThan(6);
        optimizer.dispose();
      });

      it("goes on bit for bit from a state saved at any step, and leaves no tensor behind", async () => {
        const options = { ...plain, learningRate: 0.1, exactUpTo, rank: 22, oversampling: 2, damping: (step: number) => 0.3 ** step };
        const make = (p: Parameter[]): CurvatureOptimizer => new NysKfac(p, options);
        const whole = await trained(make, 6);
        for (const interruptions of [[1], [2], [3], [1, 2, 3, 4, 5]]) expect(await trained(make, 6, interruptions)).toEqual(whole);
        const before = defaultBackend().memory().buffers;
        const layer = new Layer();
        const optimizer = make([layer.weight]);
        await layer.steps(optimizer, 4);
        optimizer.dispose();
        layer.weight.dispose();
        expect(defaultBackend().memory().buffers).toBe(before);
      });
    });

    it("leaves nothing out for another tail than the mean, which alone is sure to be near what is left out", async () => {
      for (const tail of ["zero", "smallest"] as const) {
        const layer = new Layer();
        const options = { ...plain, damping: 10, learningRate: 0, rank: 20, tail };
        const optimizer = new NysKfac([layer.weight], options);
        await layer.step(optimizer);
        expect(columnsOf(optimizer, "vectors")).toEqual([20, 20]);
        optimizer.dispose();
        const message = `what is negligible is known for the tail "mean" alone, but the tail is "${tail}"; leave negligible out, or give 0`;
        expect(() => new NysKfac([layer.weight], { ...options, negligible: 0.1 })).toThrow(message);
        new NysKfac([layer.weight], { ...options, negligible: 0 }).dispose();
      }
    });

    it("leaves nothing out in a second attempt, which may have another damping than what is applied", async () => {
      const layer = new Layer();
      const optimizer = new NysKfac([layer.weight], { ...plain, learningRate: 0, rank: 20, oversampling: 2, negligible: 0.9 });
      await layer.step(optimizer);
      for (const kept of columnsOf(optimizer, "vectors")) expect(kept).toBeLessThan(20);
      const failing = vi.spyOn(routines, "nystrom").mockRejectedValueOnce(new NumericalError("on purpose"));
      try {
        await layer.step(optimizer);
      } finally {
        failing.mockRestore();
      }
      expect(columnsOf(optimizer, "vectors")).toEqual([20, 20]);
      optimizer.dispose();
    });

    it("widens and narrows the basis beside the training, too", async () => {
      const damping = (step: number): number => (step < 3 ? 10 : step < 5 ? 0.001 : 1);
      const beside = { inversionEvery: 2, inversionLag: 1, worker, oversampling: 2 };
      const make = (p: Parameter[]): CurvatureOptimizer => new NysKfac(p, { ...plain, ...beside, damping, learningRate: 0.1, rank: 22 });
      const whole = await trained(make, 8);
      expect(await trained(make, 8, [2, 3, 4, 5, 7])).toEqual(whole);
      const layer = new Layer();
      const optimizer = make([layer.weight]);
      const ranks: number[] = [];
      for (let step = 0; step < 8; step++) {
        await layer.step(optimizer);
        ranks.push(columnsOf(optimizer, "vectors")[0] as number);
      }
      optimizer.dispose();
      const [before = 0, between = 0, after = 0] = [ranks[3], ranks[5], ranks[7]];
      expect(between).toBeGreaterThan(2 * before);
      expect(after).toBeLessThan(between);
    });

    it.each([
      [-0.1, "negligible must be at least 0 but is -0.1 at step 0"],
      [NaN, "negligible must be at least 0 but is NaN at step 0"],
      [1, "negligible must be below 1, where it is the damping itself, but is 1 at step 0"],
    ])("refuses %d", async (negligible, message) => {
      const layer = new Layer();
      const optimizer = new NysKfac([layer.weight], { ...plain, learningRate: 0.1, negligible });
      const refusal = layer.step(optimizer);
      await expect(refusal).rejects.toThrow(UsageError);
      await expect(refusal).rejects.toThrow(message);
      optimizer.dispose();
    });
  });

  describe("SRE-KFAC with a tolerance", () => {
    // Searched, and decomposed exactly.
    describe.each([
      ["searched", 0],
      ["decomposed exactly", IN],
    ] as const)("of factors that are %s", (_, exactUpTo) => {
      const options = { ...plain, exactUpTo, learningRate: 0.1, rank: 18, oversampling: 4 } as const;

      it.each([0.3, 0.1, 0.03])(
        "keeps as few eigenpairs as are needed for an error of %d, and no more than that leaves out",
        async (tolerance) => {
          const layer = new Layer();
          const optimizer = new SreKfac([layer.weight], { ...options, tolerance });
          for (let step = 0; step < 4; step++) {
            await layer.step(optimizer);
            const [report] = optimizer.reports();
            const found = approximationsOf(optimizer);
            for (const { rank, error, leastRank } of found) {
              expect(error).toBeLessThanOrEqual(tolerance);
              expect(rank).toBeGreaterThanOrEqual(leastRank(tolerance));
              expect(rank).toBeLessThanOrEqual(leastRank(tolerance) + (exactUpTo === 0 ? 1 : 0));
              expect(rank).toBeLessThan(18);
            }
            expect([report?.figures["input.rank"], report?.figures["output.rank"]]).toEqual(found.map(({ rank }) => rank));
          }
          optimizer.dispose();
        },
      );

      it("keeps rank eigenpairs where the tolerance takes more, of which the rank is a bound at every step", async () => {
        const layer = new Layer();
        const rank = (step: number): number => [8, 3, 5][step] as number;
        const optimizer = new SreKfac([layer.weight], { ...options, tolerance: 1e-6, rank });
        for (let step = 0; step < 3; step++) {
          await layer.step(optimizer);
          expect(columnsOf(optimizer, "vectors")).toEqual([rank(step), rank(step)]);
        }
        optimizer.dispose();
      });

      it("follows the factors and a tolerance that changes, up and down", async () => {
        const layer = new Layer((step) => (step < 2 ? 3 : IN));
        const tolerance = (step: number): number => (step === 4 ? 0.5 : 0.002);
        const optimizer = new SreKfac([layer.weight], { ...options, tolerance });
        const ranks: number[] = [];
        for (let step = 0; step < 5; step++) {
          await layer.step(optimizer);
          ranks.push(columnsOf(optimizer, "vectors")[0] as number);
        }
        expect(ranks[1]).toBe(3);
        expect(ranks[3]).toBeGreaterThan(4);
        expect(ranks[4]).toBeLessThan(3);
        optimizer.dispose();
      });

      it("gives the same parameters every time, and goes on bit for bit from a state saved at any step", async () => {
        const make = (p: Parameter[]): CurvatureOptimizer => new SreKfac(p, { ...options, tolerance: (step) => 0.2 / (step + 1) });
        const whole = await trained(make, 5);
        expect(await trained(make, 5)).toEqual(whole);
        for (const interruptions of [[1], [2], [3, 4]]) expect(await trained(make, 5, interruptions)).toEqual(whole);
      });

      it("does the same beside the training", async () => {
        const make = (p: Parameter[]): CurvatureOptimizer =>
          new SreKfac(p, { ...options, inversionEvery: 2, inversionLag: 1, worker, tolerance: 0.05 });
        const whole = await trained(make, 6);
        expect(await trained(make, 6, [3, 4])).toEqual(whole);
      });

      it("stands a factor of zeros, of which it keeps nothing, and finds it again when it is none", async () => {
        const layer = new Layer((step) => (step === 0 ? 0 : 4));
        const optimizer = new SreKfac([layer.weight], { ...options, tolerance: 0.05 });
        await layer.step(optimizer);
        expect(columnsOf(optimizer, "vectors")).toEqual([0, 0]);
        expect(norm(layer.values)).toBe(0);
        await layer.steps(optimizer, 2);
        for (const { rank, error } of approximationsOf(optimizer)) {
          expect(rank).toBeGreaterThan(0);
          expect(error).toBeLessThanOrEqual(0.05);
        }
        expect(norm(layer.values)).toBeGreaterThan(0);
        optimizer.dispose();
      });

      it.each([
        [0, "tolerance must be positive but is 0 at step 0"],
        [-0.1, "tolerance must be positive but is -0.1 at step 0"],
        [NaN, "tolerance must be positive but is NaN at step 0"],
        [1, "tolerance must be below 1, which is the error of no eigenpairs at all, but is 1 at step 0"],
      ])("refuses %d", async (tolerance, message) => {
        const layer = new Layer();
        const optimizer = new SreKfac([layer.weight], { ...options, tolerance });
        const refusal = layer.step(optimizer);
        await expect(refusal).rejects.toThrow(UsageError);
        await expect(refusal).rejects.toThrow(message);
        optimizer.dispose();
      });

      it("leaves no tensor behind", async () => {
        const before = defaultBackend().memory().buffers;
        const layer = new Layer();
        const optimizer = new SreKfac([layer.weight], { ...options, tolerance: 0.1 });
        await layer.steps(optimizer, 3);
        optimizer.dispose();
        layer.weight.dispose();
        expect(defaultBackend().memory().buffers).toBe(before);
      });
    });

    it("has nothing to say of a rank above the factors' rows, which is a bound", async () => {
      const remarksOf = async (tolerance?: number): Promise<number | undefined> => {
        const layer = new Layer();
        const optimizer = new SreKfac([layer.weight], { ...plain, learningRate: 0.1, tolerance });
        await layer.step(optimizer);
        const [report] = optimizer.reports();
        optimizer.dispose();
        return report?.remarks.length;
      };
      expect([await remarksOf(0.1), await remarksOf()]).toEqual([0, 2]);
    });

    it("begins each search with the eigenvectors of the last one, as its state has them", async () => {
      const layer = new Layer();
      const optimizer = new SreKfac([layer.weight], { ...plain, learningRate: 0.1, rank: 18, oversampling: 4, tolerance: 0.1 });
      await layer.steps(optimizer, 2);
      const [vectors, basis] = (["vectors", "basis"] as const).map((part) =>
        withState(optimizer, (state) => matrixOf(partOf(state, `inverse.input.${part}`))),
      );
      expect(basis).toEqual(vectors);
      optimizer.dispose();
    });

    it("is the same method as ever without one", async () => {
      const of = (options: Partial<SreKfacOptions>): Promise<Matrix> =>
        trained((p) => new SreKfac(p, { ...plain, learningRate: 0.1, rank: 5, ...options }), 3);
      expect(await of({})).toEqual(await of({ tolerance: undefined, iterations: 4 }));
      expect(await of({})).not.toEqual(await of({ iterations: 2 }));
    });
  });
});
