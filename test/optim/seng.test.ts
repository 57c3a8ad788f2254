import { describe, expect, it } from "vitest";
import { eighHost } from "../../src/linalg/index.ts";
import { crossEntropy, Linear, meanSquaredError, Parameter, ReLU, Sequential } from "../../src/nn/index.ts";
import {
  combine,
  combineByMeans,
  explicitTensors,
  innerProducts,
  project,
  type SampleGradients,
  type SampleTensors,
} from "../../src/optim/blocks/sampleGradients.ts";
import { Seng, type OptimizerState, type SengOptions, type TransformState } from "../../src/optim/index.ts";
import { CheckpointError, Generator, NumericalError, Tensor } from "../../src/tensor/index.ts";
import { eachBackend } from "../backends.ts";
import { patchOrder, precisions, reordered } from "../golden.ts";
import { direction as directionOf, inner, randomLayer } from "./properties/layer.ts";
import { sengLayers, sengLayersEqualDenseSolves } from "./sengLayers.ts";

eachBackend(() => {
  describe("SENG of single layers", () => {
    sengLayersEqualDenseSolves(precisions.map(([dtype]) => dtype));

    it.each(sengLayers.map((layer) => [layer.name, layer] as const))(
      "%s: the sketch with the paper's scaling equals its formula",
      (_, layer) => {
        const order = patchOrder(layer.weight.shape, layer.bias !== null);
        const [n = 0, d = 0] = layer.U.shape;
        const dA = order.length;
        // Columns of U and drawn entries in kfacet's order of patches.
        const place = new Map<number, number>();
        for (let o = 0; o < d / dA; o++) order.forEach((from, to) => place.set(o * dA + from, o * dA + to));
        const u = new Float64Array(d * n);
        for (let i = 0; i < n; i++) for (let k = 0; k < d; k++) u[(place.get(k) as number) * n + i] = layer.U.data[i * d + k] as number;
        const entries = Int32Array.from(layer.sketch_index.data, (k) => place.get(k) as number);
        const [columns, drawn] = [Tensor.from(u, { shape: [d, n] }), Tensor.from(entries)];
        const tensors = new Map([
          ["u", columns],
          ["seen", columns.gather(drawn).transpose()],
          ["entries", drawn],
        ]);
        const samples: SampleGradients = { form: "explicit", scaling: "paper", tensors };
        const gram = innerProducts(samples).dataSync();
        expect(gram).toBeAllclose(layer.coeffs_sketched_gram.data, { relative: 1e-9 });
        // (λI + gram)⁻¹ by its eigenvectors.
        const { values, vectors } = eighHost(Float64Array.from(gram), n);
        const j = Tensor.from(Float64Array.from(reordered(layer.grad_mat, order)), { shape: [d / dA, dA] });
        const right = project(samples, j.multiply(1 / layer.damping)).dataSync();
        const t = Float64Array.from({ length: n }, (_, i) => {
          let sum = 0;
          for (let k = 0; k < n; k++) {
            let inner = 0;
            for (let l = 0; l < n; l++) inner += (vectors[l * n + k] as number) * (right[l] as number);
            sum += ((vectors[i * n + k] as number) * inner) / ((values[k] as number) + layer.damping);
          }
          return sum;
        });
        const back = combine(samples, Tensor.from(t, { shape: [n, 1] }), [d / dA, dA]);
        const actual = j
          .multiply(1 / layer.damping)
          .subtract(back)
          .dataSync();
        expect(actual).toBeAllclose(reordered(layer.direction_sketched, order), { relative: 1e-9 });
      },
    );
  });
});

/** Every subset of `count` of 0 … all − 1. */
function subsets(all: number, count: number): number[][] {
  if (count === 0) return [[]];
  return Array.from({ length: all }, (_, last) => last).flatMap((last) => subsets(last, count - 1).map((rest) => [...rest, last]));
}

/** Sums of a tensor's values over all of some sketches, over their number. */
function mean(tensors: readonly Tensor[]): number[] {
  const sums = new Float64Array(tensors[0]?.size ?? 0);
  for (const tensor of tensors) tensor.dataSync().forEach((value, i) => (sums[i] = (sums[i] as number) + value));
  return Array.from(sums, (sum) => sum / tensors.length);
}

