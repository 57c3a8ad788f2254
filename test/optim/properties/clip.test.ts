import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { crossEntropy, Linear, Parameter, Sequential } from "../../../src/nn/index.ts";
import { klClip, rmsClip, RsKfac, type StepContext, type Transform, type Updates } from "../../../src/optim/index.ts";
import { defaultBackend, Generator, Tensor } from "../../../src/tensor/index.ts";
import { seeds, normalMatrix } from "../../arbitraries/matrices.ts";
import { eachBackend } from "../../backends.ts";

/** Two layers, one with a bias, and a parameter that was not preconditioned. */
interface Step {
  readonly updates: Updates;
  readonly gradients: ReadonlyMap<Parameter, Tensor>;
  readonly other: Parameter;
}

function stepOf(seed: number, scale: number): Step {
  const shapes = { first: [3, 4], bias: [3], second: [2, 3], other: [5] };
  const random = (shape: number[], from: number, by: number): Tensor => {
    const size = shape.reduce((a, b) => a * b);
    return Tensor.from(
      normalMatrix(1, size, from).data.map((value) => by * value),
      { shape },
    );
  };
  const parameters = Object.entries(shapes).map(([name, shape], i) => new Parameter(name, random(shape, seed + i + 1, 1)));
  const [first, bias, second, other] = parameters as [Parameter, Parameter, Parameter, Parameter];
  const gradients = new Map(parameters.map((parameter, i) => [parameter, random([...parameter.shape], seed + 10 + i, 1)]));
  // Something like a preconditioned gradient: that times a positive number for each layer, and some noise.
  const values = new Map(
    [...gradients].map(([parameter, gradient], i) => [
      parameter,
      gradient.multiply(scale * (i + 1)).add(random([...parameter.shape], seed + 20 + i, scale / 10)),
    ]),
  );
  return {
    updates: {
      values,
      layers: [
        { weight: first, bias },
        { weight: second, bias: null },
      ],
    },
    gradients,
    other,
  };
}

const clipped = (transform: Transform, { updates, gradients }: Step, learningRate: number): Updates =>
  transform.update(updates, { step: 0, learningRate, gradients } satisfies StepContext);
const numbers = (updates: Updates, parameter: Parameter): number[] => Array.from(updates.values.get(parameter)?.dataSync() ?? []);

/** Σ over the layers of ⟨P, J⟩. */
const product = ({ layers, values }: Updates, gradients: ReadonlyMap<Parameter, Tensor>): number =>
  layers
    .flatMap(({ weight, bias }) => (bias ? [weight, bias] : [weight]))
    .map(
      (parameter) =>
        values
          .get(parameter)
          ?.multiply(gradients.get(parameter) as Tensor)
          .sum()
          .dataSync()[0] as number,
    )
    .reduce((a, b) => a + b);

const rms = (updates: Updates, layer: number): number => {
  const { weight, bias } = updates.layers[layer] as Updates["layers"][number];
  const all = [...numbers(updates, weight), ...(bias ? numbers(updates, bias) : [])];
  return Math.sqrt(all.reduce((sum, value) => sum + value ** 2, 0) / all.length);
};

