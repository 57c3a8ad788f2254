import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { gradcheck, valueAndGrad } from "../../src/autograd/index.ts";
import {
  constantInit,
  Conv2d,
  crossEntropy,
  ELU,
  fans,
  GELU,
  kaimingNormal,
  kaimingUniform,
  LeakyReLU,
  Linear,
  meanSquaredError,
  normalInit,
  pytorchInit,
  ReLU,
  Sigmoid,
  SiLU,
  Softplus,
  Tanh,
  uniformInit,
  vggInit,
  xavierNormal,
  xavierUniform,
  type Initializer,
  type LossOptions,
  type Module,
} from "../../src/nn/index.ts";
import { DataError, Generator, ShapeError, Tensor, tidy, UsageError, type Shape } from "../../src/tensor/index.ts";

// ── activations ───────────────────────────────────────────────────────────────────────────────────────────────────────────

/** Φ by Simpson's rule on the normal density: independent of any erf. */
function normalCdf(x: number): number {
  if (Math.abs(x) > 9) return x > 0 ? 1 : 0;
  const density = (t: number): number => Math.exp((-t * t) / 2) / Math.sqrt(2 * Math.PI);
  const [steps, from] = [4000, -12];
  const h = (x - from) / steps;
  let sum = density(from) + density(x);
  for (let i = 1; i < steps; i++) sum += density(from + i * h) * (i % 2 === 1 ? 4 : 2);
  return (sum * h) / 3;
}

const activations: [module: Module, closedForm: (x: number) => number][] = [
  [new ReLU(), (x) => Math.max(x, 0)],
  [new Sigmoid(), (x) => 1 / (1 + Math.exp(-x))],
  [new Tanh(), (x) => Math.tanh(x)],
  [new Softplus(), (x) => Math.log1p(Math.exp(x))],
  [new SiLU(), (x) => x / (1 + Math.exp(-x))],
  [new GELU(), (x) => x * normalCdf(x)],
  [new LeakyReLU(), (x) => (x > 0 ? x : 0.01 * x)],
  [new LeakyReLU(0.3), (x) => (x > 0 ? x : 0.3 * x)],
  [new ELU(), (x) => (x > 0 ? x : Math.expm1(x))],
  [new ELU(1.7), (x) => (x > 0 ? x : 1.7 * Math.expm1(x))],
];
const named = activations.map(([module, closedForm], i) => [`${module.constructor.name} ${i}`, module, closedForm] as const);

describe("activations", () => {
  const points = [-30, -6.5, -3.2, -1.1, -0.4, -0.01, 0.02, 0.3, 0.9, 2.4, 5.1, 30];

  test.each(named)("%s equals its closed form", (_, module, closedForm) => {
    const expected = points.map(closedForm);
    for (const [dtype, tolerance] of [
      ["float64", 1e-12],
      ["float32", 1e-6],
    ] as const) {
      const y = module.forward(Tensor.from(points, { dtype })).dataSync();
      // Absolute near 0: 1 + erf and eˣ − 1 lose leading digits there, in PyTorch as here.
      const errors = expected.map((value, i) => Math.abs((y[i] ?? NaN) - value) / Math.max(1, Math.abs(value)));
      expect(Math.max(...errors)).toBeLessThan(tolerance);
    }
  });

  test.each(named)("%s: first and second derivative agree with differences", async (_, module) => {
    await gradcheck((x) => module.forward(x), [Tensor.from([-3.2, -1.1, -0.4, 0.3, 0.9, 2.4], { dtype: "float64" })], { order: 2 });
  });

  test.each(named)("%s: values and gradients far out are finite and those of the asymptote", (_, module) => {
    for (const [dtype, far] of [
      ["float64", [-1e200, -1e5, -800, 800, 1e5, 1e200]],
      ["float32", [-1e30, -1e5, -200, 200, 1e5, 1e30]],
    ] as const) {
      tidy(() => {
        const x = Tensor.from([...far], { dtype });
        const { value, gradients } = valueAndGrad(() => module.forward(x).multiply(1e-10).sum(), [x]);
        expect(value.dataSync()[0]).toSatisfy(Number.isFinite);
        const slopes = gradients[0]?.dataSync().map((slope) => slope * 1e10);
        const flat = module instanceof Sigmoid || module instanceof Tanh;
        const left = module instanceof LeakyReLU ? module.slope : 0;
        expect(slopes).toBeAllclose([left, left, left, ...(flat ? [0, 0, 0] : [1, 1, 1])], { relative: 1e-6 });
      });
    }
  });

  test("at 0 the derivative is PyTorch's", () => {
    const slopeAtZero = (module: Module): number =>
      tidy(() => {
        const x = Tensor.zeros([1]);
        return valueAndGrad(() => module.forward(x).sum(), [x]).gradients[0]?.dataSync()[0] ?? NaN;
      });
    expect([new ReLU(), new LeakyReLU(0.25), new ELU(0.75), new GELU(), new SiLU()].map(slopeAtZero)).toEqual([0, 0.25, 0.75, 0.5, 0.5]);
  });
});

