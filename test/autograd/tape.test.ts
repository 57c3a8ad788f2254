import fc from "fast-check";
import { afterEach, describe, expect, test, vi } from "vitest";
import { frozen, hvp, record, undoAfterFrozen, updateState, valueAndGrad, vjp, type AnyCall } from "../../src/autograd/index.ts";
import {
  apply,
  BackendError,
  batchNorm,
  conv2d,
  defaultBackend,
  DTypeError,
  Generator,
  linear,
  maxPool2d,
  ShapeError,
  softmaxCrossEntropy,
  Tensor,
  tidy,
  untracked,
  UsageError,
  Variable,
  type NestedArray,
} from "../../src/tensor/index.ts";
import { rules } from "../../src/autograd/rules.ts";
import { openReference } from "../../src/tensor/backends/reference/index.ts";

const float64 = (data: NestedArray): Tensor => Tensor.from(data, { dtype: "float64" });
const random = (seed: number, ...shape: number[]): Tensor => new Generator(seed).normal(shape, { dtype: "float64" });
const values = (tensor: Tensor | null | undefined): number[] => [...(tensor?.dataSync() ?? [])];
const seeds = fc.nat(1000);
/** Whether `updateState` does nothing at the moment. */
function isFrozen(): boolean {
  let updated = false;
  updateState(() => void (updated = true));
  return !updated;
}

/** Runs a statement about tensors in a scope, so that nothing but the statement needs to be written. */
function holds(name: string, statement: () => void): void {
  test(name, () => tidy(statement));
}
function holdsFor(name: string, statement: (seed: number) => void, numRuns = 20): void {
  test(name, () => {
    fc.assert(
      fc.property(seeds, (seed) => tidy(() => statement(seed))),
      { numRuns },
    );
  });
}

const buffersBefore = defaultBackend().memory().buffers;
afterEach(() => {
  vi.restoreAllMocks();
  expect(defaultBackend().memory().buffers).toBe(buffersBefore);
});

