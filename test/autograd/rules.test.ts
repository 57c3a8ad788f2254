import fc from "fast-check";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { gradcheck, hvp, record, rules, valueAndGrad } from "../../src/autograd/index.ts";
import { apply, concat, defaultBackend, linear, signatures, Tensor, tidy, type PrimitiveName } from "../../src/tensor/index.ts";
import { eachBackend } from "../backends.ts";
import { realize, sampledNames, samples, type Sample } from "../samples.ts";
import { differentiable, Restriction } from "./restriction.ts";

/*
 * The table of derivatives against central differences in float64: for each primitive, ⟨c, outputs⟩ for random c (first order),
 * and the gradient of that as a function of inputs and c (second order). Every floating output takes part.
 */

const severalOutputs = ["batchNorm", "batchNormGradient", "softmaxCrossEntropy"] as const;

/** Runs `check` on restrictions that have something to differentiate: not an integer variant, not a cast to integers. */
function eachSample<K extends PrimitiveName>(
  name: K,
  check: (restriction: Restriction<K>, outputs: number) => Promise<void> | void,
  numRuns: number,
): Promise<void> {
  return fc.assert(
    fc.asyncProperty(samples[name], async (sample) => {
      using restriction = new Restriction(name, sample);
      const outputs = tidy(() => restriction.outputs(...restriction.floats).length);
      fc.pre(restriction.floats.length > 0 && outputs > 0);
      await check(restriction, outputs);
    }),
    { numRuns },
  );
}

