import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { eighHost } from "../../src/linalg/index.ts";
import { constantInit, Conv2d, crossEntropy, Flatten, Linear, Sequential, Tanh } from "../../src/nn/index.ts";
import {
  BrandKfac,
  Kfac,
  RsKfac,
  type BrandKfacOptions,
  type CurvatureOptimizer,
  type FactorName,
  type OptimizerState,
} from "../../src/optim/index.ts";
import { defaultBackend, Generator, Tensor, type FloatDType } from "../../src/tensor/index.ts";
import { seeds } from "../arbitraries/matrices.ts";
import { eachBackend, type BackendName } from "../backends.ts";
import {
  at,
  build,
  diagonal,
  epsilon32,
  epsilon64,
  identity,
  largest,
  matrix,
  minus,
  norm,
  product,
  trace,
  transpose,
  type Matrix,
} from "../linalg/dense.ts";
import { settledBuffers } from "../settled.ts";

const variants = ["b", "b-r", "b-r-c"] as const;

/** A dense network whose first layer is wide: Ω has `wide` + 1 rows, Γ 4. */
function network(wide: number, seed = 1, dtype: FloatDType = "float64"): Sequential {
  const generator = new Generator(seed);
  return new Sequential(new Linear(wide, 4, { dtype, generator }), new Tanh(), new Linear(4, 3, { dtype, generator }));
}

interface Batch {
  readonly x: Tensor;
  readonly labels: Tensor;
}
function batch(n: number, wide: number, seed: number, dtype: FloatDType = "float64"): Batch {
  return {
    x: new Generator(seed).normal([n, wide], { dtype }),
    labels: Tensor.from(Int32Array.from({ length: n }, (_, i) => (i + seed) % 3)),
  };
}

async function step(model: Sequential, optimizer: CurvatureOptimizer, { x, labels }: Batch): Promise<number> {
  return (await optimizer.minimize(() => crossEntropy(model.forward(x), labels))).dataSync()[0] as number;
}

const values = (model: Sequential): number[] => model.parameters().flatMap((parameter) => [...parameter.value.dataSync()]);

/** What a saved state has of the first layer, by name. */
function saved(optimizer: CurvatureOptimizer): { matrixOf: (name: string) => Matrix; numberOf: (name: string) => number; names: string[] } {
  const [state] = optimizer.state().transforms;
  if (!state) throw new Error("the optimizer has no transform");
  const key = (name: string): string => `0.weight::${name}`;
  return {
    names: [...state.tensors.keys()].filter((name) => name.startsWith("0.weight")),
    numberOf: (name) => state.numbers[key(name)] as number,
    matrixOf: (name) => {
      const tensor = state.tensors.get(key(name));
      if (!tensor) throw new Error(`the state has no ${name}, but ${[...state.tensors.keys()].join(", ")}`);
      const [rows = 1, columns = 1] = tensor.shape;
      return matrix(rows, columns, tensor.dataSync());
    },
  };
}

/** A followed factor. */
function followed(optimizer: CurvatureOptimizer, name: FactorName = "input"): { u: Matrix; d: Float64Array; trace: number } {
  const { matrixOf, numberOf } = saved(optimizer);
  return { u: matrixOf(`${name}.vectors`), d: matrixOf(`${name}.values`).data, trace: numberOf(`${name}.trace`) };
}
const rebuilt = ({ u, d }: { readonly u: Matrix; readonly d: Float64Array }): Matrix => product(u, diagonal(d), transpose(u));
const orthonormality = (u: Matrix): number => norm(minus(product(transpose(u), u), identity(u.columns)));

const frozen = { learningRate: 0, clip: false, factorUpdateEvery: 1, inversionEvery: 1 } as const;
const moving = { ...frozen, learningRate: 0.05 } as const;

function disposeState({ transforms }: OptimizerState): void {
  for (const { tensors } of transforms) for (const tensor of tensors.values()) tensor.dispose();
}