describe("valueAndGrad", () => {
  holdsFor("d‖x‖² = 2x", (seed) => {
    const x = random(seed, 5);
    const { value, gradients } = valueAndGrad(() => x.square().sum(), [x]);
    expect(values(value)).toBeAllclose(values(x.square().sum()));
    expect(values(gradients[0])).toBeAllclose(values(x.multiply(2)), { relative: 1e-15 });
  });

  holdsFor("d ⟨x, A x⟩ = (A + Aᵀ) x, and by A it is x xᵀ", (seed) => {
    const [a, x] = [random(seed, 4, 4), random(seed + 1, 4, 1)];
    const { gradients } = valueAndGrad(() => x.multiply(a.matmul(x)).sum(), [x, a]);
    expect(values(gradients[0])).toBeAllclose(values(a.add(a.transpose()).matmul(x)), { relative: 1e-13 });
    expect(values(gradients[1])).toBeAllclose(values(x.matmul(x, { transposeB: true })), { relative: 1e-13 });
  });

  holdsFor("the gradient of log Σ exp is the softmax", (seed) => {
    const x = random(seed, 6);
    const { gradients } = valueAndGrad(() => x.exp().sum().log(), [x]);
    expect(values(gradients[0])).toBeAllclose(values(x.softmax()), { relative: 1e-13 });
  });

  holds("a parameter that does not matter has gradient zero, of its own shape", () => {
    const [x, y] = [float64([1, 2]), float64([[3], [4]])];
    const { gradients } = valueAndGrad(() => x.sum(), [x, y]);
    expect(gradients[1]?.shape).toEqual([2, 1]);
    expect(values(gradients[1])).toEqual([0, 0]);
  });

  holds("variables are differentiated like tensors", () => {
    const v = new Variable("v", float64([1, 2, 3]));
    const { gradients } = valueAndGrad(() => v.value.square().sum(), [v]);
    expect(values(gradients[0])).toEqual([2, 4, 6]);
    v.dispose();
  });

  holds("x · x, the same tensor twice in one call, counts twice", () => {
    const x = float64([3, -1]);
    const { gradients } = valueAndGrad(() => apply("multiply", [x, x], {})[0].sum(), [x]);
    expect(values(gradients[0])).toEqual([6, -2]);
  });

  holds("another handle of the same value is the same value", () => {
    const x = float64([3, -1]);
    const { gradients } = valueAndGrad(() => x.keep().multiply(x).sum(), [x]);
    expect(values(gradients[0])).toEqual([6, -2]);
  });

  holds("a detached value is a constant", () => {
    const x = float64([3, -1]);
    const { gradients } = valueAndGrad(() => x.detach().multiply(x).sum(), [x]);
    expect(values(gradients[0])).toEqual([3, -1]);
  });

  holds("what runs untracked is a constant", () => {
    const x = float64([3, -1]);
    const { gradients } = valueAndGrad(
      () =>
        untracked(() => x.multiply(x))
          .multiply(x)
          .sum(),
      [x],
    );
    expect(values(gradients[0])).toEqual([9, 1]);
  });

  holdsFor("tidies inside the function change neither value nor gradient", (seed) => {
    const [x, w] = [random(seed, 3, 4), random(seed + 1, 2, 4)];
    const plain = valueAndGrad(() => linear(x.tanh(), w).exp().sum(), [x, w]);
    const tidied = valueAndGrad(
      () =>
        tidy(() =>
          tidy(() =>
            linear(
              tidy(() => x.tanh()),
              w,
            ),
          )
            .exp()
            .sum(),
        ),
      [x, w],
    );
    expect(values(tidied.value)).toEqual(values(plain.value));
    expect(tidied.gradients.map(values)).toEqual(plain.gradients.map(values));
  });

  holdsFor("a derivative taken inside and not used changes nothing", (seed) => {
    const x = random(seed, 4);
    const plain = valueAndGrad(() => x.sin().sum(), [x]);
    const nested = valueAndGrad(() => {
      const y = x.sin();
      valueAndGrad(() => y.multiply(x).sum(), [x, y]);
      return y.sum();
    }, [x]);
    expect(nested.gradients.map(values)).toEqual(plain.gradients.map(values));
  });

  holds("donating an intermediate value does not change what the tape recorded", () => {
    const [x, b] = [float64([1, 2]), float64([3, 5])];
    const { value, gradients } = valueAndGrad(() => {
      const y = x.multiply(2);
      return apply("multiply", [y, b], {}, { donate: [0] })[0].sum(); // y belongs to nobody else
    }, [x, b]);
    expect(values(value)).toEqual([26]);
    expect(gradients.map(values)).toEqual([
      [6, 10],
      [2, 4],
    ]);
  });

  holds("refuses a function whose value is not a single floating number", () => {
    const x = float64([1, 2]);
    expect(() => valueAndGrad(() => x.exp(), [x])).toThrow(ShapeError);
    expect(() => valueAndGrad(() => x.exp(), [x])).toThrow(/single number but returned \[2\]/);
    expect(() => valueAndGrad(() => x.sum().cast("int32"), [x])).toThrow(/floating tensor but returned int32/);
    expect(() => valueAndGrad((() => 3) as unknown as () => Tensor, [x])).toThrow(UsageError);
  });

  holds("refuses a function that returns a Promise", () => {
    const x = float64([1, 2]);
    const later = (() => Promise.resolve(x.sum())) as unknown as () => Tensor;
    expect(() => valueAndGrad(later, [x])).toThrow(UsageError);
    expect(() => valueAndGrad(later, [x])).toThrow(/Promise/);
  });

  holds("a function that throws leaves nothing behind", () => {
    const x = float64([1, 2]);
    const failing = (): Tensor => {
      const y = x.exp().log();
      throw new Error(`after ${y.size} elements`);
    };
    expect(() => {
      expect(() => valueAndGrad(failing, [x])).toThrow("after 2 elements");
      expect(() => hvp(failing, [x], [x])).toThrow("after 2 elements");
    }).toHaveNoLeaks();
    expect(isFrozen()).toBe(false);
    expect(values(valueAndGrad(() => x.sum(), [x]).gradients[0])).toEqual([1, 1]);
  });

  holds("gives handles of the caller's own, even if the function returns its argument or a variable's value", () => {
    const [x, v] = [float64(3), new Variable("v", float64(2))];
    for (const [f, params] of [
      [() => x, [x]],
      [() => v.value, [v]],
      [() => x.keep(), [x]],
      [() => tidy(() => x.exp()), [x]],
    ] as const) {
      const { value, gradients } = valueAndGrad(f, params);
      expect(value === x || value === v.value).toBe(false);
      for (const tensor of [value, ...gradients]) tensor.dispose();
    }
    expect([x.isDisposed, v.value.isDisposed]).toEqual([false, false]);
    v.dispose();
  });

  test("outside of every scope, only what it returns is left to dispose", () => {
    expect(() => {
      using x = float64([1, 2]);
      const { value, gradients } = valueAndGrad(() => x.square().add(x.exp()).sum(), [x]);
      for (const tensor of [value, ...gradients]) tensor.dispose();
    }).toHaveNoLeaks();
  });
});