// ── losses ────────────────────────────────────────────────────────────────────────────────────────────────────────────────

describe("cross-entropy", () => {
  const logits = (n = 4, classes = 3): Tensor => new Generator(1).normal([n, classes], { dtype: "float64" });
  const labels = Tensor.from([2, 0, 1, 1], { dtype: "int32" });

  test("of equal logits is the logarithm of the number of classes", () => {
    expect(crossEntropy(Tensor.zeros([4, 3], { dtype: "float64" }), labels).dataSync()).toBeAllclose([Math.log(3)], { relative: 1e-14 });
  });

  test("by default is a mean over samples; `sum` is n times that, and so are its gradients", () => {
    const x = logits();
    const results = ([undefined, "mean", "sum"] as const).map((reduction) =>
      valueAndGrad(() => crossEntropy(x, labels, reduction ? { reduction } : {}), [x]),
    );
    const numbers = results.map(({ value, gradients }) => [...value.dataSync(), ...(gradients[0]?.dataSync() ?? [])]);
    expect(numbers[1]).toEqual(numbers[0]);
    expect(numbers[2]).toBeAllclose(numbers[0]?.map((v) => 4 * v) ?? [], { relative: 1e-14 });
  });

  test("with smoothing 0 the two conventions are one; with smoothing the off-target one is the uniform one with a larger ε", () => {
    fc.assert(
      fc.property(fc.integer({ min: 2, max: 6 }), fc.double({ min: 0, max: 0.5, noNaN: true }), (classes, smoothing) => {
        tidy(() => {
          const x = logits(4, classes);
          const y = Tensor.from([1, 0, 1, 1], { dtype: "int32" });
          const offTarget = crossEntropy(x, y, { smoothing, smoothingKind: "off-target" });
          // q_other = ε / (K − 1) = ε′ / K for ε′ = ε K / (K − 1)
          const uniform = crossEntropy(x, y, { smoothing: (smoothing * classes) / (classes - 1) });
          expect(offTarget.dataSync()).toBeAllclose(uniform.dataSync(), { relative: 1e-12 });
        });
      }),
      { numRuns: 30 },
    );
  });

  test.each(["float64", "float32"] as const)("of extreme logits is finite in %s, with finite gradients", (dtype) => {
    const far = dtype === "float64" ? 1e300 : 1e37;
    const x = Tensor.from(
      [
        [far, 0, -far],
        [-far, -far, -far],
        [far, far, far],
        [1000, -1000, 0],
      ],
      { dtype },
    );
    const y = Tensor.from([0, 2, 1, 0], { dtype: "int32" });
    for (const options of [{}, { smoothing: 0.1, smoothingKind: "uniform" }, { smoothing: 0.1, smoothingKind: "off-target" }] as const) {
      const { value, gradients } = valueAndGrad(() => crossEntropy(x, y, options), [x]);
      expect(value.dataSync()[0]).toSatisfy(Number.isFinite);
      expect(gradients[0]?.dataSync().every(Number.isFinite)).toBe(true);
    }
  });

  test("a label out of range is a DataError that names the sample, and leaves nothing behind", () => {
    const x = logits();
    const wrong = Tensor.from([0, 1, 7, 0], { dtype: "int32" });
    expect(() => {
      expect(() => crossEntropy(x, wrong)).toThrow(DataError);
      expect(() => crossEntropy(x, wrong)).toThrow(/label 7 of sample 2 /);
      crossEntropy(x, labels).dispose();
    }).toHaveNoLeaks();
  });
});

