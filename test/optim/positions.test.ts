import { describe, expect, it } from "vitest";
import { Linear, meanSquaredError } from "../../src/nn/index.ts";
import { BrandKfac, RsKfac, type BrandKfacOptions, type CurvatureOptimizer } from "../../src/optim/index.ts";
import { Generator, Tensor, type Shape } from "../../src/tensor/index.ts";
import { eachBackend } from "../backends.ts";

/*
 * A dense layer whose batches have one position a sample or several, as they come. The first one decides whether B-KFAC follows a factor; what
 * comes later is taken in whatever its positions. (For thin application, see thin.test.ts; for SENG, seng.test.ts.)
 */

const options = { dtype: "float64" } as const;
const [dIn, dOut, rank] = [30, 25, 16];
/** One sample of one position first, then some of several: of 1 + 2 + 4 + 1 rows in all. */
const shapes: readonly Shape[] = [[1], [1, 2], [2, 2], [1]];

eachBackend(() => {
  const run = async (
    make: (parameters: ReturnType<Linear["parameters"]>) => CurvatureOptimizer,
  ): Promise<{ values: number[]; figures: (Readonly<Record<string, number>> | undefined)[]; block: string | null | undefined }> => {
    const generator = new Generator(1);
    const layer = new Linear(dIn, dOut, { ...options, generator });
    const optimizer = make(layer.parameters());
    const figures: (Readonly<Record<string, number>> | undefined)[] = [];
    for (const shape of shapes) {
      const [x, target] = [dIn, dOut].map((width) => generator.normal([...shape, width], options)) as [Tensor, Tensor];
      await optimizer.minimize(() => meanSquaredError(layer.forward(x), target));
      const [report] = optimizer.reports();
      expect(report?.problems).toEqual([]);
      figures.push(report?.figures);
    }
    const block = optimizer.registration()[0]?.block;
    optimizer.dispose();
    return { values: layer.parameters().flatMap(({ value }) => [...value.dataSync()]), figures, block };
  };
  const common = { learningRate: 0.1, damping: 0.1, rank, factorUpdateEvery: 1, inversionEvery: 1, clip: false } as const;

  describe("a factor that B-KFAC follows", () => {
    const variants: readonly (readonly [name: string, own: Partial<BrandKfacOptions>])[] = [
      ["b", {}],
      ["b, its averages from the identity", { averageForm: "identity" }],
      ["b, cut at once", { truncation: "at-once" }],
      ["b-r", { variant: "b-r", restartEvery: 3 }],
      ["b-r-c", { variant: "b-r-c", restartEvery: 3, correctEvery: 2 }],
    ];

    it.each(variants)("is the average of all values as long as no rank is left out, with one position or several: %s", async (_, own) => {
      const followed = await run((parameters) => new BrandKfac(parameters, { ...common, ...own }));
      expect(followed.block).toBe(`${own.variant ?? "b"}-kfac (input and output followed)`);
      const averageForm = own.averageForm === "identity" ? "zero" : own.averageForm;
      // Wide enough to be decomposed exactly: 16 of 31 and 25 eigenpairs.
      const exact = await run((parameters) => new RsKfac(parameters, { ...common, averageForm }));
      expect(followed.values).toBeAllclose(exact.values, { relative: 1e-9 });
      for (const [at, figures] of followed.figures.entries()) {
        for (const name of ["input", "output"]) {
          for (const key of [`${name}.trace`, `${name}.largest`, `${name}.valueTrace`, `${name}.valueRank`]) {
            expect(figures?.[key], key).toBeCloseTo(exact.figures[at]?.[key] as number, 10);
          }
        }
      }
    });

    it("keeps the trace of a value of which it leaves a part out, and is never above the average", async () => {
      const few = { ...common, rank: 2, truncation: "at-once", tail: "zero" } as const;
      const [followed, exact] = [
        await run((parameters) => new BrandKfac(parameters, few)),
        await run((parameters) => new RsKfac(parameters, { ...few, rank: 30 })),
      ];
      expect(followed.figures[0]?.["input.trace"]).toBeCloseTo(exact.figures[0]?.["input.trace"] as number, 10);
      // The output gradients differ from then on, the inputs do not.
      for (const [at, figures] of followed.figures.entries()) {
        expect(figures?.["input.trace"]).toBeCloseTo(exact.figures[at]?.["input.trace"] as number, 10);
        expect(figures?.["input.largest"]).toBeLessThanOrEqual((exact.figures[at]?.["input.largest"] as number) * (1 + 1e-12));
      }
      expect(followed.figures.at(-1)?.["input.truncation"]).toBeGreaterThan(0.1);
    });

    it.each(["mc", "type-2"] as const)("takes in the %s Fisher's passes over several positions", async (fisher) => {
      // 25 outputs and the vectors of type-2, as many as outputs: only the input's rows are more than the rank and its columns.
      const followed = await run((parameters) => new BrandKfac(parameters, { ...common, fisher }));
      expect(followed.block).toBe(fisher === "mc" ? "b-kfac (input and output followed)" : "b-kfac (input followed)");
      const exact = await run((parameters) => new RsKfac(parameters, { ...common, fisher }));
      expect(followed.values).toBeAllclose(exact.values, { relative: 1e-9 });
    });
  });

  it("factors that are scaled as in the paper's code are, by the positions of each batch, also after a resume", async () => {
    const train = async (interruptAt: number | null): Promise<number[]> => {
      const generator = new Generator(1);
      const layer = new Linear(3, 2, { ...options, generator });
      const make = (): RsKfac => new RsKfac(layer.parameters(), { ...common, averageForm: "identity", factorScaling: "paper" });
      let optimizer = make();
      for (const [at, positions] of [2, 5, 3].entries()) {
        if (at === interruptAt) {
          const state = optimizer.state();
          optimizer.dispose();
          optimizer = make();
          optimizer.load(state);
          for (const { tensors } of state.transforms) for (const tensor of tensors.values()) tensor.dispose();
        }
        const [x, target] = [3, 2].map((width) => generator.normal([4, positions, width], options)) as [Tensor, Tensor];
        await optimizer.minimize(() => meanSquaredError(layer.forward(x), target));
      }
      optimizer.dispose();
      return layer.parameters().flatMap(({ value }) => [...value.dataSync()]);
    };
    expect(await train(1)).toEqual(await train(null));
  });
});
