import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { valueAndGrad } from "../../src/autograd/index.ts";
import { BatchNorm2d, Conv2d, crossEntropy, Flatten, Linear, ReLU, Sequential } from "../../src/nn/index.ts";
import { Kfac, Optimizer, type CurvatureView } from "../../src/optim/index.ts";
import { Precondition } from "../../src/optim/curvature/precondition.ts";
import { Generator, Tensor } from "../../src/tensor/index.ts";
import { eachBackend } from "../backends.ts";

const options = { dtype: "float64" } as const;

/** A convolution, a batch norm with or without the ReLU that is fused into it, and a dense layer. */
function network(seed: number, relu: boolean): Sequential {
  const generator = new Generator(seed);
  return new Sequential(
    new Conv2d(1, 3, 2, { ...options, generator }),
    new BatchNorm2d(3, options),
    ...(relu ? [new ReLU()] : []),
    new Flatten(),
    new Linear(12, 2, { ...options, generator }),
  );
}

eachBackend(() => {
  const cases = fc.record({ seed: fc.nat({ max: 1000 }), n: fc.integer({ min: 2, max: 6 }), relu: fc.boolean() });

  describe("the block of a batch norm's scale and shift", () => {
    it("sees the samples' gradients, whose mean is the gradient", async () => {
      await fc.assert(
        fc.asyncProperty(cases, async ({ seed, n, relu }) => {
          const model = network(seed, relu);
          const x = new Generator(seed + 1).normal([n, 3, 3, 1], options);
          const labels = Tensor.from(Int32Array.from({ length: n }, (_, i) => (i + seed) % 2));
          const loss = (): Tensor => crossEntropy(model.forward(x), labels);
          const parameters = model.parameters();
          const [scale, shift] = parameters.filter((p) => p.name.startsWith("1."));
          if (!scale || !shift) throw new Error("there is no batch norm");
          const { gradients } = valueAndGrad(loss, [scale, shift]);
          let seen: Float64Array | null = null;
          const precondition = new Precondition(
            parameters,
            "look",
            () => ({
              method: "look",
              needs: () => ({ curvature: true, gradient: false }),
              observe: (view: CurvatureView) => {
                if (view.kind === "scaleShift") seen = view.channelMoments().dataSync() as Float64Array;
              },
              refresh: () => Promise.resolve(),
              precondition: (gradient) => gradient,
              state: () => ({ tensors: new Map(), numbers: {} }),
              load: () => undefined,
              dispose: () => undefined,
            }),
            { scaleShift: true },
          );
          const optimizer = new Optimizer(parameters, { learningRate: 0, transforms: [precondition], precondition });
          await optimizer.minimize(loss);
          expect(precondition.registration().filter(({ block }) => block !== null)).toHaveLength(6);

          // u by a loss of its own for each sample, all of them through the batch's statistics.
          const own = Array.from({ length: n }, (_, i) => {
            const mask = Tensor.from(Float64Array.from({ length: n }, (_, j) => (j === i ? 1 : 0)));
            const probabilities = (): Tensor => model.forward(x).logSoftmax();
            const picked = (): Tensor => {
              const wanted = Tensor.from(
                Float64Array.from({ length: 2 * n }, (_, at) => (at % 2 === (Math.floor(at / 2) + seed) % 2 ? -1 : 0)),
                { shape: [n, 2] },
              );
              return probabilities().multiply(wanted).sum(1).multiply(mask).sum();
            };
            return valueAndGrad(picked, [scale, shift]).gradients.map((g) => g.dataSync());
          });
          // With train-mode statistics a sample's loss depends on all of them, but the gradients of γ and β come from its own rows alone.
          const mean = (k: 0 | 1): number[] => Array.from({ length: 3 }, (_, c) => own.reduce((sum, u) => sum + (u[k]?.[c] ?? NaN), 0) / n);
          expect(mean(0)).toBeAllclose([...(gradients[0] as Tensor).dataSync()], { relative: 1e-9 });
          const expected = Array.from({ length: 12 }, (_, at) => {
            const [c, i, j] = [Math.floor(at / 4), Math.floor(at / 2) % 2, at % 2];
            return own.reduce((sum, u) => sum + (u[i]?.[c] ?? NaN) * (u[j]?.[c] ?? NaN), 0) / n;
          });
          expect(seen).toBeAllclose(expected, { relative: 1e-9 });
        }),
        { numRuns: 15 },
      );
    });

    it("solves each channel's damped system", async () => {
      const [model, damping] = [network(3, true), 0.1];
      const x = new Generator(4).normal([5, 3, 3, 1], options);
      const labels = Tensor.from(Int32Array.of(0, 1, 1, 0, 1));
      const loss = (): Tensor => crossEntropy(model.forward(x), labels);
      const own = model.parameters().filter((p) => p.name.startsWith("1."));
      const gradients = valueAndGrad(loss, own).gradients.map((g) => g.dataSync());
      const before = own.map((p) => p.value.dataSync());
      const optimizer = new Kfac(model.parameters(), { learningRate: 1, clip: false, damping, scaleShift: true });
      await optimizer.minimize(loss);
      expect(
        optimizer
          .registration()
          .filter(({ block }) => block === "scale and shift")
          .map(({ parameter }) => parameter),
      ).toEqual(["1.weight", "1.bias"]);
      const step = own.map((p, i) => p.value.dataSync().map((value, c) => (before[i]?.[c] ?? 0) - value));
      const moments = [...(optimizer.state().transforms[0]?.tensors ?? [])].find(([name]) => name.endsWith("moments"))?.[1].dataSync();
      if (!moments) throw new Error("no moments are in the state");
      const eigenvalue = (c: number): number => {
        const [a = 0, b = 0, , d = 0] = moments.subarray(4 * c, 4 * c + 4);
        return (a + d) / 2 + Math.hypot((a - d) / 2, b);
      };
      const lambda = damping * Math.max(...[0, 1, 2].map(eigenvalue));
      for (let c = 0; c < 3; c++) {
        const [a = 0, b = 0, , d = 0] = moments.subarray(4 * c, 4 * c + 4);
        const [p = 0, q = 0] = step.map((values) => values[c] as number);
        expect([(a + lambda) * p + b * q, b * p + (d + lambda) * q]).toBeAllclose(
          gradients.map((g) => g[c] as number),
          { relative: 1e-9 },
        );
      }
      optimizer.dispose();
    });
  });
});