describe("vjp", () => {
  holdsFor("for f(x) = A x it is Aᵀ v", (seed) => {
    const [a, x, v] = [random(seed, 3, 4), random(seed + 1, 4, 2), random(seed + 2, 3, 2)];
    const { outputs, gradients } = vjp((z) => a.matmul(z), [x], [v]);
    expect(values(outputs[0])).toEqual(values(a.matmul(x)));
    expect(values(gradients[0])).toBeAllclose(values(a.matmul(v, { transposeA: true })), { relative: 1e-14 });
  });

  holdsFor("over several outputs it is the sum of those over each", (seed) => {
    const [x, u, v] = [random(seed, 4), random(seed + 1, 4), random(seed + 2, 4)];
    const f = (z = x): Tensor[] => [z.sin(), z.multiply(z)];
    const both = vjp(f, [x], [u, v]).gradients[0];
    expect(values(both)).toBeAllclose(values(u.multiply(x.cos()).add(v.multiply(x).multiply(2))), { relative: 1e-14 });
  });

  holds("a tensor given twice is two inputs", () => {
    const x = float64([2, 3]);
    const one = float64([1, 1]);
    const f = (a = x, b = x): Tensor => a.multiply(a).multiply(b);
    expect(vjp(f, [x, x], [one]).gradients.map(values)).toEqual([
      [8, 18],
      [4, 9],
    ]);
    expect(vjp(f, [x, x.keep()], [one]).gradients.map(values)).toEqual([
      [8, 18],
      [4, 9],
    ]);
  });

  holds("a tensor given twice is differentiated through by an outer tape", () => {
    const x = float64([2, 3]);
    // By a of a²b at a = b = x: 2x², whose derivative is 4x.
    const { gradients } = valueAndGrad(
      () => (vjp((a = x, b = x) => a.multiply(a).multiply(b), [x, x], [float64([1, 1])]).gradients[0] as Tensor).sum(),
      [x],
    );
    expect(values(gradients[0])).toEqual([8, 12]);
  });

  holds("refuses another number of vectors than outputs, and a vector of another shape", () => {
    const x = float64([2, 3]);
    expect(() => vjp((z = x) => z.exp(), [x], [])).toThrow(UsageError);
    expect(() => vjp((z = x) => z.exp(), [x], [float64([1])])).toThrow(ShapeError);
    expect(() => vjp((z = x) => z.exp(), [x], [float64([1])])).toThrow(/a seed is \[1\] but its value is \[2\]/);
  });

  holds("gives handles of the caller's own, even if the function returns its arguments", () => {
    const [x, one] = [float64([2, 3]), float64([1, 1])];
    for (const inputs of [[x], [x, x]]) {
      const { outputs, gradients } = vjp(
        (...all) => all,
        inputs,
        inputs.map(() => one),
      );
      expect(outputs.map(values)).toEqual(inputs.map(values));
      for (const tensor of [...outputs, ...gradients]) tensor.dispose();
    }
    expect([x.isDisposed, one.isDisposed]).toEqual([false, false]);
  });

  holds("refuses a function that returns a Promise", () => {
    const x = float64([2]);
    expect(() => vjp((() => Promise.resolve(x)) as unknown as () => Tensor, [x], [x])).toThrow(/vjp: the function returned a Promise/);
  });
});