eachBackend(() => {
  const positive = fc.double({ min: 1e-3, max: 10, noNaN: true });
  const steps = fc.tuple(seeds, positive).map(([seed, scale]) => ({ seed, scale }));

  describe("the KL clip with factor ν", () => {
    it("keeps ν² lr² Σ⟨P, J⟩ at κ or below, and at κ itself where it does something", () => {
      fc.assert(
        fc.property(steps, positive, positive, ({ seed, scale }, kappa, rate) => {
          const step = stepOf(seed, scale);
          const { first } = { first: step.updates.layers[0]?.weight as Parameter };
          const after = clipped(klClip(kappa), step, rate);
          const nu = (numbers(after, first)[0] as number) / (numbers(step.updates, first)[0] as number);
          const before = rate ** 2 * Math.abs(product(step.updates, step.gradients));
          expect(nu ** 2 * before).toBeLessThanOrEqual(kappa * (1 + 1e-12));
          expect(nu ** 2 * before).toBeCloseTo(Math.min(kappa, before), 10);
        }),
        { numRuns: 25 },
      );
    });

    it("is one factor for all layers, and none for other parameters", () => {
      fc.assert(
        fc.property(steps, positive, ({ seed, scale }, rate) => {
          const step = stepOf(seed, scale);
          const after = clipped(klClip(1e-6), step, rate);
          const ratios = step.updates.layers
            .flatMap(({ weight, bias }) => (bias ? [weight, bias] : [weight]))
            .flatMap((parameter) => numbers(after, parameter).map((value, i) => value / (numbers(step.updates, parameter)[i] as number)));
          expect(ratios).toBeAllclose(
            ratios.map(() => ratios[0] as number),
            { relative: 1e-12 },
          );
          expect(numbers(after, step.other)).toEqual(numbers(step.updates, step.other));
        }),
        { numRuns: 15 },
      );
    });

    it("does nothing below the threshold, nor where ⟨P, J⟩ is 0", () => {
      fc.assert(
        fc.property(steps, positive, ({ seed, scale }, rate) => {
          const step = stepOf(seed, scale);
          const kappa = 1.01 * rate ** 2 * Math.abs(product(step.updates, step.gradients));
          const zero = {
            ...step,
            gradients: new Map([...step.gradients].map(([parameter, gradient]) => [parameter, gradient.multiply(0)])),
          };
          for (const after of [clipped(klClip(kappa), step, rate), clipped(klClip(1e-9), zero, rate)]) {
            for (const parameter of step.updates.values.keys()) expect(numbers(after, parameter)).toEqual(numbers(step.updates, parameter));
          }
        }),
        { numRuns: 15 },
      );
    });

    it("is not idempotent: a clipped step has ν lr² ⟨P, J⟩ = κ/ν, more than κ, and would be clipped again", () => {
      const step = stepOf(3, 1);
      const once = clipped(klClip(1e-3), step, 1);
      const twice = clipped(klClip(1e-3), { ...step, updates: once }, 1);
      expect(product(once, step.gradients)).toBeGreaterThan(1e-3);
      expect(product(twice, step.gradients)).toBeLessThan(0.9 * product(once, step.gradients));
    });
  });

  describe("the RMS clip", () => {
    it("leaves each layer, weight and bias together, with an RMS of at most the limit, and at the limit if it was above", () => {
      fc.assert(
        fc.property(steps, positive, ({ seed, scale }, limit) => {
          const step = stepOf(seed, scale);
          const after = clipped(rmsClip(limit), step, 1);
          for (const layer of [0, 1]) {
            expect(rms(after, layer)).toBeLessThanOrEqual(limit * (1 + 1e-12));
            expect(rms(after, layer)).toBeCloseTo(Math.min(limit, rms(step.updates, layer)), 10);
          }
          expect(numbers(after, step.other)).toEqual(numbers(step.updates, step.other));
        }),
        { numRuns: 25 },
      );
    });

    it("is idempotent, and does nothing below the limit", () => {
      fc.assert(
        fc.property(steps, positive, ({ seed, scale }, limit) => {
          const step = stepOf(seed, scale);
          const once = clipped(rmsClip(limit), step, 1);
          const twice = clipped(rmsClip(limit), { ...step, updates: once }, 1);
          for (const parameter of step.updates.values.keys()) {
            expect(numbers(twice, parameter)).toBeAllclose(numbers(once, parameter), { relative: 1e-14 });
          }
          const loose = clipped(rmsClip(1.01 * Math.max(rms(step.updates, 0), rms(step.updates, 1))), step, 1);
          for (const parameter of step.updates.values.keys()) expect(numbers(loose, parameter)).toEqual(numbers(step.updates, parameter));
        }),
        { numRuns: 15 },
      );
    });

    it("does not depend on the learning rate, and leaves a layer of zeros as it is", () => {
      const step = stepOf(4, 1);
      const [slow, fast] = [clipped(rmsClip(0.1), step, 1e-3), clipped(rmsClip(0.1), step, 10)];
      for (const parameter of step.updates.values.keys()) expect(numbers(fast, parameter)).toEqual(numbers(slow, parameter));
      const still = {
        ...step,
        updates: { ...step.updates, values: new Map([...step.updates.values].map(([p, value]) => [p, value.multiply(0)])) },
      };
      for (const parameter of step.updates.values.keys()) {
        expect(numbers(clipped(rmsClip(0.1), still, 1), parameter).every((value) => value === 0)).toBe(true);
      }
    });
  });

  describe("a clip tells its factor:", () => {
    it("ν of the KL clip, and of an RMS clip the least of the layers', which is what it multiplied the updates by", async () => {
      await fc.assert(
        fc.asyncProperty(steps, positive, positive, async ({ seed, scale }, limit, rate) => {
          const step = stepOf(seed, scale);
          for (const clip of [klClip(limit), rmsClip(limit)]) {
            expect(await clip.factor()).toBeNull();
            const after = clipped(clip, step, rate);
            const ratios = step.updates.layers.map(
              ({ weight }) => (numbers(after, weight)[0] as number) / (numbers(step.updates, weight)[0] as number),
            );
            expect([(await clip.factor()) as number]).toBeAllclose([Math.min(...ratios)], { relative: 1e-12 });
            clip.dispose();
          }
        }),
        { numRuns: 10 },
      );
    });

    it("an optimizer gives it with the λ of its last step, also where λ is adapted, and keeps no buffer more with every step", async () => {
      const model = new Sequential(new Linear(4, 3, { dtype: "float64", generator: new Generator(1) }));
      const [x, labels] = [new Generator(2).normal([6, 4], { dtype: "float64" }), Tensor.from(Int32Array.of(0, 1, 2, 0, 1, 2))];
      const settings = { learningRate: 0.3, damping: (at: number) => 0.1 / (at + 1), adaptDamping: { interval: 2 } };
      const optimizer = new RsKfac(model.parameters(), { ...settings, clip: { kl: (at) => (at === 0 ? 1e-6 : 1e6) } });
      expect(await optimizer.stepFigures()).toEqual({ damping: null, clip: null });
      const found: number[] = [];
      let buffers = 0;
      for (let i = 0; i < 4; i++) {
        await optimizer.minimize(() => crossEntropy(model.forward(x), labels));
        const { damping, clip } = await optimizer.stepFigures();
        found.push(damping as number);
        if (i === 0) expect(clip).toBeLessThan(1);
        else expect(clip).toBe(1);
        if (i > 1) expect(defaultBackend().memory().buffers).toBe(buffers);
        buffers = defaultBackend().memory().buffers;
      }
      const factor = (optimizer.adaptations()[0]?.damping as number) / 0.05; // at the end of step 1, where 0.1 / 2 is given
      expect(factor).not.toBe(1);
      expect(found).toBeAllclose([0.1, 0.05, (0.1 / 3) * factor, 0.025 * factor], { relative: 1e-12 });
      optimizer.dispose();
    });
  });
});