eachBackend((backend: BackendName) => {
  describe("without truncation", () => {
    /** Batches whose columns and the rank are fewer than the factor's rows, and together no more than the rank. */
    const runs = fc.record({
      sizes: fc.array(fc.integer({ min: 1, max: 3 }), { minLength: 1, maxLength: 5 }),
      averageForm: fc.constantFrom("normalized", "zero", "identity", "first"),
      dampingKind: fc.constantFrom("relative", "factored", "pi"),
      tail: fc.constantFrom("mean", "zero"),
      thin: fc.boolean(),
      variant: fc.constantFrom(...variants),
      statDecay: fc.constantFrom(0.95, 0.5),
      seed: fc.nat({ max: 1000 }),
    } satisfies Record<string, fc.Arbitrary<unknown>>);

    it("steps are those of the dense averages, decomposed whole, whatever the form of the average and the damping", async () => {
      await fc.assert(
        fc.asyncProperty(runs, async ({ sizes, seed, variant, ...options }) => {
          const [wide, settings] = [30, { ...moving, ...options, damping: 0.1 }];
          const [model, dense] = [network(wide, seed), network(wide, seed)];
          const optimizer = new BrandKfac(model.parameters(), { ...settings, variant, rank: 20 });
          const oracle = new RsKfac(dense.parameters(), { ...settings, rank: 1000 });
          for (const [i, n] of sizes.entries()) {
            const data = batch(n, wide, seed + i);
            await step(model, optimizer, data);
            await step(dense, oracle, data);
          }
          expect(optimizer.registration()[0]?.block).toBe(`${variant}-kfac (input followed)`);
          // Directions are of order 1/λ² = 100 and the eigenpairs accurate to 1e-14.
          expect(values(model)).toBeAllclose(values(dense), { relative: 1e-9 });
          optimizer.dispose();
          oracle.dispose();
        }),
        { numRuns: 15 },
      );
    });

    it("both factors of a layer are followed where both are wide", async () => {
      const make = (): Sequential => {
        const generator = new Generator(3);
        return new Sequential(
          new Linear(20, 25, { dtype: "float64", generator }),
          new Tanh(),
          new Linear(25, 3, { dtype: "float64", generator }),
        );
      };
      const [model, dense] = [make(), make()];
      const optimizer = new BrandKfac(model.parameters(), { ...moving, rank: 15 });
      const oracle = new RsKfac(dense.parameters(), { ...moving, rank: 1000 });
      for (let i = 0; i < 4; i++) {
        const data = batch(3, 20, i);
        await step(model, optimizer, data);
        await step(dense, oracle, data);
      }
      expect(optimizer.registration().map(({ block }) => block)).toEqual([
        "b-kfac (input and output followed)",
        "b-kfac (input and output followed)",
        "b-kfac (input followed)",
        "b-kfac (input followed)",
      ]);
      expect(values(model)).toBeAllclose(values(dense), { relative: 1e-9 });
    });
  });

  describe("with truncation", () => {
    /** What each update rounds, added up with the weights of the average: a few roundings of d terms for each. */
    const rounding = (d: number, decay: number, m: Matrix): number => ((20 * d * epsilon64) / (1 - decay)) * norm(m);

    it("the followed matrix is never above the average, nor are its eigenvalues, and it has the average's trace", async () => {
      const cases = fc.record({
        rank: fc.integer({ min: 1, max: 6 }),
        statDecay: fc.constantFrom(0.95, 0.7),
        averageForm: fc.constantFrom("normalized", "zero"),
        truncation: fc.constantFrom("before-update", "at-once"),
        seed: seeds,
      } satisfies Record<string, fc.Arbitrary<unknown>>);
      await fc.assert(
        fc.asyncProperty(cases, async ({ rank, statDecay, averageForm, truncation, seed }) => {
          const wide = 17;
          const d = wide + 1;
          const [model, dense] = [network(wide), network(wide)];
          const options = { ...frozen, statDecay, averageForm };
          const optimizer = new BrandKfac(model.parameters(), { ...options, rank, truncation });
          const oracle = new RsKfac(dense.parameters(), options);
          for (let i = 0; i < 8; i++) {
            const data = batch(1 + (i % 3), wide, (seed % 1000) + i);
            await step(model, optimizer, data);
            await step(dense, oracle, data);
            const factor = followed(optimizer);
            const exact = saved(oracle).matrixOf("input.matrix");
            const slack = rounding(d, statDecay, exact);
            expect(factor.d.length).toBeLessThanOrEqual(truncation === "at-once" ? rank : rank + 3);
            expect(eighHost(minus(exact, rebuilt(factor)).data, d).values[0]).toBeGreaterThanOrEqual(-slack);
            const all = eighHost(exact.data, d).values;
            [...factor.d]
              .sort((a, b) => b - a)
              .forEach((value, j) => expect(value).toBeLessThanOrEqual((all[d - 1 - j] as number) + slack));
            expect(Math.abs(factor.trace - trace(exact))).toBeLessThanOrEqual(slack);
          }
          optimizer.dispose();
          oracle.dispose();
        }),
        { numRuns: 8 },
      );
    });

    it.each(variants)("the eigenvectors of variant %s stay orthonormal over a hundred updates, in float64 and float32", async (variant) => {
      for (const [dtype, epsilon] of [
        ["float64", epsilon64],
        ["float32", epsilon32],
      ] as const) {
        const model = network(24, 1, dtype);
        const optimizer = new BrandKfac(model.parameters(), { ...frozen, variant, rank: 8, ...(variant !== "b" && { restartEvery: 7 }) });
        for (let i = 0; i < 100; i++) await step(model, optimizer, batch(3, 24, i, dtype));
        const { u } = followed(optimizer);
        expect(u.columns).toBeGreaterThanOrEqual(8);
        // Entries of unit vectors rounded once in the update, and in a correction's product of k terms besides.
        expect(orthonormality(u)).toBeLessThanOrEqual(20 * u.columns * epsilon);
        optimizer.dispose();
      }
    });

    it("before an update leaves r + n modes to the inverse, and at once r", async () => {
      for (const [truncation, expected] of [
        ["before-update", 11],
        ["at-once", 8],
      ] as const) {
        const model = network(24);
        const optimizer = new BrandKfac(model.parameters(), { ...frozen, rank: 8, truncation });
        for (let i = 0; i < 6; i++) await step(model, optimizer, batch(3, 24, i));
        const report = optimizer.reports().find(({ layer }) => layer === "0.weight");
        // Eigenpairs of the input; of the output the average, eigenpairs, and the inverse as a matrix; the largest trace of each.
        const bytes = 8 * ((25 + 1) * expected + 4 * 4 + (4 + 1) * 4 + 4 * 4 + 2);
        expect(report?.figures).toMatchObject({ "input.rank": expected, "output.rank": 4, bytes });
        expect(report?.figures["input.truncation"]).toBeGreaterThan(0);
        expect(report?.figures["input.truncation"]).toBeLessThan(1);
        expect(report?.spectra["input"]).toHaveLength(expected);
        expect(report?.problems).toEqual([]);
        expect(optimizer.reports()).toEqual([]);
      }
    });
  });

  describe("a restart of B-R-KFAC", () => {
    it.each([
      ["exact", 1000],
      ["randomized", 4],
    ] as const)("is the %s decomposition of the average, as RS-KFAC has it", async (_, oversampling) => {
      const [model, dense] = [network(24), network(24)];
      const options = { ...frozen, rank: 8, oversampling, exactUpTo: 0, inversionEvery: 2, iterations: 40 };
      const optimizer = new BrandKfac(model.parameters(), { ...options, variant: "b-r", restartEvery: 2 });
      const oracle = new RsKfac(dense.parameters(), options);
      const distances: number[] = [];
      for (let i = 0; i < 9; i++) {
        const data = batch(3, 24, i);
        await step(model, optimizer, data);
        await step(dense, oracle, data);
        // RS-KFAC decomposes every second step, so at the restarts.
        const { matrixOf } = saved(oracle);
        const fresh = rebuilt({ u: matrixOf("inverse.input.vectors"), d: matrixOf("inverse.input.values").data });
        distances.push(norm(minus(rebuilt(followed(optimizer)), fresh)) / norm(fresh));
        if (i > 0 && i % 4 === 0) expect(followed(optimizer).d).toHaveLength(8);
      }
      // Two draws of random vectors agree after forty iterations, to the power 80 of the ratio of eigenvalues 8 and 13.
      for (const restart of [4, 8]) expect(distances[restart]).toBeLessThan(oversampling === 1000 ? 1e-14 : 1e-5);
      for (const between of [3, 5, 7]) expect(distances[between]).toBeGreaterThan(1e-3);
    });
  });

  describe("a correction of B-R-C-KFAC", () => {
    const run = async (variant: "b-r" | "b-r-c", seed: number, part: number): Promise<{ u: Matrix; d: Float64Array; exact: Matrix }> => {
      const model = network(24);
      const optimizer = new BrandKfac(model.parameters(), {
        ...frozen,
        variant,
        rank: 8,
        inversionEvery: 1000,
        seed,
        ...(variant === "b-r-c" && { correctEvery: 6, correctedPart: part }),
      });
      for (let i = 0; i < 6; i++) await step(model, optimizer, batch(3, 24, seed + i));
      const result = { ...followed(optimizer), exact: saved(optimizer).matrixOf("input.average.matrix") };
      optimizer.dispose();
      return result;
    };

    it("keeps span and orthonormality, is exact on what it picked, and never raises the error", async () => {
      await fc.assert(
        fc.asyncProperty(fc.nat({ max: 1000 }), fc.constantFrom(0.01, 0.2, 0.5, 1), async (seed, part) => {
          const [before, after] = [await run("b-r", seed, part), await run("b-r-c", seed, part)];
          const scale = norm(before.exact);
          expect(after.exact).toEqual(before.exact);
          expect(orthonormality(after.u)).toBeLessThanOrEqual(1e-13);
          const projection = (u: Matrix): Matrix => product(u, transpose(u));
          expect(largest(minus(projection(after.u), projection(before.u)))).toBeLessThanOrEqual(1e-12);
          const error = (factor: { u: Matrix; d: Float64Array }): number => norm(minus(before.exact, rebuilt(factor)));
          // Truncations had left something out of each of them.
          expect(error(after)).toBeLessThan(error(before));
          const inside = product(transpose(after.u), before.exact, after.u);
          const isExact = (j: number): boolean => Math.abs(at(inside, j, j) - (after.d[j] as number)) <= 1e-13 * scale;
          const exact = Array.from({ length: 11 }, (_, j) => j).filter(isExact);
          expect(exact).toHaveLength(Math.max(1, Math.round(11 * part)));
          // In the new basis the average is diagonal on the span that was picked.
          const outside = build(exact.length, exact.length, (i, j) => (i === j ? 0 : at(inside, exact[i] as number, exact[j] as number)));
          expect(largest(outside)).toBeLessThanOrEqual(1e-13 * scale);
        }),
        { numRuns: 8 },
      );
    });
  });

  describe("the application to thin factors", () => {
    it.each([
      ["makes up the whole gradient", 0],
      ["leaves a penalty out", 0.01],
    ] as const)("is that to the gradient, where the batch %s", async (_, penalty) => {
      const run = async (thin: boolean): Promise<number[]> => {
        const model = network(40);
        const weight = model.parameters()[0];
        const optimizer = new BrandKfac(model.parameters(), { ...moving, factorUpdateEvery: 2, rank: 6, thin });
        for (let i = 0; i < 5; i++) {
          const { x, labels } = batch(2, 40, i);
          await optimizer.minimize(() => {
            const loss = crossEntropy(model.forward(x), labels);
            return penalty > 0 && weight ? loss.add(weight.value.square().sum().multiply(penalty)) : loss;
          });
        }
        return values(model);
      };
      expect(await run(true)).toBeAllclose(await run(false), { relative: 1e-12 });
    });
  });

  describe("a layer that is not followed", () => {
    it("is RS-KFAC's, bit for bit: convolutions, and dense layers that are not wide", async () => {
      const make = (): Sequential => {
        const generator = new Generator(1);
        return new Sequential(
          new Conv2d(2, 3, 3, { dtype: "float64", generator }),
          new Tanh(),
          new Flatten(),
          new Linear(12, 3, { dtype: "float64", generator }),
        );
      };
      const [model, other] = [make(), make()];
      // 13 rows of the dense layer's Ω are as many as the rank and the columns of the first batch.
      const options = { ...moving, rank: 8, oversampling: 2 };
      const [optimizer, oracle] = [new BrandKfac(model.parameters(), options), new RsKfac(other.parameters(), options)];
      for (let i = 0; i < 4; i++) {
        const x = new Generator(i).normal([5, 4, 4, 2], { dtype: "float64" });
        const labels = Tensor.from(Int32Array.from([0, 1, 2, 0, 1]));
        for (const [own, by] of [
          [model, optimizer],
          [other, oracle],
        ] as const)
          await by.minimize(() => crossEntropy(own.forward(x), labels));
      }
      expect(optimizer.registration().map(({ block }) => block)).toEqual(Array.from({ length: 4 }, () => "b-kfac (none followed)"));
      expect(values(model)).toEqual(values(other));
    });

    it("is told by the columns of the Fisher's passes: the type-2 Fisher has one of each sample for each class", async () => {
      const model = new Sequential(
        new Linear(20, 20, { dtype: "float64", generator: new Generator(1) }),
        new Linear(20, 3, { dtype: "float64", generator: new Generator(2) }),
      );
      const methods = async (n: number): Promise<(string | null | undefined)[]> => {
        const optimizer = new BrandKfac(model.parameters(), { ...frozen, rank: 6, fisher: "type-2" });
        await step(model, optimizer, batch(n, 20, 1));
        return [optimizer.registration()[0]?.block];
      };
      expect(await methods(4)).toEqual(["b-kfac (input and output followed)"]);
      expect(await methods(5)).toEqual(["b-kfac (input followed)"]);
    });
  });

  describe("what cannot be taken in", () => {
    /** Its square leaves the range of float64, so that no eigenvalue can hold it. */
    const huge = (wide: number): Batch => {
      const { x, labels } = batch(2, wide, 5);
      return { x: x.multiply(1e200), labels };
    };

    it("is left out of the factor and reported, and training goes on with the inverse from before", async () => {
      const model = network(20);
      const optimizer = new BrandKfac(model.parameters(), { ...frozen, rank: 6 });
      for (let i = 0; i < 3; i++) await step(model, optimizer, batch(2, 20, i));
      optimizer.reports();
      const [before, parameters] = [followed(optimizer), values(model)];
      await step(model, optimizer, huge(20));
      expect(followed(optimizer)).toEqual(before);
      expect(values(model)).toEqual(parameters);
      const report = optimizer.reports().find(({ layer }) => layer === "0.weight");
      expect(report?.problems[0]).toMatch(
        /^the input factor is without the value of step 3, since brandUpdate: .*beyond the range of float64/,
      );
      await step(model, optimizer, batch(2, 20, 9));
      expect(followed(optimizer).d).not.toEqual(before.d);
      expect(saved(optimizer).numberOf("input.count")).toBe(4);
    });

    it("is an error if there is no inverse yet, and the step may be tried again", async () => {
      const model = network(20);
      const parameters = values(model);
      const optimizer = new BrandKfac(model.parameters(), { ...frozen, learningRate: 0.1, rank: 6 });
      await expect(step(model, optimizer, huge(20))).rejects.toThrow(/curvature of "0.weight" could not be updated at step 0: brandUpdate/);
      expect(values(model)).toEqual(parameters);
      await step(model, optimizer, batch(2, 20, 1));
      expect(values(model)).not.toEqual(parameters);
      expect(values(model).every(Number.isFinite)).toBe(true);
      expect(saved(optimizer).numberOf("input.count")).toBe(1);
      expect(saved(optimizer).numberOf("output.count")).toBe(1); // the refused batch's is forgotten, though it could be taken in
    });

    it.each(variants)("does not stay in the average that variant %s keeps: restarts and corrections go on", async (variant) => {
      const model = network(20);
      const optimizer = new BrandKfac(model.parameters(), {
        ...frozen,
        rank: 6,
        variant,
        ...(variant !== "b" && { restartEvery: 3 }),
        ...(variant === "b-r-c" && { correctEvery: 2 }),
      });
      for (let i = 0; i < 4; i++) await step(model, optimizer, batch(2, 20, i));
      await step(model, optimizer, huge(20));
      expect(optimizer.reports().flatMap(({ problems }) => problems)).not.toEqual([]);
      for (let i = 5; i < 12; i++) await step(model, optimizer, batch(2, 20, i));
      expect(optimizer.reports().flatMap(({ problems }) => problems)).toEqual([]);
      expect(saved(optimizer).numberOf("input.count")).toBe(11);
      if (variant !== "b") expect(saved(optimizer).numberOf("input.average.count")).toBe(7);
    });
  });

  it("a layer that no gradient reaches at first stays as it is, and trains once one does", async () => {
    const first = new Linear(20, 12, { dtype: "float64", generator: new Generator(1) });
    const model = new Sequential(first, new Tanh(), new Linear(12, 3, { dtype: "float64", init: constantInit(0) }));
    const before = [...first.weight.value.dataSync()];
    const optimizer = new BrandKfac(model.parameters(), { ...moving, rank: 4 });
    await step(model, optimizer, batch(2, 20, 1));
    expect(followed(optimizer, "output").d).toHaveLength(0);
    expect([...first.weight.value.dataSync()]).toEqual(before);
    for (let i = 2; i < 5; i++) await step(model, optimizer, batch(2, 20, i));
    expect([...first.weight.value.dataSync()]).not.toEqual(before);
    expect(values(model).every(Number.isFinite)).toBe(true);
  });

  describe("a saved state", () => {
    const cases = variants.flatMap((variant) => (["zero", "normalized"] as const).map((averageForm) => ({ variant, averageForm })));
    it.each(cases)("of %o goes on bit for bit, from any step, even where the next batch is smaller", async (options) => {
      const make = (model: Sequential): BrandKfac =>
        new BrandKfac(model.parameters(), {
          learningRate: 0.1,
          rank: 10,
          oversampling: 2,
          momentum: 0.9,
          factorUpdateEvery: 2,
          inversionEvery: 2,
          ...options,
          ...(options.variant !== "b" && { restartEvery: 3 }),
          ...(options.variant === "b-r-c" && { correctEvery: 2 }),
        });
      const run = async (interruptAt: number | null): Promise<number[]> => {
        const model = network(17);
        let optimizer = make(model);
        for (let i = 0; i < 8; i++) {
          if (i === interruptAt) {
            const state = optimizer.state();
            optimizer.dispose();
            optimizer = make(model);
            optimizer.load(state);
            disposeState(optimizer.state());
            disposeState(state);
          }
          // With batches of 2 the 18 rows of Ω are more than rank and columns, with those of 8 not: what is followed was decided by the first.
          await step(model, optimizer, batch([3, 2, 8, 2, 4, 8, 2, 3][i] as number, 17, i));
        }
        expect(optimizer.registration()[0]?.block).toBe(`${options.variant}-kfac (input followed)`);
        optimizer.dispose();
        return values(model);
      };
      const whole = await run(null);
      for (const at of [1, 2, 3, 5, 6]) expect(await run(at)).toEqual(whole);
    });

    it("has the eigenpairs of a followed factor once, and no matrix of its size", async () => {
      const model = network(20);
      const optimizer = new BrandKfac(model.parameters(), { ...frozen, rank: 6 });
      await step(model, optimizer, batch(2, 20, 1));
      expect(
        saved(optimizer)
          .names.map((name) => name.replace("0.weight::", ""))
          .sort(),
      ).toEqual([
        "input.terms.trace",
        "input.values",
        "input.vectors",
        "inverse.output.values",
        "inverse.output.vectors",
        "output.matrix",
        "output.terms.trace",
      ]);
    });

    it("of another width or variant is refused", async () => {
      const [model, narrow] = [network(20), network(18)];
      const optimizer = new BrandKfac(model.parameters(), { ...frozen, rank: 6 });
      await step(model, optimizer, batch(2, 20, 1));
      const state = optimizer.state();
      const other = new BrandKfac(narrow.parameters(), { ...frozen, rank: 6 });
      other.load(state);
      await expect(step(narrow, other, batch(2, 18, 1))).rejects.toThrow(
        'the saved basis of the input factor of "0.weight" is [21, 2] but the layer\'s is [19, 2]',
      );
      expect(() => new BrandKfac(model.parameters(), { ...frozen, variant: "b-r" }).load(state)).toThrow("b-kfac");
    });
  });

  describe("memory", () => {
    /** Of all tensors, at the peak of five steps. */
    const peak = async (wide: number, options: Partial<BrandKfacOptions>): Promise<number> => {
      const model = network(wide);
      const optimizer = new BrandKfac(model.parameters(), { ...frozen, rank: 4, ...options });
      defaultBackend().resetPeak();
      const before = defaultBackend().memory().bytes;
      for (let i = 0; i < 5; i++) await step(model, optimizer, batch(2, wide, i));
      const { peakBytes } = defaultBackend().memory();
      optimizer.dispose();
      return peakBytes - before;
    };

    it("of the pure variant grows with the width, not with its square", async () => {
      const [narrow, wide] = [await peak(400, {}), await peak(800, {})];
      expect(wide).toBeLessThan(2.2 * narrow);
      // No matrix of 801 × 801 float64 numbers, by far; there is one where a variant keeps the average.
      expect(wide).toBeLessThan((801 ** 2 * 8) / 4);
      expect(await peak(800, { variant: "b-r" })).toBeGreaterThan(801 ** 2 * 8);
    });

    it("is given back", async () => {
      const make = (): { model: Sequential; optimizer: BrandKfac } => {
        const model = network(20);
        return {
          model,
          optimizer: new BrandKfac(model.parameters(), { ...frozen, variant: "b-r-c", rank: 4, correctEvery: 2, restartEvery: 3 }),
        };
      };
      const data = batch(2, 20, 1);
      const { model, optimizer } = make();
      const before = await settledBuffers();
      for (let i = 0; i < 9; i++) await step(model, optimizer, data);
      optimizer.dispose();
      expect(defaultBackend().memory().buffers).toBe(before);
    });
  });

  it.each(variants)("variant %s trains a dense network", async (variant) => {
    const [wide, model] = [backend === "wasm" ? 300 : 60, network(backend === "wasm" ? 300 : 60, 2, "float32")];
    const optimizer = new BrandKfac(model.parameters(), {
      learningRate: 0.3,
      clip: { kl: 1e-2 },
      variant,
      rank: 8,
      factorUpdateEvery: 2,
      inversionEvery: 4,
      ...(variant !== "b" && { restartEvery: 2 }),
    });
    const data = batch(32, wide, 1, "float32");
    const losses: number[] = [];
    for (let i = 0; i < 12; i++) losses.push(await step(model, optimizer, data));
    expect(optimizer.registration()[0]?.block).toBe(`${variant}-kfac (input followed)`);
    expect(losses.at(-1)).toBeLessThan(0.5 * (losses[0] as number));
    optimizer.dispose();
  });

  it("λ · P tends to the gradient's direction as λ grows", async () => {
    // With factored damping both inverses tend to I/√λ.
    const model = network(20);
    const before = values(model);
    const optimizer = new BrandKfac(model.parameters(), { ...frozen, learningRate: 1, rank: 6, damping: 1e12, dampingKind: "factored" });
    const oracle = network(20);
    const plain = new Kfac(oracle.parameters(), { ...frozen, learningRate: 1, damping: 1e12, dampingKind: "absolute" });
    const data = batch(2, 20, 1);
    await step(model, optimizer, data);
    await step(oracle, plain, data);
    const change = (own: Sequential): number[] => values(own).map((value, i) => (value - (before[i] as number)) * 1e12);
    // Differences of parameters of order 1 that are 1e-12 apart have four digits.
    expect(change(model)).toBeAllclose(change(oracle), { relative: 1e-2 });
  });
});

describe("BrandKfac refuses", () => {
  const parameters = network(8).parameters();
  it.each([
    [{ restartEvery: 2 }, 'variant "b" does not use restartEvery; choose another variant'],
    [{ variant: "b-r", correctEvery: 2, correctedPart: 0.5 }, 'variant "b-r" does not use correctEvery and correctedPart'],
    [{ variant: "b-r-c", correctedPart: 0 }, "correctedPart must be in (0, 1] but is 0"],
    [{ variant: "b-r-c", correctedPart: 1.5 }, "correctedPart must be in (0, 1] but is 1.5"],
  ] as const)("%o", (options, message) => {
    expect(() => new BrandKfac(parameters, { learningRate: 1, ...options })).toThrow(message);
  });

  it("schedules that stray", async () => {
    const model = network(20);
    const optimizer = new BrandKfac(model.parameters(), { ...frozen, variant: "b-r", rank: 4, restartEvery: 0.5 });
    await expect(step(model, optimizer, batch(2, 20, 1))).rejects.toThrow("restartEvery must be a whole number of at least 1 but is 0.5");
  });
});