describe("hvp", () => {
  holdsFor("of ½ ⟨x, A x⟩ with symmetric A is A v", (seed) => {
    const [half, x, v] = [random(seed, 4, 4), random(seed + 1, 4, 1), random(seed + 2, 4, 1)];
    const a = half.add(half.transpose());
    const [product] = hvp(() => x.multiply(a.matmul(x)).sum().multiply(0.5), [x], [v]);
    expect(values(product)).toBeAllclose(values(a.matmul(v)), { relative: 1e-13 });
  });

  holdsFor("of Rosenbrock's function is its Hessian times v", (seed) => {
    const draws = values(random(seed, 4));
    const [p, q, u, w] = draws as [number, number, number, number];
    const [x, y] = [float64(p), float64(q)];
    const f = (): Tensor => x.negative().add(1).square().add(y.subtract(x.square()).square().multiply(100));
    const product = hvp(f, [x, y], [float64(u), float64(w)]);
    const hessian = [
      [1200 * p * p - 400 * q + 2, -400 * p],
      [-400 * p, 200],
    ] as const;
    expect(product.flatMap(values)).toBeAllclose(
      hessian.map(([a, b]) => a * u + b * w),
      { relative: 1e-12 },
    );
  });

  holdsFor("is symmetric: ⟨u, H v⟩ = ⟨v, H u⟩", (seed) => {
    const [x, u, v] = [random(seed, 5), random(seed + 1, 5), random(seed + 2, 5)];
    const f = (): Tensor => x.square().sum().sqrt().multiply(x.sin().sum()).add(x.softmax().multiply(x).sum());
    const product = (a: Tensor, b: Tensor): Tensor => a.multiply(hvp(f, [x], [b])[0] as Tensor).sum();
    expect(values(product(u, v))).toBeAllclose(values(product(v, u)), { relative: 1e-12 });
  });

  holds("of a linear function is zero", () => {
    const x = float64([1, 2]);
    expect(hvp(() => x.sum(), [x], [x]).map(values)).toEqual([[0, 0]]);
  });

  holds("refuses another number of vectors than parameters", () => {
    const x = float64([1, 2]);
    expect(() => hvp(() => x.sum(), [x], [])).toThrow(/1 parameters but 0 vectors/);
  });

  holds("by nothing is nothing", () => {
    const x = float64([1, 2]);
    expect(hvp(() => x.sum(), [], [])).toEqual([]);
  });

  holds("refuses a vector of another shape (even one that would broadcast), type or backend than its parameter", () => {
    const [x, v] = [float64([1, 2]), new Variable("v", float64([3]))];
    const product = (second: Tensor) => () => hvp(() => x.square().sum(), [x, v], [x, second]);
    expect(product(float64(1))).toThrow(ShapeError);
    expect(product(float64(1))).toThrow(/hvp: vector 1 is \[\] but its parameter is \[1\]/);
    expect(product(Tensor.from([1]))).toThrow(DTypeError);
    expect(product(Tensor.from([1]))).toThrow(/hvp: vector 1 is float32 but its parameter is float64/);
    const elsewhere = Tensor.from([1], { dtype: "float64", backend: openReference() });
    expect(product(elsewhere)).toThrow(BackendError);
    expect(product(elsewhere)).toThrow(/hvp: vector 1 lives on/);
    v.dispose();
  });

  holds("refuses a function that returns a Promise, by name", () => {
    const x = float64([1]);
    const later = (() => Promise.resolve(x.sum())) as unknown as () => Tensor;
    expect(() => hvp(later, [x], [x])).toThrow(/returned a Promise/);
    expect(isFrozen()).toBe(false);
  });

  const network = smallNetwork();
  holdsFor(
    "of convolution, batch norm, ReLU, max pooling, linear and cross-entropy equals differences of gradients",
    (seed) => {
      const { parameters, loss } = network(seed);
      const directions = parameters.map(({ shape }, i) => random(seed + 100 + i, ...shape));
      const product = hvp(loss(parameters), parameters, directions);
      const h = 1e-5;
      const gradientsAt = (t: number): Tensor[] => {
        const moved = parameters.map((p, i) => p.add((directions[i] as Tensor).multiply(t)));
        return valueAndGrad(loss(moved), moved).gradients;
      };
      const [ahead, behind] = [gradientsAt(h), gradientsAt(-h)];
      const differences = ahead.map((gradient, i) => gradient.subtract(behind[i] as Tensor).divide(2 * h));
      expect(product.flatMap(values)).toBeAllclose(differences.flatMap(values), { relative: 1e-6 });
    },
    5,
  );
});

/** A network on six 6 × 6 images with three classes; its loss as a function of its parameters. */
function smallNetwork() {
  return (seed: number) => {
    const x = random(seed, 6, 6, 6, 2);
    const labels = Tensor.from(Int32Array.of(0, 1, 2, 2, 1, 0));
    const parameters = [
      random(seed + 1, 3, 3, 3, 2),
      random(seed + 2, 3),
      random(seed + 3, 3),
      random(seed + 4, 3, 12),
      random(seed + 5, 3),
    ];
    const loss = (at: readonly Tensor[]) => (): Tensor => {
      const [kernel, scale, shift, weight, bias] = at as [Tensor, Tensor, Tensor, Tensor, Tensor];
      const normal = batchNorm(conv2d(x, kernel, null, { stride: 1, padding: 0 }), scale, shift).y;
      const features = maxPool2d(normal.relu(), 2).reshape([6, 12]);
      return softmaxCrossEntropy(linear(features, weight, bias), labels, { smoothing: 0.1 }).mean();
    };
    return { parameters, loss };
  };
}

