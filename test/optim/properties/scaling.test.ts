import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { crossEntropy, Linear, meanSquaredError, Parameter, Sequential, Tanh } from "../../../src/nn/index.ts";
import {
  EkFac,
  Kfac,
  Optimizer,
  Precondition,
  RecordedView,
  Capture,
  releaseRecords,
  type BlockState,
  type LayerRecord,
} from "../../../src/optim/index.ts";
import { valueAndGrad } from "../../../src/autograd/index.ts";
import { conv2d, Generator, im2col, linear, Tensor, type Shape } from "../../../src/tensor/index.ts";
import { normalMatrix, seeds } from "../../arbitraries/matrices.ts";
import { windows } from "../../arbitraries/shapes.ts";
import { eachBackend } from "../../backends.ts";
import { matrix, minus, norm, plus, product, scaled, transpose, type Matrix } from "../../linalg/dense.ts";
import { direction, layerCases, layerOf } from "./layer.ts";
import { lowRankMethods } from "./methods.ts";

const options = { dtype: "float64" } as const;
const plain = { learningRate: 1, clip: false } as const;
const normal = (shape: Shape, seed: number): Tensor => new Generator(seed).normal(shape, options);

/** Factors of a weight, and its gradient, as one pass over a loss gives them. */
function factorsOf(loss: () => Tensor, parameters: Parameter[]): { omega: Float64Array; gamma: Float64Array; gradient: Float64Array } {
  const [weight] = parameters as [Parameter];
  const records: LayerRecord[] = [];
  const observe = new Capture([weight], parameters, "mean").observer(records);
  const { gradients } = valueAndGrad(loss, parameters, { observe });
  const view = new RecordedView([{ training: records, fisher: [records], share: 1 }]);
  const read = (tensor: Tensor): Float64Array => Float64Array.from(tensor.dataSync());
  const found = { omega: read(view.inputCovariance()), gamma: read(view.outputCovariance()), gradient: read(gradients[0] as Tensor) };
  view.dispose();
  releaseRecords(records);
  return found;
}

/** A block that changes nothing. */
const looking = {
  method: "look",
  observe: (): void => undefined,
  refresh: (): Promise<void> => Promise.resolve(),
  state: (): BlockState => ({ tensors: new Map(), numbers: {} }),
  load: (): void => undefined,
  dispose: (): void => undefined,
};

/** What the first step at rate 1 subtracts from each parameter. */
async function stepOf(parameters: Parameter[], loss: () => Tensor, make: (parameters: Parameter[]) => Optimizer): Promise<Float64Array[]> {
  const before = parameters.map(({ value }) => value.dataSync());
  const optimizer = make(parameters);
  await optimizer.minimize(loss);
  optimizer.dispose();
  return parameters.map(({ value }, i) => Float64Array.from(value.dataSync(), (after, j) => (before[i]?.[j] as number) - after));
}

