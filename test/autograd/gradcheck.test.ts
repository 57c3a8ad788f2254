import { afterEach, describe, expect, test } from "vitest";
import { gradcheck, updateState } from "../../src/autograd/index.ts";
import { defaultBackend, Generator, linear, NumericalError, Tensor, UsageError } from "../../src/tensor/index.ts";

const float64 = (data: number[]): Tensor => Tensor.from(data, { dtype: "float64" });

const buffersBefore = defaultBackend().memory().buffers;
afterEach(() => expect(defaultBackend().memory().buffers).toBe(buffersBefore));

describe("gradcheck", () => {
  test("accepts a right derivative, and says how near it is", async () => {
    using x = float64([0.3, -1.2]);
    expect(await gradcheck((z = x) => z.sin().multiply(z), [x], { order: 2 })).toBeLessThan(1e-8);
  });

  test("accepts a function of two inputs with two outputs", async () => {
    const generator = new Generator(1);
    using x = generator.normal([3, 4], { dtype: "float64" });
    using w = generator.normal([2, 4], { dtype: "float64" });
    const f = (a = x, b = w): Tensor[] => [linear(a, b).tanh(), a.exp().sum(1)];
    expect(await gradcheck(f, [x, w], { order: 2 })).toBeLessThan(1e-7);
  });

  test("finds a factor that the derivative forgot", async () => {
    using x = float64([1, 2]);
    // z · detach(z) has the value z² but the derivative z.
    const wrong = gradcheck((z = x) => z.multiply(z.detach()), [x]);
    await expect(wrong).rejects.toThrow(NumericalError);
    await expect(wrong).rejects.toThrow(/gradient with respect to input 0 differs at element 0/);
  });

  test("finds the wrong one among several inputs and elements", async () => {
    using x = float64([1, 2]);
    using y = float64([1, 2, 3]);
    const f = (a = x, b = y): Tensor => {
      const tail = b.slice([2], [1]);
      return a.sum().add(b.sum()).add(tail.detach().square().subtract(tail.square()));
    };
    await expect(gradcheck(f, [x, y])).rejects.toThrow(/input 1 differs at element 2/);
  });

  test("finds the wrong one among two outputs", async () => {
    using x = float64([1, 2]);
    await expect(gradcheck((z = x) => [z.exp(), z.sin().add(z.detach())], [x])).rejects.toThrow(NumericalError);
  });

  test("finds a right gradient whose own derivative is wrong, at second order only", async () => {
    using x = float64([1, 2]);
    // z d − ½ d² with d = detach(z) has the value ½ z² and the derivative d, which is right; but that of d is 0 instead of 1.
    const f = (z = x): Tensor => z.multiply(z.detach()).subtract(z.detach().square().multiply(0.5));
    await expect(gradcheck(f, [x], { order: 1 })).resolves.toBeLessThan(1e-6);
    await expect(gradcheck(f, [x], { order: 2 })).rejects.toThrow(/second derivative/);
  });

  test("accepts by tolerance", async () => {
    using x = float64([1]);
    const slightlyWrong = (z = x): Tensor => z.add(z.detach().multiply(1e-4));
    await expect(gradcheck(slightlyWrong, [x])).rejects.toThrow(NumericalError);
    await expect(gradcheck(slightlyWrong, [x], { tolerance: 1e-3 })).resolves.toBeLessThan(1e-3);
  });

  test("measures each input by its own derivatives: large ones of another hide nothing", async () => {
    using x = float64([1, 2]);
    using y = float64([1, 2]);
    const f = (a = x, b = y): Tensor => a.sum().multiply(1e7).add(b.sum()).add(b.detach().sum().multiply(1e-3));
    await expect(gradcheck(f, [x, y])).rejects.toThrow(/input 1 differs at element 0/);
  });

  test("leaves nothing behind when a later evaluation fails", async () => {
    using x = float64([1, 2]);
    let calls = 0;
    const failing = (z = x): Tensor => {
      if (++calls > 3) throw new Error("no more");
      return z.exp();
    };
    await expect(gradcheck(failing, [x])).rejects.toThrow("no more"); // afterEach counts the buffers
  });

  test("refuses NaN", async () => {
    using x = float64([-1]);
    await expect(gradcheck((z = x) => z.log(), [x])).rejects.toThrow(NumericalError);
  });

  test("refuses float32 and int32 inputs", async () => {
    using single = Tensor.from([1, 2]);
    await expect(gradcheck((z = single) => z.exp(), [single])).rejects.toThrow(UsageError);
    await expect(gradcheck((z = single) => z.exp(), [single])).rejects.toThrow(/inputs must be float64 but one is float32/);
  });

  test("evaluates the function with its state frozen, and leaves it as it was", async () => {
    using x = float64([1, 2]);
    let updates = 0;
    const f = (z = x): Tensor => {
      updateState(() => {
        updates++;
      });
      return z.exp();
    };
    await gradcheck(f, [x], { order: 2 });
    expect(updates).toBe(0);
    f().dispose();
    expect(updates).toBe(1);
  });
});