describe("nested derivatives", () => {
  holdsFor("the third derivative of x⁵ is 60 x²", (seed) => {
    const x = random(seed);
    const derivative = (f: () => Tensor) => (): Tensor => valueAndGrad(f, [x]).gradients[0] as Tensor;
    const fifth = (): Tensor => x.power(5);
    expect(values(derivative(derivative(derivative(fifth)))())).toBeAllclose(values(x.square().multiply(60)), { relative: 1e-12 });
  });

  holdsFor("an outer tape sees through an inner one: d/dy of d/dx (x² y) is 2x", (seed) => {
    const [x, y] = [random(seed), random(seed + 1)];
    const inner = (): Tensor => valueAndGrad(() => x.square().multiply(y), [x]).gradients[0] as Tensor;
    expect(values(valueAndGrad(inner, [y]).gradients[0])).toBeAllclose(values(x.multiply(2)), { relative: 1e-14 });
  });

  holdsFor("the value of an inner derivative is differentiable too", (seed) => {
    const x = random(seed, 3);
    const inner = (): Tensor => valueAndGrad(() => x.sin().sum(), [x]).value.square();
    const expected = x.sin().sum().multiply(2).multiply(x.cos());
    expect(values(valueAndGrad(inner, [x]).gradients[0])).toBeAllclose(values(expected), { relative: 1e-13 });
  });
});

