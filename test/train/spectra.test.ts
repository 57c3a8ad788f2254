import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { channelStatistics, DataLoader } from "../../src/data/index.ts";
import { eighHost } from "../../src/linalg/index.ts";
import { MatrixAverage } from "../../src/optim/index.ts";
import { Tensor } from "../../src/tensor/index.ts";
import { decayBound, SpectrumHistory, THRESHOLD, train, type DecayBound, type RefreshEvent } from "../../src/train/index.ts";
import { normalMatrix, seeds } from "../arbitraries/matrices.ts";
import { eachBackend } from "../backends.ts";
import { product, trace, transpose } from "../linalg/dense.ts";
import { positiveMethods, type CommonOptions } from "../optim/properties/methods.ts";
import { loaders, smallData, smallModel } from "./small.ts";

const refresh = (step: number, layers: RefreshEvent["layers"]): RefreshEvent => ({ type: "refresh", step, layers });
const report = (
  layer: string,
  spectra: Record<string, number[]>,
  figures: Record<string, number> = {},
): RefreshEvent["layers"][number] => ({
  layer,
  method: "rs-kfac",
  figures,
  spectra,
  problems: [],
  remarks: [],
});

test("a history has every factor of every layer, in order, with its refreshes", () => {
  const history = new SpectrumHistory();
  history.add(refresh(0, [report("0.weight", { input: [4, 1], output: [2] }, { "input.rank": 2, "input.truncation": 0.25 })]));
  history.add(refresh(30, [report("3.weight", { input: [1] }), report("0.weight", { input: [8, 0.1], output: [] })]));
  expect(history.factors.map(({ layer, factor, refreshes }) => [layer, factor, refreshes.map(({ step }) => step)])).toEqual([
    ["0.weight", "input", [0, 30]],
    ["0.weight", "output", [0]],
    ["3.weight", "input", [30]],
  ]);
  expect(history.factors[0]?.refreshes).toEqual([
    { step: 0, largest: 4, rank: 2, above: 2, truncation: 0.25, bound: null, eigenvalues: [4, 1] },
    { step: 30, largest: 8, rank: 2, above: 1, truncation: null, bound: null, eigenvalues: [8, 0.1] },
  ]);
  expect([...history.methods]).toEqual(["rs-kfac"]);
});

test("the eigenvalues above the threshold are as many whatever the factor's scale", () => {
  const spectrum = fc.array(fc.integer({ min: 1, max: 10_000 }), { minLength: 1, maxLength: 40 });
  fc.assert(
    fc.property(spectrum, fc.integer({ min: -20, max: 20 }), (values, exponent) => {
      const [plain, scaled] = [1, 2 ** exponent].map((scale) => {
        const history = new SpectrumHistory();
        history.add(refresh(0, [report("w", { output: values.map((value) => scale * value) })]));
        return history.factors[0]?.refreshes[0]?.above;
      });
      expect(scaled).toBe(plain);
      expect(plain).toBe(values.filter((value) => value > THRESHOLD * Math.max(...values)).length);
    }),
  );
});

test("what reports no spectra leaves its method's name", () => {
  const history = new SpectrumHistory();
  history.add(refresh(0, [{ ...report("w", {}), method: "kfac (cholesky)" }]));
  expect(history.factors).toEqual([]);
  expect([...history.methods]).toEqual(["kfac (cholesky)"]);
});

