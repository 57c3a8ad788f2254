import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { eighHost } from "../../../src/linalg/index.ts";
import { crossEntropy, Linear, Sequential, Tanh } from "../../../src/nn/index.ts";
import { CurvatureOptimizer, MatrixAverage, type AverageForm, type CurvatureBlock, type CurvatureView } from "../../../src/optim/index.ts";
import { Generator, Tensor } from "../../../src/tensor/index.ts";
import { normalMatrix, seeds } from "../../arbitraries/matrices.ts";
import { eachBackend } from "../../backends.ts";
import { identity, matrix, plus, product, scaled, trace, transpose, type Matrix } from "../../linalg/dense.ts";

/**
 * How many eigenvalues of M_k = Σ w_i X_i may exceed ε λ_max(M_k), for weights w_{k−r} ≤ ρʳ and X_i of rank at most `rank` and norm at most
 * C = λ_max / α (Puiu 2022, arXiv 2206.15397, proposition 3.1): without its newest r terms, M has norm at most ρʳ C, which is at most
 * ε λ_max from r = ⌈log(α ε) / log ρ⌉ on; these terms have rank r · `rank`, and by Weyl no more eigenvalues can exceed the rest's norm.
 */
function mostAbove(epsilon: number, { rank, rho, alpha }: { readonly rank: number; readonly rho: number; readonly alpha: number }): number {
  return rank * Math.max(0, Math.ceil(Math.log(alpha * epsilon) / Math.log(rho)));
}

const tensorOf = ({ data, rows, columns }: Matrix): Tensor => Tensor.from(data, { shape: [rows, columns] });
const eigenvalues = ({ data, rows }: Matrix): number[] => Array.from(eighHost(Float64Array.from(data), rows).values);
const averageOf = (form: AverageForm, decay: number, xs: readonly Matrix[]): MatrixAverage => {
  const average = new MatrixAverage({ form, decay });
  for (const x of xs) average.observe(tensorOf(x));
  return average;
};
const matrixOf = (tensor: Tensor): Matrix => matrix(...(tensor.shape as [number, number]), tensor.dataSync());
const valueOf = (average: MatrixAverage): Matrix => matrixOf(average.value);

/** A positive semidefinite matrix of order `d` and rank at most `rank`. */
const semidefinite = (d: number, rank: number, seed: number): Matrix => {
  const c = normalMatrix(rank, d, seed);
  return product(transpose(c), c);
};