describe("a recording", () => {
  holdsFor("reversed again gives the same gradients, and for other seeds others", (seed) => {
    const [x, u] = [random(seed, 3), random(seed + 1, 3)];
    using recording = record(() => x.exp().multiply(x), [x]);
    const y = recording.value;
    const [first] = recording.reverse([[y, u]], { again: true });
    const [twice] = recording.reverse([[y, u.multiply(2)]], { again: true });
    const [last] = recording.reverse([[y, u]]);
    expect(values(last)).toEqual(values(first));
    expect(values(twice)).toBeAllclose(values(first?.multiply(2)), { relative: 1e-15 });
    expect(() => recording.reverse([[y, u]])).toThrow(UsageError);
  });

  holds("takes seeds at intermediate values, several at one value, and adds them up", () => {
    const x = float64([1, 2]);
    const recording = record(() => {
      const y = x.square();
      return { y, z: y.multiply(3) };
    }, [x]);
    const { y, z } = recording.value;
    const one = float64([1, 1]);
    expect(values(recording.reverse([[y, one]], { again: true })[0])).toEqual([2, 4]);
    expect(
      values(
        recording.reverse(
          [
            [y, one],
            [z, one],
          ],
          { again: true },
        )[0],
      ),
    ).toEqual([8, 16]);
    expect(
      values(
        recording.reverse([
          [y, one],
          [y, one],
          [y, one],
        ])[0],
      ),
    ).toEqual([6, 12]);
  });

  test("adds several seeds at one value without leaving a buffer behind", () => {
    expect(() => {
      using x = float64([1, 2]);
      using recording = record(() => x.square(), [x]);
      using y = recording.value;
      const [gradient] = recording.reverse([
        [y, x],
        [y, x],
        [y, x],
      ]);
      gradient?.dispose();
    }).toHaveNoLeaks();
  });

  holds("gives null where no seed depends on a watched value", () => {
    const [x, y] = [float64([1]), float64([2])];
    const recording = record(() => x.exp(), [x, y]);
    expect(recording.reverse([[recording.value, y]]).map((g) => g && values(g))).toEqual([[2 * Math.E], null]);
  });

  holds("gives seeds back for a function that returns its input", () => {
    const x = float64([1, 2]);
    const recording = record(() => x, [x]);
    expect(values(recording.reverse([[x, float64([5, 7])]])[0])).toEqual([5, 7]);
    expect(x.isDisposed).toBe(false);
  });

  holds("takes no seed of another type or backend than its value's, be it a result, in between, or watched", () => {
    const x = float64([1, 2]);
    for (const pick of [0, 1, 2]) {
      using recording = record(() => {
        const y = x.exp();
        return [y, y.sin(), x] as const;
      }, [x]);
      const value = recording.value[pick] as Tensor;
      const reverse = (seed: Tensor) => () => recording.reverse([[{ id: value.id, shape: value.shape }, seed]], { again: true });
      expect(reverse(Tensor.from([1, 1]))).toThrow(DTypeError);
      expect(reverse(Tensor.from([1, 1]))).toThrow(/a seed is float32 but its value is float64; use cast/);
      expect(reverse(Tensor.ones([2], { dtype: "float64", backend: openReference() }))).toThrow(BackendError);
      expect(reverse(float64([1, 1]))).not.toThrow();
    }
  });

  test("a rule or observer that throws leaves nothing behind", () => {
    const seed = float64([1, 2]);
    expect(() => {
      using x = float64([1, 2]);
      using recording = record(() => x.exp().sin().multiply(x), [x]);
      using y = recording.value;
      const failing = (): never => {
        throw new Error("in the observer");
      };
      expect(() => recording.reverse([[y, seed]], { observe: failing, again: true })).toThrow("in the observer");
      const spy = vi.spyOn(rules.sin as Extract<(typeof rules)["sin"], { vjp: unknown }>, "vjp").mockImplementation(failing);
      expect(() => recording.reverse([[y, seed]])).toThrow("in the observer");
      spy.mockRestore();
    }).toHaveNoLeaks();
    seed.dispose();
  });

  holds("keeps only the calls that depend on what is watched", () => {
    const [x, y] = [float64([1]), float64([2])];
    using recording = record(() => x.exp().add(y.sin().cos()), [x]);
    expect(recording.calls.map(({ name }) => name)).toEqual(["exp", "add"]);
  });

  holds("keeps only the values that its rules read", () => {
    const x = float64([1, 2]);
    using recording = record(() => x.add(1).exp(), [x]);
    const [add, exp] = recording.calls as [AnyCall, AnyCall];
    expect(add.inputs[0]?.shape).toEqual([2]);
    expect(() => add.inputs[0]?.value).toThrow(UsageError);
    expect(() => add.inputs[0]?.value).toThrow(/add read a value \[2\] that the tape does not hold/);
    expect(() => exp.inputs[0]?.value).toThrow(UsageError);
    expect(values(exp.outputs[0]?.value)).toBeAllclose([Math.exp(2), Math.exp(3)]);
  });

  holds("cannot be read after it was released", () => {
    const x = float64([1, 2]);
    const recording = record(() => x.exp(), [x]);
    const { outputs } = recording.calls[0] as AnyCall;
    recording.dispose();
    expect(() => outputs[0]?.value).toThrow(UsageError);
    expect(() => recording.reverse([])).toThrow(/released/);
  });

  test("that is disposed without a reverse pass leaves nothing behind", () => {
    expect(() => {
      using x = float64([1, 2]);
      using recording = record(() => x.exp().sin().multiply(x), [x]);
      recording.value.dispose();
    }).toHaveNoLeaks();
  });
});