eachBackend(() => {
  const options = { dtype: "float64" } as const;
  const tensors = (entries: Record<string, Tensor>): ReadonlyMap<string, Tensor> => new Map(Object.entries(entries));

  describe("a sketch, averaged over all index sets", () => {
    const generator = new Generator(3);
    const [n, d, count] = [3, 7, 3] as const;

    it.each([1, 2])("has the true inner products, or d/c times these with the paper's scaling: %i positions", (positions) => {
      const j = generator.normal([1, d], options);
      const [a, g] = [generator.normal([n, positions, d], options), generator.normal([n, positions, 1], options)];
      const sketch = (entries: readonly number[] | null): SampleTensors =>
        tensors(explicitTensors(a, g, entries && Int32Array.from(entries)));
      const all = subsets(d, count).map(sketch);
      const exact = innerProducts({ form: "explicit", scaling: "unbiased", tensors: sketch(null) }).dataSync();
      expect(exact).toBeAllclose(innerProducts({ form: "implicit", scaling: "unbiased", tensors: tensors({ a, g }) }).dataSync(), {
        relative: 1e-12,
      });
      for (const [scaling, factor] of [
        ["unbiased", 1],
        ["paper", d / count],
      ] as const) {
        const average = mean(all.map((own) => innerProducts({ form: "explicit", scaling, tensors: own })));
        expect(average).toBeAllclose(
          Array.from(exact, (value) => value * factor),
          { relative: 1e-12 },
        );
        const projected = mean(all.map((own) => project({ form: "explicit", scaling, tensors: own }, j)));
        const whole = project({ form: "explicit", scaling, tensors: sketch(null) }, j).dataSync();
        expect(projected).toBeAllclose(
          Array.from(whole, (value) => value * factor),
          { relative: 1e-12 },
        );
      }
    });

    it("of both factors has the true inner products, or (dOut/c)(dA/c) times these", () => {
      const [dA, dOut] = [4, 3];
      const a = generator.normal([n, 2, dA], options);
      const g = generator.normal([n, 2, dOut], options);
      const exact = innerProducts({ form: "implicit", scaling: "unbiased", tensors: tensors({ a, g }) }).dataSync();
      const draws = subsets(dA, 2).flatMap((rowsOfA) =>
        subsets(dOut, 2).map((rowsOfG) =>
          tensors({ a, g, rowsOfA: Tensor.from(Int32Array.from(rowsOfA)), rowsOfG: Tensor.from(Int32Array.from(rowsOfG)) }),
        ),
      );
      for (const [scaling, factor] of [
        ["unbiased", 1],
        ["paper", (dA / 2) * (dOut / 2)],
      ] as const) {
        expect(mean(draws.map((own) => innerProducts({ form: "implicit", scaling, tensors: own })))).toBeAllclose(
          Array.from(exact, (value) => value * factor),
          { relative: 1e-12 },
        );
        // U J, too.
        const gradient = new Generator(4).normal([dOut, dA], options);
        const projected = mean(draws.map((own) => project({ form: "implicit", scaling, tensors: own }, gradient)));
        const whole = project({ form: "implicit", scaling, tensors: tensors({ a, g }) }, gradient).dataSync();
        expect(projected).toBeAllclose(
          Array.from(whole, (value) => value * factor),
          { relative: 1e-12 },
        );
      }
    });
  });

  describe("a sketch of as many columns as a layer has", () => {
    const own = { n: 4, positions: 3, dIn: 4, dOut: 3, bias: true };
    it.each([
      ["entries, c² ≥ d", { columns: 4 }],
      ["rows of both factors, c ≥ dA and c ≥ dOut", { columns: 5, explicitUpTo: 0 }],
    ] as const)("is none, bit for bit: of %s", async (_, settings) => {
      for (const scaling of ["unbiased", "paper"] as const) {
        for (let seed = 0; seed < 3; seed++) {
          const of = (columns: number): Promise<{ data: ArrayLike<number> }> =>
            directionOf(
              randomLayer({ ...own, seed }),
              (parameters) => new Seng(parameters, { learningRate: 1, momentum: 0, damping: 0.5, ...settings, scaling, columns }),
            );
          expect((await of(settings.columns)).data).toEqual((await of(Infinity)).data);
          expect((await of(1)).data).not.toEqual((await of(Infinity)).data);
        }
      }
    });
  });

  describe("the direction of a sketched solve", () => {
    const count = 60;
    /** How many of random layers get a direction with ⟨P, J⟩ ≤ 0. */
    const uphill = async (settings: Partial<SengOptions>): Promise<number> => {
      let found = 0;
      for (let seed = 0; seed < count; seed++) {
        const layer = randomLayer({ n: 6, positions: 3, dIn: 5, dOut: 4, bias: true, seed });
        const make = (parameters: Parameter[]): Seng =>
          new Seng(parameters, { learningRate: 1, momentum: 0, damping: 0.1, seed, ...settings });
        if (inner(await directionOf(layer, make), layer.gradient) <= 0) found++;
      }
      return found;
    };

    // Uᵀ(λI + SSᵀ)⁻¹S with S ≠ U is not symmetric: nothing makes I minus it positive. It is measured that this is rare.
    it.each([
      ["4 of 24 entries", { columns: 2 }],
      ["2 rows of each factor", { columns: 2, explicitUpTo: 0 }],
      ["2 rows of each factor, the authors' scaling", { columns: 2, explicitUpTo: 0, scaling: "paper" }],
      ["all of the authors' approximations", { columns: 2, explicitUpTo: 0, scaling: "paper", backProjection: "paper" }],
    ] as const)("from %s goes uphill for at most 1 of 10 layers, at a damping far below the curvature", async (_, settings) => {
      expect(await uphill(settings)).toBeLessThanOrEqual(count / 10);
    });

    it("is downhill without a sketch in every form, and some sketch does go uphill", async () => {
      for (const explicitUpTo of [0, 1000]) expect(await uphill({ columns: Infinity, explicitUpTo })).toBe(0);
      expect(await uphill({ columns: 2, explicitUpTo: 0, scaling: "paper" })).toBeGreaterThan(0);
    });
  });

  describe("the authors' approximation of Uᵀt", () => {
    const generator = new Generator(5);
    it("is exact for one sample, and where all samples have the same output gradient", () => {
      const shared = generator.normal([1, 2, 3], options);
      const cases = [
        { a: generator.normal([1, 2, 4], options), g: shared, t: generator.normal([1, 1], options) },
        { a: generator.normal([5, 2, 4], options), g: shared.broadcastTo([5, 2, 3]), t: generator.normal([5, 1], options) },
      ];
      for (const { a, g, t } of cases) {
        const samples: SampleGradients = { form: "implicit", scaling: "unbiased", tensors: tensors({ a, g }) };
        expect(combineByMeans(samples, t).dataSync()).toBeAllclose(combine(samples, t, [3, 4]).dataSync(), { relative: 1e-12 });
      }
    });

    it("is not exact in general, and 0 for t = 0", () => {
      const [a, g] = [generator.normal([5, 2, 4], options), generator.normal([5, 2, 3], options)];
      const samples: SampleGradients = { form: "implicit", scaling: "unbiased", tensors: tensors({ a, g }) };
      const t = generator.normal([5, 1], options);
      const gap = combineByMeans(samples, t)
        .subtract(combine(samples, t, [3, 4]))
        .square()
        .sum()
        .dataSync()[0] as number;
      expect(gap).toBeGreaterThan(0.01);
      expect([...combineByMeans(samples, t.multiply(0)).dataSync()]).toEqual(new Array(12).fill(0));
    });
  });

  describe("Seng", () => {
    const network = (): Sequential => {
      const generator = new Generator(1);
      return new Sequential(new Linear(6, 5, { ...options, generator }), new ReLU(), new Linear(5, 3, { ...options, generator }));
    };
    const batch = (n: number, seed: number): [Tensor, Tensor] => {
      const generator = new Generator(seed);
      return [generator.normal([n, 6], options), Tensor.from(Int32Array.from({ length: n }, (_, i) => (i * 7 + seed) % 3))];
    };
    const step = async (model: Sequential, optimizer: Seng, n: number, seed: number): Promise<void> => {
      const [x, labels] = batch(n, seed);
      await optimizer.minimize(() => crossEntropy(model.forward(x), labels));
    };
    const values = (model: Sequential): number[] => model.parameters().flatMap((p) => [...p.value.dataSync()]);

    it("waits with a refresh for a full batch", async () => {
      const model = network();
      const optimizer = new Seng(model.parameters(), { learningRate: 0.1, refreshEvery: 2 });
      const frozen = (): number[] =>
        optimizer
          .state()
          .transforms.flatMap(({ tensors: saved }) => [...saved].filter(([name]) => name.endsWith("inverse")))
          .flatMap(([, tensor]) => [...tensor.dataSync()]);
      await step(model, optimizer, 8, 1);
      const first = frozen();
      await step(model, optimizer, 8, 2);
      expect(frozen()).toEqual(first);
      await step(model, optimizer, 5, 3); // a refresh is due, but the batch is not full
      expect(frozen()).toEqual(first);
      await step(model, optimizer, 8, 4); // made up for
      expect(frozen()).not.toEqual(first);
      optimizer.dispose();
    });

    it("goes on bit for bit from a saved state, sketch included", async () => {
      const settings = { learningRate: 0.1, refreshEvery: 3, columns: 2, scaling: "paper", explicitUpTo: 20, svdRank: 1 } as const;
      const [model, other] = [network(), network()];
      const [optimizer, resumed] = [new Seng(model.parameters(), settings), new Seng(other.parameters(), settings)];
      for (let i = 0; i < 4; i++) await step(model, optimizer, 8, i);
      other.parameters().forEach((parameter, i) => parameter.assign(model.parameters()[i]?.value as Tensor));
      resumed.load(optimizer.state());
      for (let i = 4; i < 8; i++) {
        await step(model, optimizer, 8, i);
        await step(other, resumed, 8, i);
      }
      expect(values(other)).toEqual(values(model));
      optimizer.dispose();
      resumed.dispose();
    });

    it("goes on bit for bit while it waits for a full batch, and where a whole interval has none", async () => {
      const sizes = [8, 8, 8, 5, 4, 5, 3, 4, 3, 5, 5];
      const run = async (resumeAt: number): Promise<number[]> => {
        let model = network();
        let optimizer = new Seng(model.parameters(), { learningRate: 0.1, refreshEvery: 3 });
        for (const [i, n] of sizes.entries()) {
          if (i === resumeAt) {
            const [next, before] = [network(), model];
            next.parameters().forEach((parameter, k) => parameter.assign(before.parameters()[k]?.value as Tensor));
            const resumed = new Seng(next.parameters(), { learningRate: 0.1, refreshEvery: 3 });
            resumed.load(optimizer.state());
            optimizer.dispose();
            [model, optimizer] = [next, resumed];
          }
          await step(model, optimizer, n, i);
        }
        optimizer.dispose();
        return values(model);
      };
      const straight = await run(-1);
      for (let at = 1; at < sizes.length; at++) expect(await run(at)).toEqual(straight);
    });

    it("goes downhill: ⟨P, J⟩ > 0 with and without a sketch", async () => {
      for (const columns of [Infinity, 3]) {
        const model = network();
        const optimizer = new Seng(model.parameters(), { learningRate: 0.05, momentum: 0, columns });
        const [x, labels] = batch(32, 5);
        const losses: number[] = [];
        for (let i = 0; i < 10; i++)
          losses.push((await optimizer.minimize(() => crossEntropy(model.forward(x), labels))).dataSync()[0] as number);
        for (let i = 1; i < losses.length; i++) expect(losses[i]).toBeLessThan(losses[i - 1] as number);
        optimizer.dispose();
      }
    });

    describe("a refresh that fails", () => {
      /** Inner products of its gradients leave the range of float64; the gradients do not. */
      const huge = async (model: Sequential, optimizer: Seng, n: number, seed: number): Promise<void> => {
        const [x, labels] = batch(n, seed);
        const large = x.multiply(1e160);
        await optimizer.minimize(() => crossEntropy(model.forward(large), labels));
      };
      const settings = { learningRate: (at: number) => (at === 1 ? 1e-160 : 0.1), momentum: 0 };
      const problems = (optimizer: Seng): string[][] => optimizer.reports().map((report) => [...report.problems]);

      it.each([
        ["in one product", {}],
        ["entry by entry", { scaling: "paper" }],
        ["by truncated factors", { scaling: "paper", explicitUpTo: 0 }],
      ] as const)("leaves what was frozen before, kept %s, says so, and is tried again when it is due", async (_, own) => {
        const [model, other] = [network(), network()];
        const optimizer = new Seng(model.parameters(), { ...settings, ...own, refreshEvery: 1 });
        // Refreshes in the same steps, but for the one that fails.
        const oracle = new Seng(other.parameters(), { ...settings, ...own, refreshEvery: 2 });
        for (const [at, make] of [step, huge, step].entries()) {
          const before = values(model);
          await make(model, optimizer, 8, at);
          await make(other, oracle, 8, at);
          expect(values(model)).not.toEqual(before);
          expect(values(model)).toEqual(values(other));
          const expected = expect.stringMatching(
            /^not inverted at step 1, so the inverse from before stays, since .*(finite|range)/,
          ) as string;
          expect(problems(optimizer)).toEqual(Array.from({ length: 2 }, () => (at === 1 ? [expected] : [])));
        }
        for (const each of [optimizer, oracle]) each.dispose();
      });

      it("ends the step where nothing was frozen before: nothing changes, and the next batch refreshes, be it smaller", async () => {
        const model = network();
        const before = values(model);
        const optimizer = new Seng(model.parameters(), settings);
        const failed = huge(model, optimizer, 8, 1);
        await expect(failed).rejects.toThrow(NumericalError);
        await expect(failed).rejects.toThrow('the curvature of "0.weight" could not be inverted at step 0: ');
        expect(values(model)).toEqual(before);
        expect(optimizer.steps).toBe(0);
        await step(model, optimizer, 5, 1);
        expect(values(model)).not.toEqual(before);
        expect(problems(optimizer)).toEqual([[], []]);
        optimizer.dispose();
      });

      describe("for a damping that rounding swallows", () => {
        // 16 samples of a layer with 6 entries: UUᵀ has 10 eigenvalues that are rounding.
        const layer = (): Linear => new Linear(2, 2, { ...options, generator: new Generator(1) });
        const stepOf = async (own: Linear, optimizer: Seng): Promise<number[]> => {
          const [x, target] = [2, 3].map((seed) => new Generator(seed).normal([16, 2], options)) as [Tensor, Tensor];
          await optimizer.minimize(() => meanSquaredError(own.forward(x), target));
          return own.parameters().flatMap(({ value }) => [...value.dataSync()]);
        };
        const tiny = { learningRate: 1e-20, momentum: 0, refreshEvery: 100 };
        const damping = 1e-18;

        it("is made with more of it, in the solve and outside of it, says so, and goes on bit for bit from a saved state", async () => {
          const [own, same, restored] = [layer(), layer(), layer()];
          const optimizer = new Seng(own.parameters(), { ...tiny, damping });
          const first = await stepOf(own, optimizer);
          const [problem = ""] = problems(optimizer).flat();
          const [, more] = /^inverted with (10|100|1000) times the damping at step 0, since .*pivot/.exec(problem) ?? [];
          expect(more).toBeDefined();
          const oracle = new Seng(same.parameters(), { ...tiny, damping: Number(more) * damping });
          expect(first).toEqual(await stepOf(same, oracle));
          expect(problems(oracle)).toEqual([[]]);
          restored.parameters().forEach((parameter, i) => parameter.assign(own.parameters()[i]?.value as Tensor));
          const resumed = new Seng(restored.parameters(), { ...tiny, damping });
          resumed.load(optimizer.state());
          const second = await stepOf(own, optimizer);
          expect(second).not.toEqual(first);
          expect(await stepOf(restored, resumed)).toEqual(second);
          for (const each of [optimizer, oracle, resumed]) each.dispose();
        });

        it("fails where 1000 times as much is swallowed, too, with the first pivot", async () => {
          const own = layer();
          const optimizer = new Seng(own.parameters(), { ...tiny, damping: 1e-30 });
          await expect(stepOf(own, optimizer)).rejects.toThrow(/"weight" could not be inverted at step 0: .*pivot \d+ of 16/);
          optimizer.dispose();
        });
      });
    });

    describe("a saved state", () => {
      const made = async (own: Partial<SengOptions>): Promise<{ model: Sequential; state: OptimizerState }> => {
        const model = network();
        const optimizer = new Seng(model.parameters(), { learningRate: 0.1, columns: 2, ...own });
        for (let i = 0; i < 2; i++) await step(model, optimizer, 8, i);
        const state = optimizer.state();
        optimizer.dispose();
        return { model, state };
      };

      it.each([
        ["paper", "unbiased"],
        ["unbiased", "paper"],
      ] as const)(
        "of the scaling %s is refused by an optimizer of %s, with what to do, until another one is loaded",
        async (saved, other) => {
          const { model, state } = await made({ scaling: saved });
          const before = values(model);
          const optimizer = new Seng(model.parameters(), { learningRate: 0.1, columns: 2, scaling: other });
          const fresh = optimizer.state();
          optimizer.load(state);
          for (let i = 0; i < 2; i++) {
            const failed = step(model, optimizer, 8, 2);
            await expect(failed).rejects.toThrow(CheckpointError);
            await expect(failed).rejects.toThrow(
              new RegExp(`^load: .*"0.weight" is that of the scaling "${saved}", .*"${other}", .*make it with scaling: "${saved}"`),
            );
          }
          expect(values(model)).toEqual(before);
          optimizer.load(fresh);
          await step(model, optimizer, 8, 2);
          expect(values(model)).not.toEqual(before);
          optimizer.dispose();
        },
      );

      it("of another chain is refused at once, with both and what to do", async () => {
        const { model, state } = await made({});
        const optimizer = new Seng(model.parameters(), { learningRate: 0.1, columns: 2, clip: { kl: 1e-3 } });
        expect(() => optimizer.load(state)).toThrow(
          "load: the state is of an optimizer with the transforms [seng, stateless, stateless, stateless, momentum] but this one has " +
            "[seng, stateless, stateless, stateless, stateless, momentum]; load it into an optimizer of the same class that was made with the same options",
        );
        optimizer.dispose();
      });

      it("of before there was a scaling in it is not believed: the first step refreshes, be its batch smaller, and says so", async () => {
        const { model, state } = await made({ scaling: "paper" });
        const other = network();
        other.parameters().forEach((parameter, i) => parameter.assign(model.parameters()[i]?.value as Tensor));
        const unnamed = ({ numbers, ...rest }: TransformState): TransformState => ({
          ...rest,
          numbers: Object.fromEntries(Object.entries(numbers).filter(([name]) => !/::(scaling|form|more)$/.test(name))),
        });
        // The second transform is stateless, and the last has the momentum.
        const settings = { learningRate: 0.1, columns: 2, scaling: "unbiased", momentum: 0 } as const;
        const [optimizer, fresh] = [new Seng(model.parameters(), settings), new Seng(other.parameters(), settings)];
        const { transforms } = optimizer.state();
        optimizer.load({ step: 0, transforms: [unnamed(state.transforms[0] as TransformState), ...transforms.slice(1)] });
        await step(model, optimizer, 5, 7);
        await step(other, fresh, 5, 7);
        expect(values(model)).toEqual(values(other));
        expect(optimizer.reports().map(({ remarks }) => remarks)).toEqual(
          Array.from({ length: 2 }, () => [
            "the saved state does not say how its samples' gradients are scaled, so the first step refreshes them",
          ]),
        );
        for (const each of [optimizer, fresh]) each.dispose();
      });
    });

    it("refreshes by samples of several positions as if those before had as many, and by samples of one again", async () => {
      const [dIn, dOut] = [4, 3];
      const generator = new Generator(9);
      const own = new Linear(dIn, dOut, { ...options, generator });
      const settings = { learningRate: 0.1, momentum: 0, refreshEvery: 1, damping: 0.1, columns: 2 };
      const optimizer = new Seng(own.parameters(), settings);
      for (const shape of [[6], [6, 3], [6], [6, 2]]) {
        const [x, target] = [dIn, dOut].map((width) => generator.normal([...shape, width], options)) as [Tensor, Tensor];
        const same = new Linear(dIn, dOut, { ...options, generator });
        same.parameters().forEach((parameter, i) => parameter.assign(own.parameters()[i]?.value as Tensor));
        // The draw of a sketch is named by the step.
        const fresh = new Seng(same.parameters(), settings);
        fresh.load({ ...fresh.state(), step: optimizer.steps });
        await optimizer.minimize(() => meanSquaredError(own.forward(x), target));
        await fresh.minimize(() => meanSquaredError(same.forward(x), target));
        const [expected, actual] = [same, own].map((each) => each.parameters().flatMap(({ value }) => [...value.dataSync()]));
        expect(actual).toEqual(expected);
        fresh.dispose();
      }
      optimizer.dispose();
    });

    it("refuses a sketch of no columns and a damping that is not positive", async () => {
      const model = network();
      expect(() => new Seng(model.parameters(), { learningRate: 0.1, columns: 0 })).toThrow("columns must be at least 1");
      const optimizer = new Seng(model.parameters(), { learningRate: 0.1, damping: 0 });
      await expect(step(model, optimizer, 8, 1)).rejects.toThrow("damping must be positive but is 0 at step 0");
      optimizer.dispose();
    });
  });
});