eachBackend(() => {
  let buffersBefore: number;
  beforeEach(() => {
    buffersBefore = defaultBackend().memory().buffers;
  });
  afterEach(() => {
    expect(defaultBackend().memory().buffers).toBe(buffersBefore);
  });

  describe("first and second derivatives equal central differences:", () => {
    test.each(differentiable)("%s", async (name) => {
      await eachSample(
        name,
        async ({ outputs, floats }) => {
          await gradcheck(outputs, floats, { order: 2 });
        },
        20,
      );
    });
  });

  test("linear of no features, or to none, has the derivatives that there are", () => {
    for (const [features, out] of [
      [0, 2],
      [3, 0],
    ] as const) {
      // prettier-ignore
      const [x, weight, bias] = [Tensor.ones([4, features]), Tensor.ones([out, features]), Tensor.ones([out])];
      const { value, gradients } = valueAndGrad(() => linear(x, weight, bias).sum(), [x, weight, bias]);
      expect(gradients.map((gradient) => gradient.shape)).toEqual([[4, features], [out, features], [out]]);
      expect(gradients.map((gradient) => [...gradient.dataSync()])).toEqual([
        Array<number>(4 * features).fill(out),
        Array<number>(out * features).fill(4),
        Array<number>(out).fill(4),
      ]);
      for (const tensor of [x, weight, bias, value, ...gradients]) tensor.dispose();
    }
  });

  describe("each output alone has the derivatives of central differences:", () => {
    test.each(severalOutputs)("%s", async (name) => {
      await eachSample(
        name,
        async ({ outputs, floats }, count) => {
          for (let i = 0; i < count; i++) await gradcheck((...inputs) => outputs(...inputs)[i] as Tensor, floats, { order: 2 });
        },
        5,
      );
    });
  });

  describe("the gradient by one input does not depend on which others are differentiated:", () => {
    test.each(differentiable)("%s", async (name) => {
      await eachSample(
        name,
        ({ outputs, floats }) => {
          tidy(() => {
            const gradients = (watched: readonly Tensor[]): (Tensor | null)[] => {
              const recording = record(() => outputs(...floats), watched);
              return recording.reverse(recording.value.map((output) => [output, output.detach()]));
            };
            const all = gradients(floats);
            for (const [i, input] of floats.entries()) expect(gradients([input])[0]?.dataSync()).toEqual(all[i]?.dataSync());
          });
        },
        5,
      );
    });
  });

  test("one tensor at two places of a primitive counts for both", async () => {
    using x = Tensor.from(
      [
        [1, 2],
        [-1, 0.5],
        [3, -2],
      ],
      { dtype: "float64" },
    );
    using row = Tensor.from([0.5, 2], { dtype: "float64" });
    await gradcheck((z = x, v = row) => [...apply("batchNormGradient", [z, v, v, v, z], {})], [x, row], { order: 2 });
    await gradcheck((z = x) => linear(z, z), [x], { order: 2 });
    await gradcheck((z = x) => z.matmul(z, { transposeA: true }), [x], { order: 2 });
    await gradcheck((z = x) => concat([z, z.square(), z], 1), [x], { order: 2 });
  });

  describe("a power at zero", () => {
    const float64 = (data: number[]): Tensor => Tensor.from(data, { dtype: "float64" });
    const a = [0, 0, 0, 0, 2, -2, 3];
    const b = [0, 1, 2, 3, 0, 0, 2];
    // ∂a = b aᵇ⁻¹, 0 where b = 0
    const byBase = [0, 1, 0, 0, 0, 0, 6];

    test("has by its base the derivative b aᵇ⁻¹, and 0 where b = 0", () => {
      tidy(() => {
        const [x, y] = [float64(a), float64(b)];
        const [gradient] = valueAndGrad(() => x.power(y).sum(), [x]).gradients;
        expect(gradient?.dataSync()).toBeAllclose(byBase, { relative: 0 });
        for (const [exponent, derivative] of [
          [0, a.map(() => 0)],
          [1, a.map(() => 1)],
          [2, a.map((z) => 2 * z)],
        ] as const) {
          const [byNumber] = valueAndGrad(() => x.power(exponent).sum(), [x]).gradients;
          expect(byNumber?.dataSync()).toBeAllclose(derivative, { relative: 0 });
        }
      });
    });

    test("has by its exponent the derivative 0 where a = 0 and b ≥ 0, and aᵇ log a elsewhere", () => {
      tidy(() => {
        const [x, y] = [float64([0, 0, 0, 2, 3]), float64([0, 0.5, 2, 2, -1])];
        const gradient = valueAndGrad(() => x.power(y).sum(), [y]).gradients[0];
        expect(gradient?.dataSync()).toBeAllclose([0, 0, 0, 4 * Math.log(2), Math.log(3) / 3], { relative: 1e-15 });
        const negative = float64([-1]);
        expect(valueAndGrad(() => float64([0]).power(negative).sum(), [negative]).gradients[0]?.dataSync()).toEqual(
          Float64Array.of(-Infinity),
        );
      });
    });

    test("has finite second derivatives: by the base, b (b − 1) aᵇ⁻²", () => {
      tidy(() => {
        const [x, y] = [float64(a), float64(b)];
        const one = float64(a.map(() => 1));
        const [byBases] = hvp(() => x.power(y).sum(), [x], [one]);
        expect(byBases?.dataSync()).toBeAllclose(
          a.map((z, i) => (b[i] === 2 ? 2 : b[i] === 3 ? 6 * z : 0)),
          { relative: 0 },
        );
        const [byExponents] = hvp(() => x.power(y).sum(), [y], [one]);
        expect([...(byExponents?.dataSync().subarray(0, 4) ?? [])]).toEqual([0, 0, 0, 0]);
      });
    });
  });

  describe("no gradient flows through what is flat or integer:", () => {
    test.each(["equal", "less", "lessEqual", "argmax", "sign"] as const)("%s", (name) => {
      fc.assert(
        fc.property(samples[name], (sample) => {
          tidy(() => {
            const { inputs, params } = realize(sample as Sample<typeof name>, "float64");
            const recording = record(() => apply(name, inputs, params)[0].cast("float64"), inputs);
            const { value } = recording;
            expect(recording.reverse([[value, value.detach()]])).toEqual((inputs as readonly Tensor[]).map(() => null));
          });
        }),
        { numRuns: 20 },
      );
    });

    test("cast to int32 and back", () => {
      tidy(() => {
        const { inputs } = realize({ inputs: [{ kind: "float", shape: [2], values: [0.5, 1.5] }], params: { dtype: "int32" } }, "float64");
        const recording = record(() => (inputs[0] as Tensor).cast("int32").cast("float64"), inputs);
        expect(recording.calls.map(({ name }) => name)).toEqual(["cast"]);
        expect(recording.reverse([[recording.value, recording.value.detach()]])).toEqual([null]);
      });
    });

    test.each(["fill", "arange", "uniform", "normal"] as const)("%s has no inputs, hence no thunks", (name) => {
      const rule = rules[name] as unknown as { vjp(call: unknown, gradients: unknown): unknown };
      expect(rule.vjp({ inputs: [], params: {}, outputs: [{}] }, [null])).toEqual([]);
    });
  });
});

test("every primitive has a signature, a rule and a sample", () => {
  expect(sampledNames.toSorted()).toEqual(Object.keys(rules).sort());
  expect(sampledNames.toSorted()).toEqual(Object.keys(signatures).sort());
});