describe("an observer", () => {
  holds("sees each call with the gradients of its outputs, last call first", () => {
    const x = float64([1, 2]);
    const seen: unknown[] = [];
    valueAndGrad(() => x.multiply(3).square().sum(), [x], {
      observe: ({ name }, gradients) => seen.push([name, ...gradients.map((g) => g && values(g))]),
    });
    expect(seen).toEqual([
      ["sum", [1]],
      ["multiply", [1, 1]],
      ["multiply", [6, 12]],
    ]);
  });

  holds("sees null for an output that nobody used", () => {
    const [x, one] = [random(1, 5, 2), float64([1, 1])];
    const seen: boolean[][] = [];
    valueAndGrad(() => batchNorm(x, one, one).rstd.sum(), [x], {
      observe: ({ name }, gradients) => name === "batchNorm" && seen.push(gradients.map((g) => g !== null)),
    });
    expect(seen).toEqual([[false, false, true]]);
  });

  holds("does not see calls that no seed depends on", () => {
    const x = float64([1, 2]);
    const seen: string[] = [];
    const recording = record(() => [x.exp(), x.sin()] as const, [x]);
    recording.reverse([[recording.value[0], x]], { observe: ({ name }) => seen.push(name) });
    expect(seen).toEqual(["exp"]);
  });

  holds("reads the input and output gradient of a layer: their product is the weight's gradient", () => {
    const [x, w] = [random(1, 5, 3), random(2, 2, 3)];
    let product: Tensor | undefined;
    const { gradients } = valueAndGrad(() => linear(x, w).square().sum(), [w], {
      observe: ({ name, inputs: [input] }, [g]) => {
        if (name === "linear") product = g?.matmul(input?.value as Tensor, { transposeA: true }).hold();
      },
    });
    expect(values(product)).toEqual(values(gradients[0]));
    product?.dispose();
  });

  holds("alone, with no gradients of what is watched, sees what it sees otherwise and saves the work", () => {
    const [x, first, second] = [random(1, 2, 5, 5, 1), random(2, 2, 3, 3, 1), random(3, 2, 3, 3, 2)];
    const seenBy = (options: { observeOnly?: boolean }): { seen: unknown[]; gradients: (Tensor | null)[] } => {
      const seen: unknown[] = [];
      const recording = record(() => conv2d(conv2d(x, first).tanh(), second), [first, second]);
      const { value } = recording;
      const observe = ({ name }: AnyCall, gradients: readonly (Tensor | null)[]): void => void seen.push([name, gradients.map(values)]);
      return { gradients: recording.reverse([[value, value.detach()]], { observe, ...options }), seen };
    };
    const run = vi.spyOn(defaultBackend(), "run");
    const only = seenBy({ observeOnly: true });
    expect(run.mock.calls.map(([name]) => name)).not.toContain("conv2dWeightGradient");
    run.mockRestore();
    expect(only.gradients).toEqual([null, null]);
    expect(only.seen).toEqual(seenBy({}).seen);
  });

  holds("runs untracked, even when an outer tape records the reverse pass", () => {
    const x = float64([1, 2]);
    const names = (observe: (call: AnyCall) => void): string[] => {
      using outer = record(() => valueAndGrad(() => x.square().sum(), [x], { observe }).gradients, [x]);
      return outer.calls.map(({ name }) => name);
    };
    expect(names(() => void x.sin().cos())).toEqual(names(() => undefined));
  });
});

describe("work that nobody needs is not done:", () => {
  /** How often each kernel runs in `f`. */
  function kernels(f: () => void): Map<string, number> {
    const spy = vi.spyOn(defaultBackend(), "run");
    f();
    const counts = new Map<string, number>();
    for (const [name] of spy.mock.calls) counts.set(name, (counts.get(name) ?? 0) + 1);
    spy.mockRestore();
    return counts;
  }

  holds("a first layer computes no gradient of its input", () => {
    const [x, first, second] = [random(1, 2, 5, 5, 1), random(2, 2, 3, 3, 1), random(3, 2, 3, 3, 2)];
    const counts = kernels(() => valueAndGrad(() => conv2d(conv2d(x, first).relu(), second).sum(), [first, second]));
    expect(counts.get("conv2d")).toBe(2);
    expect(counts.get("conv2dWeightGradient")).toBe(2);
    expect(counts.get("conv2dInputGradient")).toBe(1);
  });

  holds("a frozen weight computes no gradient of itself", () => {
    const [x, first, second] = [random(1, 2, 5, 5, 1), random(2, 2, 3, 3, 1), random(3, 2, 3, 3, 2)];
    const counts = kernels(() => valueAndGrad(() => conv2d(conv2d(x, first).relu(), second).sum(), [first]));
    expect(counts.get("conv2dWeightGradient")).toBe(1);
    expect(counts.get("conv2dInputGradient")).toBe(1);
  });

  holds("one fused kernel gives the three gradients of batch norm", () => {
    const [x, scale, shift] = [random(1, 5, 2), random(2, 2), random(3, 2)];
    const counts = kernels(() => valueAndGrad(() => batchNorm(x, scale, shift).y.square().sum(), [x, scale, shift]));
    expect(counts.get("batchNormGradient")).toBe(1);
  });
});