eachBackend(() => {
  describe("a convolution's block", () => {
    const cases = fc.record({
      window: windows({ maxPixels: 16 }),
      n: fc.integer({ min: 1, max: 3 }),
      channels: fc.integer({ min: 1, max: 3 }),
      dOut: fc.integer({ min: 1, max: 3 }),
      bias: fc.boolean(),
      seed: seeds,
    });

    it("is that of a dense layer on its patches, which are positions of a sample: factors and direction", async () => {
      await fc.assert(
        fc.asyncProperty(cases, async ({ window: { geometry, size }, n, channels, dOut, bias, seed }) => {
          const { kernel, ...rest } = geometry;
          const own = bias ? [new Parameter("bias", normal([dOut], seed + 1))] : [];
          const weight = new Parameter("weight", normal([dOut, ...kernel, channels], seed + 2));
          const x = normal([n, ...size, channels], seed + 3);
          const patches = im2col(x, kernel, rest).reshape([n, -1, weight.value.size / dOut]);
          const flat = new Parameter("weight", weight.value.reshape([dOut, -1]));
          // The same gradient of the output for both, and another for every position.
          const map = conv2d(x, weight.value, null, rest);
          const slope = normal(map.shape, seed + 4);
          const convolved = (): Tensor => conv2d(x, weight.value, own[0]?.value, rest).multiply(slope).sum();
          const dense = (): Tensor =>
            linear(patches, flat.value, own[0]?.value)
              .multiply(slope.reshape([n, -1, dOut]))
              .sum();
          const [one, other] = [factorsOf(convolved, [weight, ...own]), factorsOf(dense, [flat, ...own])];
          for (const key of ["omega", "gamma", "gradient"] as const) expect(one[key]).toBeAllclose(other[key], { relative: 1e-12 });
          const make = (parameters: Parameter[]): Optimizer => new Kfac(parameters, { ...plain, damping: 0.1 });
          const [a] = await stepOf([weight, ...own], convolved, make);
          own.forEach((parameter) => parameter.assign(normal([dOut], seed + 1)));
          const [b] = await stepOf([flat, ...own], dense, make);
          expect(a as Float64Array).toBeAllclose(b as Float64Array, { relative: 1e-9 });
        }),
        { numRuns: 15 },
      );
    });

    it("has one product of its factors, whether the scale is split as Ω, Γ or as Ω/T², T²Γ: every damping of the product gives one direction", async () => {
      await fc.assert(
        fc.asyncProperty(cases, async ({ window: { geometry, size }, n, channels, dOut, bias, seed }) => {
          const { kernel, ...rest } = geometry;
          const weight = new Parameter("weight", normal([dOut, ...kernel, channels], seed + 2));
          const parameters = bias ? [weight, new Parameter("bias", normal([dOut], seed + 1))] : [weight];
          const x = normal([n, ...size, channels], seed + 3);
          const slope = normal(conv2d(x, weight.value, null, rest).shape, seed + 4);
          const loss = (): Tensor => conv2d(x, weight.value, parameters[1]?.value, rest).multiply(slope).sum();
          const before = parameters.map(({ value }) => value.keep());
          for (const dampingKind of ["absolute", "relative", "pi"] as const) {
            const steps: Float64Array[][] = [];
            for (const factorScaling of ["kfc", "paper"] as const) {
              parameters.forEach((parameter, i) => parameter.assign(before[i] as Tensor));
              steps.push(await stepOf(parameters, loss, (own) => new Kfac(own, { ...plain, damping: 0.1, dampingKind, factorScaling })));
            }
            steps[0]?.forEach((step, i) => expect(step).toBeAllclose(steps[1]?.[i] ?? [], { relative: 1e-9 }));
          }
        }),
        { numRuns: 10 },
      );
    });

    it("of one pixel is that of a dense layer with as many positions", () => {
      fc.assert(
        fc.property(fc.integer({ min: 1, max: 4 }), fc.integer({ min: 1, max: 3 }), fc.boolean(), seeds, (n, width, bias, seed) => {
          const x = normal([n, 2, width, 3], seed);
          const weight = new Parameter("weight", normal([2, 3], seed + 1));
          const own = bias ? [new Parameter("bias", normal([2], seed + 2))] : [];
          const kernel = new Parameter("weight", weight.value.reshape([2, 1, 1, 3]));
          const dense = factorsOf(() => linear(x, weight.value, own[0]?.value).square().mean(), [weight, ...own]);
          const conv = factorsOf(() => conv2d(x, kernel.value, own[0]?.value).square().mean(), [kernel, ...own]);
          for (const key of ["omega", "gamma", "gradient"] as const) expect(conv[key]).toBeAllclose(dense[key], { relative: 1e-12 });
        }),
        { numRuns: 10 },
      );
    });
  });

  describe("a loss that is multiplied by c", () => {
    const factor = fc.double({ min: 0.01, max: 100, noNaN: true });

    it("leaves Ω, and multiplies Γ by c² and the gradient by c", () => {
      fc.assert(
        fc.property(seeds, factor, (seed, c) => {
          const weight = new Parameter("weight", normal([3, 4], seed));
          const x = normal([5, 4], seed + 1);
          const labels = Tensor.from(Int32Array.of(0, 1, 2, 1, 0));
          const of = (scale: number): ReturnType<typeof factorsOf> =>
            factorsOf(() => crossEntropy(linear(x, weight.value), labels).multiply(scale), [weight]);
          const [one, many] = [of(1), of(c)];
          expect(many.omega).toEqual(one.omega);
          expect(many.gamma).toBeAllclose(
            one.gamma.map((value) => c ** 2 * value),
            { relative: 1e-12 },
          );
          expect(many.gradient).toBeAllclose(
            one.gradient.map((value) => c * value),
            { relative: 1e-12 },
          );
        }),
        { numRuns: 10 },
      );
    });

    const methods: [name: string, make: (parameters: Parameter[], reduction: "mean" | "sum") => Optimizer][] = [
      ["K-FAC", (parameters, reduction) => new Kfac(parameters, { ...plain, reduction })],
      ["EK-FAC, running", (parameters, reduction) => new EkFac(parameters, { ...plain, reduction })],
      ["EK-FAC, intra", (parameters, reduction) => new EkFac(parameters, { ...plain, reduction, eigenvalues: "intra" })],
      ...lowRankMethods.map(([name, Method]): (typeof methods)[number] => [
        name,
        (parameters, reduction) => new Method(parameters, { ...plain, reduction, rank: 2, oversampling: 1, exactUpTo: 0 }),
      ]),
    ];
    it.each(methods)("divides the direction of %s with relative damping by c", async (_, make) => {
      await fc.assert(
        fc.asyncProperty(layerCases, factor, async (layerCase, c) => {
          const { n, positions, dIn, dOut, seed } = layerCase;
          const [x, g] = [normalMatrix(n * positions, dIn, seed + 1), normalMatrix(n * positions, dOut, seed + 2)];
          const one = await direction(layerOf(x, g, layerCase), (own) => make(own, "mean"));
          const many = await direction(layerOf(x, scaled(g, c), layerCase), (own) => make(own, "mean"));
          expect(norm(minus(scaled(many, c), one))).toBeLessThanOrEqual(1e-8 * norm(one));
        }),
        { numRuns: 8 },
      );
    });

    it.each(methods)(
      "because it is a sum over the n samples, and is declared so, has the factors of the mean: %s goes n times as far",
      async (_, make) => {
        await fc.assert(
          fc.asyncProperty(layerCases, async (layerCase) => {
            const { n, positions, dIn, dOut, seed } = layerCase;
            const [x, g] = [normalMatrix(n * positions, dIn, seed + 1), normalMatrix(n * positions, dOut, seed + 2)];
            const mean = await direction(layerOf(x, g, layerCase), (own) => make(own, "mean"));
            const sum = await direction(layerOf(x, g, layerCase, "sum"), (own) => make(own, "sum"));
            expect(norm(minus(sum, scaled(mean, n)))).toBeLessThanOrEqual(1e-8 * norm(sum));
          }),
          { numRuns: 8 },
        );
      },
    );
  });

  describe("a gradient", () => {
    it.each([
      ["of a mean", "mean", [6]],
      ["of a sum", "sum", [6]],
      ["of equal micro-batches' means", "mean", [2, 2, 2]],
      ["of uneven micro-batches' sums", "sum", [1, 3, 2]],
    ] as const)("%s, times `toSampleMean`, is the mean of the samples' own gradients", async (_, reduction, sizes) => {
      const weight = new Parameter("weight", normal([3, 4], 1));
      const x = normal([6, 4], 2);
      const found: Matrix[] = [];
      const precondition = new Precondition(
        [weight],
        "look",
        (view) => ({
          ...looking,
          needs: () => ({ curvature: false, gradient: true }),
          precondition: (gradient) => {
            const { a, g } = view.perSample(0, view.n);
            const mean = g.matmul(a, { transposeA: true }).mean(0);
            found.push(matrix(3, 4, gradient.multiply(view.toSampleMean).dataSync()), matrix(3, 4, mean.dataSync()));
            return gradient;
          },
        }),
        { reduction },
      );
      const starts = sizes.map((_, i) => sizes.slice(0, i).reduce((sum: number, size) => sum + size, 0));
      const closures = sizes.map((size, i) => (): Tensor => {
        const rows = linear(x.slice([starts[i] as number, 0], [size, 4]), weight.value)
          .square()
          .sum(1);
        return reduction === "mean" ? rows.mean() : rows.sum();
      });
      await new Optimizer([weight], { learningRate: 0, transforms: [precondition], precondition }).minimize(closures);
      const [scaledGradient, mean] = found as [Matrix, Matrix];
      expect(scaledGradient.data).toBeAllclose(mean.data, { relative: 1e-13 });
    });
  });

  describe("an affine change of a layer's coordinates", () => {
    /** I plus something smaller: well conditioned, and its own. */
    const mixing = (d: number, seed: number): Matrix => {
      const e = normalMatrix(d, d, seed + 1);
      const identity = matrix(
        d,
        d,
        Float64Array.from({ length: d * d }, (_, i) => (i % (d + 1) === 0 ? 1 : 0)),
      );
      return plus(identity, scaled(e, 0.5 / norm(e)));
    };
    const tensorOf = ({ data, rows, columns }: Matrix): Tensor => Tensor.from(data, { shape: [rows, columns] });
    const [n, dIn, hidden, dOut] = [24, 3, 4, 2];

    /** Inverse of I + E with ‖E‖ ≤ ½, by its series. */
    const inverse = (a: Matrix): Matrix => {
      const identity = matrix(
        a.rows,
        a.rows,
        Float64Array.from({ length: a.rows ** 2 }, (_, i) => (i % (a.rows + 1) === 0 ? 1 : 0)),
      );
      const e = minus(identity, a);
      let sum = identity;
      for (let k = 0; k < 60; k++) sum = plus(identity, product(e, sum));
      return sum;
    };

    /** How much a K-FAC step changes the predictions of a network whose input is S x + s, and whose hidden layer is seen through T. */
    async function change(seed: number, damping: number, s: Matrix | null, shift: Matrix, t: Matrix | null): Promise<Float64Array> {
      const generator = new Generator(seed);
      const [first, second] = [new Linear(dIn, hidden, { ...options, generator }), new Linear(hidden, dOut, { ...options, generator })];
      const [x, target] = [generator.normal([n, dIn], options), generator.normal([n, dOut], options)];
      const [w, b] = [first.weight, first.bias as Parameter];
      let input = x;
      if (s) {
        // a' = S a + s, W' = W S⁻¹, b' = b − W' s.
        input = x.matmul(tensorOf(s), { transposeB: true }).add(tensorOf(shift).reshape([dIn]));
        w.assign(w.value.matmul(tensorOf(inverse(s))));
        b.assign(b.value.subtract(w.value.matmul(tensorOf(shift)).reshape([hidden])));
      }
      if (t) {
        w.assign(tensorOf(t).matmul(w.value));
        b.assign(
          tensorOf(t)
            .matmul(b.value.reshape([hidden, 1]))
            .reshape([hidden]),
        );
      }
      const back = t ? tensorOf(transpose(inverse(t))) : null;
      const predict = (): Tensor => {
        const pre = first.forward(input);
        return second.forward((back ? pre.matmul(back) : pre).tanh());
      };
      const model = new Sequential(first, new Tanh(), second);
      const before = predict().dataSync();
      const optimizer = new Kfac(model.parameters(), { learningRate: 0.1, clip: false, damping, fisher: "type-2" });
      await optimizer.minimize(() => meanSquaredError(predict(), target));
      optimizer.dispose();
      return Float64Array.from(predict().dataSync(), (after, i) => after - (before[i] as number));
    }

    const still = normalMatrix(dIn, 1, 1);
    it("of its inputs, S a + s, leaves the undamped step the same function's change", async () => {
      await fc.assert(
        fc.asyncProperty(fc.nat({ max: 1000 }), async (seed) => {
          const own = await change(seed, 0, null, still, null);
          expect(await change(seed, 0, mixing(dIn, seed), normalMatrix(dIn, 1, seed + 5), null)).toBeAllclose(own, { relative: 1e-8 });
        }),
        { numRuns: 6 },
      );
    });
    it("of its outputs, T s, leaves the undamped step the same function's change", async () => {
      await fc.assert(
        fc.asyncProperty(fc.nat({ max: 1000 }), async (seed) => {
          const own = await change(seed, 0, null, still, null);
          expect(await change(seed, 0, null, still, mixing(hidden, seed))).toBeAllclose(own, { relative: 1e-8 });
        }),
        { numRuns: 6 },
      );
    });
    it("changes the damped step: damping knows its coordinates", async () => {
      const differs = (a: Float64Array, b: Float64Array): number =>
        Math.max(...a.map((value, i) => Math.abs(value - (b[i] as number)))) / Math.max(...a.map(Math.abs));
      const own = await change(3, 0.1, null, still, null);
      expect(differs(own, await change(3, 0.1, mixing(dIn, 3), normalMatrix(dIn, 1, 8), null))).toBeGreaterThan(1e-2);
      expect(differs(own, await change(3, 0.1, null, still, mixing(hidden, 3)))).toBeGreaterThan(1e-2);
    });
  });
});