eachBackend(() => {
  const sequences = fc
    .record({ d: fc.integer({ min: 1, max: 6 }), k: fc.integer({ min: 1, max: 6 }), rank: fc.integer({ min: 1, max: 3 }), seed: seeds })
    .map(({ d, k, rank, seed }) => Array.from({ length: k }, (_, i) => semidefinite(d, rank, seed + 7 * i)));
  const decays = fc.double({ min: 0.05, max: 0.99, noNaN: true });
  const forms = fc.constantFrom("normalized" as const, "identity" as const, "zero" as const, "first" as const);

  /** The weights of M₀ and X₁ … X_k. */
  const weights = (form: AverageForm, rho: number, k: number): { start: number; of: number[] } => {
    const of = Array.from({ length: k }, (_, i) => (1 - rho) * rho ** (k - 1 - i));
    if (form === "identity") return { start: rho ** k, of };
    if (form === "normalized") return { start: 0, of: of.map((weight) => weight / (1 - rho ** k)) };
    if (form === "first") of[0] = rho ** (k - 1);
    return { start: 0, of };
  };

  describe("the exponential average of a factor", () => {
    it("has the closed form ρᵏ M₀ + (1 − ρ) Σ ρ^(k−i) Xᵢ, over 1 − ρᵏ if it is normalised", () => {
      fc.assert(
        fc.property(forms, decays, sequences, (form, rho, xs) => {
          const average = averageOf(form, rho, xs);
          const { start, of } = weights(form, rho, xs.length);
          const d = xs[0]?.rows as number;
          const closed = xs.reduce((sum, x, i) => plus(sum, scaled(x, of[i] as number)), scaled(identity(d), start));
          expect(average.value.dataSync()).toBeAllclose(closed.data, { relative: 1e-12 });
          average.dispose();
        }),
        { numRuns: 40 },
      );
    });

    it("is symmetric to the last bit and positive semidefinite", () => {
      fc.assert(
        fc.property(forms, decays, sequences, (form, rho, xs) => {
          const average = averageOf(form, rho, xs);
          const m = valueOf(average);
          expect(m.data).toEqual(transpose(m).data);
          const values = eigenvalues(m);
          expect(values[0]).toBeGreaterThanOrEqual(-1e-13 * (values.at(-1) as number));
          average.dispose();
        }),
        { numRuns: 40 },
      );
    });

    it("has the average of the traces for its trace", () => {
      fc.assert(
        fc.property(forms, decays, sequences, (form, rho, xs) => {
          const average = averageOf(form, rho, xs);
          const { start, of } = weights(form, rho, xs.length);
          const expected = xs.reduce((sum, x, i) => sum + (of[i] as number) * trace(x), start * (xs[0]?.rows as number));
          expect(trace(valueOf(average))).toBeCloseTo(expected, 10);
          average.dispose();
        }),
        { numRuns: 40 },
      );
    });

    it("has no more large eigenvalues than ranks of its newest terms: at most n ⌈log(αε) / log ρ⌉ above ε λ_max", () => {
      const factors = fc.record({ k: fc.integer({ min: 1, max: 12 }), rank: fc.integer({ min: 1, max: 2 }), seed: seeds });
      fc.assert(
        fc.property(
          factors,
          fc.double({ min: 0.1, max: 0.8, noNaN: true }),
          fc.constantFrom(0.01, 0.1, 0.5),
          ({ k, rank, seed }, rho, epsilon) => {
            const d = 12;
            const xs = Array.from({ length: k }, (_, i) => semidefinite(d, rank, seed + 7 * i));
            const c = Math.max(...xs.map((x) => eigenvalues(x).at(-1) as number));
            for (const form of ["normalized", "zero", "identity"] as const) {
              const average = averageOf(form, rho, xs);
              const values = eigenvalues(valueOf(average));
              const largest = values.at(-1) as number;
              // The identity leaves ρᵏ everywhere.
              const rest = form === "identity" ? rho ** k : 0;
              const above = values.filter((value) => value > epsilon * largest * (1 + 1e-12) + rest).length;
              expect(above).toBeLessThanOrEqual(mostAbove(epsilon, { rank, rho, alpha: largest / c }));
              average.dispose();
            }
          },
        ),
        { numRuns: 30 },
      );
    });
  });

  describe("the factors of a short training run", () => {
    it("keep to the bound on the decay of their spectrum, which says something there", async () => {
      const [n, rho, steps] = [3, 0.4, 25];
      const generator = new Generator(5);
      const options = { dtype: "float64" } as const;
      const model = new Sequential(new Linear(30, 24, { ...options, generator }), new Tanh(), new Linear(24, 3, { ...options, generator }));
      /** By weight and side: the average, and the largest norm of what it saw. */
      const seen = new Map<string, { average: MatrixAverage; largest: number }>();
      const look = (view: CurvatureView): void => {
        for (const [side, factor] of [
          ["input", view.inputCovariance()],
          ["output", view.outputCovariance()],
        ] as const) {
          const key = `${view.weight.name} ${side}`;
          const entry = seen.get(key) ?? { average: new MatrixAverage({ decay: rho }), largest: 0 };
          seen.set(key, entry);
          entry.average.observe(factor);
          entry.largest = Math.max(entry.largest, eigenvalues(matrixOf(factor)).at(-1) as number);
        }
      };
      const block = (): CurvatureBlock => ({
        method: "look",
        needs: () => ({ curvature: true, gradient: false }),
        observe: look,
        refresh: () => Promise.resolve(),
        precondition: (gradient) => gradient,
        state: () => ({ tensors: new Map(), numbers: {} }),
        load: () => undefined,
        dispose: () => undefined,
      });
      const optimizer = new CurvatureOptimizer(model.parameters(), "look", block, { learningRate: 0.1, clip: false });
      for (let step = 0; step < steps; step++) {
        const [x, labels] = [generator.normal([n, 30], options), Tensor.from(Int32Array.from({ length: n }, (_, i) => (i + step) % 3))];
        await optimizer.minimize(() => crossEntropy(model.forward(x), labels));
      }
      let telling = 0;
      for (const { average, largest: c } of seen.values()) {
        const values = eigenvalues(valueOf(average));
        const largest = values.at(-1) as number;
        for (const epsilon of [0.03, 0.1, 0.3]) {
          const bound = mostAbove(epsilon, { rank: n, rho, alpha: largest / c });
          expect(values.filter((value) => value > epsilon * largest).length).toBeLessThanOrEqual(bound);
          if (bound < values.length) telling++;
        }
        average.dispose();
      }
      expect(seen.size).toBe(4);
      expect(telling).toBeGreaterThanOrEqual(6);
      optimizer.dispose();
    });
  });
});