describe("state", () => {
  holds("updateState runs its function unrecorded", () => {
    const x = float64([2]);
    let updated: number[] = [];
    using recording = record(() => {
      const y = x.exp();
      updateState(() => void (updated = values(y.multiply(x))));
      return y;
    }, [x]);
    expect(updated).toBeAllclose([2 * Math.exp(2)]);
    expect(recording.calls.map(({ name }) => name)).toEqual(["exp"]);
  });

  holds("inside frozen, and inside hvp, updateState does nothing", () => {
    const x = float64([2]);
    let updates = 0;
    const f = (): Tensor => {
      updateState(() => {
        updates++;
      });
      return x.exp().sum();
    };
    frozen(() => frozen(f));
    hvp(f, [x], [x]);
    expect(updates).toBe(0);
    valueAndGrad(f, [x]);
    expect(updates).toBe(1);
  });

  holds("what must be undone is undone as the innermost frozen ends, last first, also after an exception", () => {
    const log: string[] = [];
    const note = (text: string) => () => void log.push(text);
    undoAfterFrozen(note("never"));
    frozen(() => {
      undoAfterFrozen(note("outer"));
      const failing = (): never => {
        undoAfterFrozen(note("first"));
        undoAfterFrozen(note("second"));
        throw new Error("inside");
      };
      expect(() => frozen(failing)).toThrow("inside");
      expect(log).toEqual(["second", "first"]);
    });
    expect(log).toEqual(["second", "first", "outer"]);
  });

  holds("frozen, untracked and updateState refuse asynchronous functions, which would run on after they ended", () => {
    const later = (): unknown => Promise.resolve();
    for (const call of [() => frozen(later), () => untracked(later), () => updateState(later)]) {
      expect(call).toThrow(UsageError);
      expect(call).toThrow(/returned a Promise/);
      expect(isFrozen()).toBe(false);
    }
  });

  test("frozen ends with an exception", () => {
    expect(() =>
      frozen(() => {
        throw new Error("inside");
      }),
    ).toThrow("inside");
    expect(isFrozen()).toBe(false);
  });

  holds("a variable that an open tape differentiates cannot be assigned, hidden or not", () => {
    const v = new Variable("weight", float64([1, 2]));
    const assign = (): void => v.assign(float64([3, 4]));
    for (const during of [assign, () => updateState(assign), () => untracked(assign)]) {
      const f = (): Tensor => {
        during();
        return v.value.sum();
      };
      expect(() => valueAndGrad(f, [v])).toThrow(UsageError);
      expect(() => valueAndGrad(f, [v])).toThrow(/"weight" is being differentiated/);
    }
    expect(values(v.value)).toEqual([1, 2]);
    assign();
    expect(values(v.value)).toEqual([3, 4]);
    v.dispose();
  });

  holds("a variable that is not differentiated may be assigned, and the tape keeps the value it saw", () => {
    const [x, state] = [float64([2, 3]), new Variable("mean", float64([5, 7]))];
    const { gradients } = valueAndGrad(() => {
      const y = x.multiply(state.value);
      updateState(() => state.assign(float64([0, 0])));
      return y.sum();
    }, [x]);
    expect(values(gradients[0])).toEqual([5, 7]);
    expect(values(state.value)).toEqual([0, 0]);
    state.dispose();
  });
});

describe("memory", () => {
  // Activations 256 times as large as weights: bytes count activations.
  const [rows, width, depth] = [4096, 16, 20];
  const activation = rows * width * 4;

  test("a stack of 20 × (linear, batch norm, ReLU) peaks below 48 activations, and leaves none", () => {
    const backend = defaultBackend();
    expect(() => {
      tidy(() => {
        const generator = new Generator(1);
        const x = generator.normal([rows, width]);
        const layers = Array.from({ length: depth }, () => ({
          weight: generator.normal([width, width]),
          scale: Tensor.ones([width]),
          shift: Tensor.zeros([width]),
        }));
        const parameters = layers.flatMap(({ weight, scale, shift }) => [weight, scale, shift]);
        const forward = (): Tensor => {
          let h = x;
          for (const { weight, scale, shift } of layers) h = tidy(() => batchNorm(linear(h, weight), scale, shift).y.relu());
          return h.square().mean();
        };
        const { bytes } = backend.memory();
        backend.resetPeak();
        const recording = record(forward, parameters);
        const afterForward = backend.memory();
        // What each layer's rules read: the input of batch norm, and the output of ReLU, which is the next linear's input.
        expect((afterForward.bytes - bytes) / activation).toBeLessThan(2 * depth + 2);
        recording.reverse([[recording.value, Tensor.ones([])]]);
        const { peakBytes, bytes: after } = backend.memory();
        // Two a layer from the forward pass, and four at work in the reverse pass.
        expect((peakBytes - bytes) / activation).toBeLessThan(48);
        expect((after - bytes) / activation).toBeLessThan(1);
      });
    }).toHaveNoLeaks();
  });
});