describe("the mean squared error", () => {
  const [a, b] = [
    Tensor.from(
      [
        [1, 2, 3],
        [4, 5, 6],
      ],
      { dtype: "float64" },
    ),
    Tensor.from(
      [
        [0, 2, 5],
        [4, 4, 3],
      ],
      { dtype: "float64" },
    ),
  ];

  test("is a mean over elements, or a sum", () => {
    expect(meanSquaredError(a, b).dataSync()).toBeAllclose([15 / 6], { relative: 1e-15 });
    expect(meanSquaredError(a, b, { reduction: "sum" }).dataSync()).toEqual(Float64Array.of(15));
    expect(meanSquaredError(a, b).shape).toEqual([]);
  });

  test("has the gradient 2 (a − b) / size", async () => {
    const { gradients } = valueAndGrad(() => meanSquaredError(a, b), [a]);
    expect(gradients[0]?.dataSync()).toBeAllclose(
      [1, 0, -2, 0, 1, 3].map((d) => (2 * d) / 6),
      { relative: 1e-14 },
    );
    await gradcheck((x, y) => meanSquaredError(x, y), [a, b], { order: 2 });
  });

  test("has no other reduction, and neither has the cross-entropy", () => {
    const none = { reduction: "none" } as unknown as LossOptions;
    for (const loss of [() => meanSquaredError(a, b, none), () => crossEntropy(a, Tensor.from(Int32Array.of(0, 1)), none)]) {
      expect(loss).toThrow(UsageError);
      expect(loss).toThrow(
        /reduction must be "mean" or "sum" but is "none"; for each sample's own loss use (softmaxCrossEntropy|squaredError)/,
      );
    }
  });

  test("of no elements is a ShapeError, and their sum is 0", () => {
    const none = Tensor.zeros([0, 3]);
    expect(() => meanSquaredError(none, none)).toThrow(ShapeError);
    expect(() => meanSquaredError(none, none)).toThrow(/meanSquaredError: \[0, 3\] has no elements/);
    expect(meanSquaredError(none, none, { reduction: "sum" }).dataSync()).toEqual(Float32Array.of(0));
    expect(() => crossEntropy(none, Tensor.zeros([0], { dtype: "int32" }))).toThrow(ShapeError);
  });

  test("of two shapes is a ShapeError", () => {
    expect(() => meanSquaredError(a, b.reshape([3, 2]))).toThrow(ShapeError);
  });
});

// ── initialisers ──────────────────────────────────────────────────────────────────────────────────────────────────────────