describe("the bound on the decay", () => {
  /** An average of matrices of rank `rank` and order 14, the norms of which differ by powers of ten, and what it is made of. */
  const averages = fc
    .record({
      form: fc.constantFrom("normalized" as const, "identity" as const, "zero" as const, "first" as const),
      decay: fc.double({ min: 0.05, max: 0.8, noNaN: true }),
      sizes: fc.array(fc.constantFrom(0, 0.01, 1, 100), { minLength: 1, maxLength: 12 }),
      rank: fc.integer({ min: 1, max: 3 }),
      seed: seeds,
    })
    .map(({ form, decay, sizes, rank, seed }) => {
      const average = new MatrixAverage({ form, decay });
      let valueTrace = 0;
      for (const [i, size] of sizes.entries()) {
        const c = normalMatrix(rank, 14, seed + 7 * i);
        const x = product(transpose(c), c);
        valueTrace = Math.max(valueTrace, size * trace(x));
        average.observe(Tensor.from(x.data, { shape: [14, 14] }).multiply(size));
      }
      const matrix = average.value.dataSync();
      const { identity, residual } = { identity: average.identity, residual: average.residual };
      average.dispose();
      // As the methods report it: descending, with the residual.
      const eigenvalues = Array.from(eighHost(Float64Array.from(matrix), 14).values, (value) => Math.max(0, value) + residual).reverse();
      return { eigenvalues, figures: { width: 14, values: sizes.length, decay, identity, valueRank: rank, valueTrace } };
    });

  test("holds for every exponential average, whatever it begins with, and for what a projection leaves of it", () => {
    fc.assert(
      fc.property(averages, fc.constantFrom(0.003, THRESHOLD, 0.3), fc.integer({ min: 1, max: 14 }), (average, epsilon, kept) => {
        const { eigenvalues, figures } = average;
        // 1e-9: eigenvalues that are rounding, of a matrix that is hardly more than it.
        if ((eigenvalues[0] as number) - figures.identity < 1e-9) return;
        expect(decayBound(eigenvalues, figures, epsilon).holds).toBe(true);
        expect(decayBound(eigenvalues.slice(0, kept), figures, epsilon).holds).not.toBe(false);
      }),
      { numRuns: 200 },
    );
  });

  test("is sharp: n equal terms of rank 1 in n directions have as many eigenvalues as it allows", () => {
    // Weights (1 − ρ) ρʳ of orthogonal projections: eigenvalue r is above ε λ_max while ρʳ > ε. With C = λ_max that is the bound.
    const [decay, epsilon, n] = [0.5, 0.1, 8];
    const eigenvalues = Array.from({ length: n }, (_, r) => decay ** r);
    const figures = { width: n, values: n, decay, identity: 0, valueRank: 1, valueTrace: 1 };
    expect(decayBound(eigenvalues, figures, epsilon)).toEqual({ most: 4, above: 4, width: 8, holds: true });
    expect(decayBound(eigenvalues, { ...figures, decay: 0.4 }, epsilon)).toMatchObject({ most: 3, holds: false });
    expect(decayBound(eigenvalues, { ...figures, valueTrace: 0.5 }, epsilon)).toMatchObject({ most: 3, holds: false });
    expect(decayBound(eigenvalues, { ...figures, values: 3 }, epsilon)).toMatchObject({ most: 3, holds: false });
  });

  test("cannot be told where all eigenvalues kept are above the threshold, unless it allows all that there are", () => {
    const figures = { width: 9, values: 2, decay: 0.5, identity: 0, valueRank: 3, valueTrace: 1 };
    expect(decayBound([1, 1], figures)).toEqual({ most: 6, above: 2, width: 9, holds: null });
    expect(decayBound([1, 1], { ...figures, width: 6 }).holds).toBe(true);
  });

  test("of a factor of zeros allows one term and holds", () => {
    const figures = { width: 3, values: 5, decay: 0.9, identity: 0, valueRank: 2, valueTrace: 0 };
    expect(decayBound([0, 0, 0], figures)).toEqual({ most: 2, above: 0, width: 3, holds: true });
  });
});

eachBackend(() => {
  describe("the bound on the decay, on every factor that a training records,", () => {
    const recorded = async (make: (typeof positiveMethods)[number][1], options: Partial<CommonOptions>): Promise<DecayBound[]> => {
      const data = await smallData(40);
      const model = smallModel();
      const optimizer = make(model.parameters(), {
        learningRate: 0.05,
        factorUpdateEvery: 1,
        inversionEvery: 2,
        ...options,
      } as CommonOptions);
      const small = new DataLoader(data.train, { batchSize: 3, shuffle: true, seed: 1, normalize: channelStatistics(data.train) });
      const history = new SpectrumHistory();
      for await (const event of train({ model, optimizer, train: small, test: loaders(data).test, epochs: 2 })) {
        if (event.type === "refresh") history.add(event);
      }
      optimizer.dispose();
      const bounds = history.factors.flatMap(({ refreshes }) => refreshes.map(({ bound }) => bound));
      expect(bounds).not.toContain(null);
      return bounds as DecayBound[];
    };
    const methods = positiveMethods.filter(([name]) => !/Cholesky|SENG|(absolute|factored|pi) damping$/.test(name));

    test.each(methods)("of %s, holds, and says something on some", async (_, make) => {
      // The last batch of an epoch is smaller than the others, and 28 batches are more than the 7 that weigh more than 3 % · (1 − ρ).
      const bounds = await recorded(make, { statDecay: 0.4 } as Partial<CommonOptions>);
      expect(bounds.filter(({ holds }) => holds === false)).toEqual([]);
      expect(bounds.filter(({ most, width }) => most < width)).not.toEqual([]);
      expect(bounds.filter(({ above, width }) => above > 1 && above < width)).not.toEqual([]);
    });

    test.each(["identity", "zero", "first"] as const)("of averages that begin with the form %s, holds", async (averageForm) => {
      const [, make] = methods[0] as (typeof methods)[number];
      const bounds = await recorded(make, { statDecay: 0.4, averageForm } as Partial<CommonOptions>);
      expect(bounds.filter(({ holds }) => holds !== true)).toEqual([]);
    });

    test.each(["mc", "type-2"] as const)("with the Fisher %s, holds: a type-2 value has a pass for each class", async (fisher) => {
      const [, make] = methods[0] as (typeof methods)[number];
      const bounds = await recorded(make, { statDecay: 0.2, fisher } as Partial<CommonOptions>);
      expect(bounds.filter(({ holds }) => holds !== true)).toEqual([]);
    });
  });
});