describe("initial weights", () => {
  test("fans are inputs and outputs that meet in one weight", () => {
    expect(fans([7, 5])).toEqual({ fanIn: 5, fanOut: 7 });
    expect(fans([8, 3, 2, 4])).toEqual({ fanIn: 24, fanOut: 48 });
    expect(() => fans([4])).toThrow(ShapeError);
  });

  const shape: Shape = [40, 3, 3, 30];
  const [fanIn, fanOut] = [270, 360];
  const normals: [name: string, init: Initializer, variance: number][] = [
    ["normalInit(0.5)", normalInit(0.5), 0.25],
    ["kaimingNormal()", kaimingNormal(), 2 / fanIn],
    ["kaimingNormal(fanOut, 1)", kaimingNormal("fanOut", 1), 1 / fanOut],
    ["xavierNormal()", xavierNormal(), 2 / (fanIn + fanOut)],
    ["xavierNormal(3)", xavierNormal(3), 18 / (fanIn + fanOut)],
    ["vggInit", vggInit, 2 / fanOut],
  ];
  const uniforms: [name: string, init: Initializer, bound: number][] = [
    ["uniformInit(0.5)", uniformInit(0.5), 0.5],
    ["kaimingUniform()", kaimingUniform(), Math.sqrt(6 / fanIn)],
    ["kaimingUniform(fanOut, 1)", kaimingUniform("fanOut", 1), Math.sqrt(3 / fanOut)],
    ["xavierUniform(2)", xavierUniform(2), 2 * Math.sqrt(6 / (fanIn + fanOut))],
    ["pytorchInit", pytorchInit, 1 / Math.sqrt(fanIn)],
  ];
  const draw = (init: Initializer): number[] => tidy(() => [...init(shape, { generator: new Generator(11), dtype: "float64" }).dataSync()]);
  const meanOf = (values: readonly number[]): number => values.reduce((a, b) => a + b, 0) / values.length;
  // Five standard deviations of estimates from 10,800 draws: of the mean σ/√n, of the variance at most σ²√(2/n).
  const n = 10_800;

  test.each(normals)("%s is normal with the variance it promises", (_, init, variance) => {
    const values = draw(init);
    expect(Math.abs(meanOf(values))).toBeLessThan(5 * Math.sqrt(variance / n));
    expect(Math.abs(meanOf(values.map((v) => v * v)) / variance - 1)).toBeLessThan(5 * Math.sqrt(2 / n));
    const within = values.filter((v) => Math.abs(v) < Math.sqrt(variance)).length / n;
    expect(Math.abs(within - 0.6827)).toBeLessThan(0.025);
  });

  test.each(uniforms)("%s fills its range evenly and never leaves it", (_, init, bound) => {
    const values = draw(init);
    const largest = values.reduce((top, v) => Math.max(top, Math.abs(v)), 0);
    expect(largest).toBeLessThanOrEqual(bound);
    expect(largest).toBeGreaterThan(0.995 * bound);
    expect(Math.abs(meanOf(values))).toBeLessThan((5 * bound) / Math.sqrt(3 * n));
    expect(Math.abs(meanOf(values.map((v) => v * v)) / (bound ** 2 / 3) - 1)).toBeLessThan(5 * Math.sqrt(2 / n));
  });

  test("constantInit is constant, in the dtype asked for", () => {
    const value = constantInit(0.25)([2, 2], { dtype: "float64" });
    expect(value.dtype).toBe("float64");
    expect(value.dataSync()).toEqual(new Float64Array(4).fill(0.25));
  });

  test("an initialiser leaves nothing behind but the weight", () => {
    for (const [, init] of [...normals, ...uniforms]) expect(() => init([3, 4], { generator: new Generator(0) }).dispose()).toHaveNoLeaks();
  });

  test("a bias follows PyTorch unless the weight's initialiser was chosen: then it is 0, or what biasInit says", () => {
    const generator = new Generator(3);
    const bias = (layer: Linear | Conv2d): number[] => [...(layer.bias?.value.dataSync() ?? [])];
    const plain = bias(new Conv2d(4, 500, 2, { generator }));
    expect(Math.max(...plain.map(Math.abs))).toBeLessThanOrEqual(Math.fround(1 / 4));
    expect(Math.max(...plain.map(Math.abs))).toBeGreaterThan(0.98 / 4);
    expect(bias(new Linear(4, 3, { generator, init: kaimingNormal() }))).toEqual([0, 0, 0]);
    expect(bias(new Linear(4, 3, { generator, biasInit: constantInit(2) }))).toEqual([2, 2, 2]);
  });

  test("equal generators give equal layers, and entropy gives different ones", () => {
    const weights = (generator?: Generator): number[] => [...new Linear(6, 5, { generator }).weight.value.dataSync()];
    expect(weights(new Generator(1))).toEqual(weights(new Generator(1)));
    expect(weights(new Generator(1))).not.toEqual(weights(new Generator(2)));
    expect(weights()).not.toEqual(weights());
  });
});
