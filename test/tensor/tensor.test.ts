import fc from "fast-check";
import ndarray, { type NdArray } from "ndarray";
import { afterEach, describe, expect, test } from "vitest";
import {
  averagePool2d,
  concat,
  conv2d,
  defaultBackend,
  DTypeError,
  Generator,
  maxPool2d,
  ShapeError,
  sizeOf,
  softmaxCrossEntropy,
  Tensor,
  tidy,
  Variable,
  where,
  windowOutput,
  type DType,
  type Shape,
} from "../../src/tensor/index.ts";
import { openReference } from "../../src/tensor/backends/reference/index.ts";
import { shapes } from "../arbitraries/shapes.ts";

const values = (tensor: Tensor): number[] => [...tensor.dataSync()];
/** Runs a statement in a scope. */
function holds(name: string, statement: () => void): void {
  test(name, () => tidy(statement));
}
const float64 = { dtype: "float64" } as const;

const atStart = defaultBackend().memory().buffers;
afterEach(() => {
  expect(defaultBackend().memory().buffers).toBe(atStart);
});

describe("Tensor.from", () => {
  holds("a number is a scalar", () => {
    const x = Tensor.from(3);
    expect(x.shape).toEqual([]);
    expect([x.rank, x.size, x.dtype]).toEqual([0, 1, "float32"]);
    expect(values(x)).toEqual([3]);
  });

  holds("nested arrays give their shape, empty ones too", () => {
    expect(
      Tensor.from([
        [
          [1, 2],
          [3, 4],
          [5, 6],
        ],
      ]).shape,
    ).toEqual([1, 3, 2]);
    expect(Tensor.from([]).shape).toEqual([0]);
    expect(Tensor.from([[], []]).shape).toEqual([2, 0]);
  });

  test("of the nested rows of an array is the array", () => {
    const nest = (data: readonly number[], shape: Shape): unknown => {
      const [extent, ...rest] = shape;
      if (extent === undefined) return data[0];
      const size = sizeOf(rest);
      return Array.from({ length: extent }, (_, i) => nest(data.slice(i * size, (i + 1) * size), rest));
    };
    fc.assert(
      fc.property(shapes({ minRank: 1 }), (shape) =>
        tidy(() => {
          const data = Array.from({ length: sizeOf(shape) }, (_, i) => i);
          const x = Tensor.from(nest(data, shape) as number[]);
          expect(x.shape).toEqual(shape);
          expect(values(x)).toEqual(data);
        }),
      ),
    );
  });

  holds("typed arrays keep their type unless told otherwise", () => {
    expect(Tensor.from(Float64Array.of(0.1)).dtype).toBe("float64");
    expect(Tensor.from(Int32Array.of(1)).dtype).toBe("int32");
    expect(Tensor.from(Float32Array.of(1)).dtype).toBe("float32");
    expect(values(Tensor.from(Float64Array.of(0.1), { dtype: "float32" }))).toEqual([Math.fround(0.1)]);
    expect(values(Tensor.from([2, -1], { dtype: "int32" }))).toEqual([2, -1]);
  });

  holds("typed arrays of other types become float32 unless told otherwise", () => {
    for (const data of [
      Uint8Array.of(0, 255),
      Uint8ClampedArray.of(0, 255),
      Int8Array.of(-128, 127),
      Uint16Array.of(0, 65535),
      Int16Array.of(-32768, 32767),
      Uint32Array.of(0, 2 ** 31),
    ]) {
      const x = Tensor.from(data);
      expect([x.dtype, x.shape]).toEqual(["float32", [2]]);
      expect(values(x)).toEqual([...data]);
      expect(Tensor.from(data, { dtype: "float64", shape: [2, 1] }).shape).toEqual([2, 1]);
    }
    expect(values(Tensor.from(Uint8Array.of(7), { dtype: "int32" }))).toEqual([7]);
  });

  const beyond: [value: number, data: () => Tensor][] = [
    [1.7, () => Tensor.from([1, 1.7], { dtype: "int32" })],
    [NaN, () => Tensor.from([1, NaN], { dtype: "int32" })],
    [2 ** 31, () => Tensor.from(Float64Array.of(1, 2 ** 31), { dtype: "int32" })],
    [2 ** 32, () => Tensor.from([1, 2 ** 32], { dtype: "int32" })],
    [4294967295, () => Tensor.from(Uint32Array.of(1, 4294967295), { dtype: "int32" })],
  ];
  test.each(beyond)("%d is no int32, and the error says where it is", (value, make) => {
    expect(make).toThrow(DTypeError);
    expect(make).toThrow(`Tensor.from: ${value} at position 1 is not an int32`);
  });

  holds("the ends of the range are int32", () => {
    expect(values(Tensor.from([-(2 ** 31), 2 ** 31 - 1, -0], { dtype: "int32" }))).toEqual([-(2 ** 31), 2 ** 31 - 1, 0]);
  });

  test("a dtype that there is none of is a DTypeError, and no memory is counted for it", () => {
    const dtype = "float16" as DType;
    const before = defaultBackend().memory();
    for (const make of [() => Tensor.from([1], { dtype }), () => Tensor.zeros([2], { dtype }), () => Tensor.eye(2, { dtype })]) {
      expect(make).toThrow(DTypeError);
      expect(make).toThrow(/no dtype "float16"; known: float32, float64, int32/);
    }
    expect(defaultBackend().memory()).toEqual(before);
  });

  holds("a shape may be given with the data", () => {
    expect(Tensor.from(Float32Array.of(1, 2, 3, 4), { shape: [2, 2] }).shape).toEqual([2, 2]);
    expect(Tensor.from([1, 2, 3, 4], { shape: [4, 1] }).shape).toEqual([4, 1]);
  });

  test("the shape is the tensor's own", () => {
    tidy(() => {
      const shape = [2, 2];
      const x = Tensor.from([1, 2, 3, 4], { shape });
      const [zeros, reshaped, normal] = [Tensor.zeros(shape), x.reshape(shape), new Generator(1).normal(shape)];
      shape[0] = 7;
      for (const tensor of [x, zeros, reshaped, normal]) {
        expect(tensor.shape).toEqual([2, 2]);
        expect(tensor.size).toBe(4);
        expect(() => ((tensor.shape as number[])[0] = 7)).toThrow(TypeError);
      }
    });
  });
});

describe("ndarray", () => {
  /** A view of an array of three axes, with the same cuts made by index arithmetic. */
  const cuts = fc.record({
    order: fc.constantFrom([0, 1, 2], [2, 1, 0], [1, 2, 0]),
    low: fc.tuple(fc.nat(1), fc.nat(1), fc.nat(1)),
    step: fc.tuple(fc.constantFrom(1, 2, -1, -2), fc.constantFrom(1, -1), fc.constantFrom(1, 2, -2)),
  });

  test("views of any order, offset and step, negative steps too, become the array that get reads", () => {
    fc.assert(
      fc.property(cuts, ({ order, low, step }) =>
        tidy(() => {
          const base = ndarray(
            Float64Array.from({ length: 60 }, (_, i) => i),
            [3, 4, 5],
          );
          const view = base
            .transpose(...order)
            .lo(...low)
            .step(...step);
          const x = Tensor.from(view);
          const expected: number[] = [];
          const [a = 0, b = 0, c = 0] = view.shape;
          for (let i = 0; i < a; i++) for (let j = 0; j < b; j++) for (let k = 0; k < c; k++) expected.push(view.get(i, j, k));
          expect(x.shape).toEqual(view.shape);
          expect(x.dtype).toBe("float64");
          expect(values(x)).toEqual(expected);
        }),
      ),
    );
  });

  holds("hi cuts and pick drops an axis", () => {
    const base = ndarray(Int32Array.of(0, 1, 2, 3, 4, 5), [2, 3]);
    expect(values(Tensor.from(base.hi(2, 2)))).toEqual([0, 1, 3, 4]);
    const row = Tensor.from(base.pick(1, null));
    expect([row.shape, row.dtype]).toEqual([[3], "int32"]);
    expect(values(row)).toEqual([3, 4, 5]);
    expect(values(Tensor.from(base.pick(null, 1)))).toEqual([1, 4]);
    expect(Tensor.from(base.pick(1, 1)).shape).toEqual([]);
  });

  holds("other element types become float32", () => {
    expect(Tensor.from(ndarray([1, 2, 3])).dtype).toBe("float32");
    expect(values(Tensor.from(ndarray(Uint8Array.of(200, 255)) as NdArray))).toEqual([200, 255]);
  });

  test("goes there and back unchanged", async () => {
    await fc.assert(
      fc.asyncProperty(shapes({ minExtent: 0 }), fc.constantFrom<DType>("float32", "float64", "int32"), async (shape, dtype) => {
        using x = Tensor.from(
          Array.from({ length: sizeOf(shape) }, (_, i) => i),
          { shape, dtype },
        );
        const array = await x.toNdarray();
        expect(array.shape).toEqual(shape);
        using back = Tensor.from(array);
        expect([back.shape, back.dtype]).toEqual([shape, dtype]);
        expect(values(back)).toEqual(values(x));
      }),
    );
  });
});

describe("reading", () => {
  test("item gives the only element, whatever the rank, and refuses others", async () => {
    using x = Tensor.from([[7]]);
    expect(await x.item()).toBe(7);
    using y = Tensor.from([1, 2]);
    await expect(y.item()).rejects.toThrow(ShapeError);
    await expect(y.item()).rejects.toThrow(/exactly one element but the shape is \[2\]/);
  });

  holds("a tensor prints its type and shape", () => {
    expect(String(Tensor.zeros([2, 3]))).toBe("Tensor(float32 [2, 3])");
  });
});

describe("creation", () => {
  holds("zeros, ones, full, arange and eye are what they say", () => {
    expect(values(Tensor.zeros([2, 1]))).toEqual([0, 0]);
    expect(values(Tensor.ones([2], { dtype: "int32" }))).toEqual([1, 1]);
    expect(values(Tensor.full([], 0.1, float64))).toEqual([0.1]);
    expect(values(Tensor.arange(3))).toEqual([0, 1, 2]);
    expect(values(Tensor.arange(3, { start: 5, step: -2, dtype: "int32" }))).toEqual([5, 3, 1]);
    expect(values(Tensor.eye(2, float64))).toEqual([1, 0, 0, 1]);
    expect(Tensor.eye(2).shape).toEqual([2, 2]);
    expect(Tensor.arange(0).shape).toEqual([0]);
  });

  test("takes place on the backend that is named", () => {
    const backend = openReference();
    const { buffers } = defaultBackend().memory();
    tidy(() => {
      const made = [
        Tensor.eye(2, { backend }),
        Tensor.arange(2, { backend }),
        Tensor.full([2], 1, { backend }),
        Tensor.from([1], { backend }),
      ];
      expect(made.every((tensor) => tensor.backend === backend)).toBe(true);
      expect(values(made[0] as Tensor)).toEqual([1, 0, 0, 1]);
      expect(Tensor.eye(2, { backend, dtype: "int32" }).dtype).toBe("int32");
      expect(backend.memory().buffers).toBe(5);
      expect(defaultBackend().memory().buffers).toBe(buffers);
    });
    expect(() => Tensor.eye(-1)).toThrow(/Tensor.eye: extents/);
  });

  test.each<[string, () => Tensor]>([
    ["full of 0.5", () => Tensor.full([2], 0.5, { dtype: "int32" })],
    ["full of NaN", () => Tensor.full([2], NaN, { dtype: "int32" })],
    ["full of 2³¹", () => Tensor.full([2], 2 ** 31, { dtype: "int32" })],
    ["arange by 0.5", () => Tensor.arange(3, { step: 0.5, dtype: "int32" })],
    ["arange from 0.5", () => Tensor.arange(3, { start: 0.5, dtype: "int32" })],
    ["arange that runs out of the range", () => Tensor.arange(3, { start: 2 ** 31 - 2, dtype: "int32" })],
    ["arange that runs out below", () => Tensor.arange(2, { start: -(2 ** 31), step: -1, dtype: "int32" })],
    ["a sum with 2³¹", () => tidy(() => Tensor.zeros([2], { dtype: "int32" }).add(2 ** 31))],
  ])("%s is refused as int32", (_, make) => {
    expect(make).toThrow(DTypeError);
    expect(make).toThrow(/is not an int32, a whole number from -2³¹ to 2³¹ - 1/);
  });

  holds("arange reaches the last int32", () => {
    expect(values(Tensor.arange(2, { start: 2 ** 31 - 2, dtype: "int32" }))).toEqual([2 ** 31 - 2, 2 ** 31 - 1]);
  });
});

describe("methods", () => {
  holds("reshape works out one extent", () => {
    const x = Tensor.arange(6);
    expect(x.reshape([2, -1]).shape).toEqual([2, 3]);
    expect(x.reshape([-1]).shape).toEqual([6]);
    expect(Tensor.zeros([0, 3]).reshape([-1, 3]).shape).toEqual([0, 3]);
  });

  holds("transpose swaps the last two axes", () => {
    const x = Tensor.arange(6).reshape([1, 2, 3]);
    expect(x.transpose().shape).toEqual([1, 3, 2]);
    expect(values(x.transpose())).toEqual([0, 3, 1, 4, 2, 5]);
    expect(values(x.permute([0, -1, 1]))).toEqual([0, 3, 1, 4, 2, 5]);
  });

  holds("slice steps by 1 and pad puts nothing between, unless told", () => {
    const x = Tensor.arange(5);
    expect(values(x.slice([1], [3]))).toEqual([1, 2, 3]);
    expect(values(x.slice([0], [3], [2]))).toEqual([0, 2, 4]);
    expect(values(Tensor.from([1, 2]).pad([1], [2]))).toEqual([0, 1, 2, 0, 0]);
    expect(values(Tensor.from([1, 2]).pad([0], [0], [2]))).toEqual([1, 0, 0, 2]);
  });

  holds("a number takes the tensor's type, on the right of every operator", () => {
    const x = Tensor.from([1, 2], { dtype: "int32" });
    expect([values(x.add(3)), values(x.subtract(3)), values(x.multiply(3))]).toEqual([
      [4, 5],
      [-2, -1],
      [3, 6],
    ]);
    expect([values(x.maximum(2)), values(x.minimum(1))]).toEqual([
      [2, 2],
      [1, 1],
    ]);
    const y = Tensor.from([1, 2], float64);
    expect([values(y.divide(4)), values(y.power(3))]).toEqual([
      [0.25, 0.5],
      [1, 8],
    ]);
    expect(y.add(0.1).dtype).toBe("float64");
    expect(() => x.add(0.5)).toThrow(DTypeError);
  });

  test("products, sums and differences of int32 are exact modulo 2³²", () => {
    const int32 = fc.integer({ min: -(2 ** 31), max: 2 ** 31 - 1 });
    fc.assert(
      fc.property(int32, int32, (p, q) =>
        tidy(() => {
          const [a, b] = [Tensor.from([p, p], { dtype: "int32" }), Tensor.from([q, 1], { dtype: "int32" })];
          const wrap = (exact: bigint): number => Number(BigInt.asIntN(32, exact));
          const [x, y] = [BigInt(p), BigInt(q)];
          expect(values(a.multiply(b))).toEqual([wrap(x * y), p]);
          expect(values(a.multiply(q))).toEqual([wrap(x * y), wrap(x * y)]);
          expect(values(a.add(b))[0]).toBe(wrap(x + y));
          expect(values(a.subtract(b))[0]).toBe(wrap(x - y));
        }),
      ),
    );
  });

  holds("the largest of elements with NaN among them is NaN, and its position is that of the first", () => {
    const x = Tensor.from([
      [1, NaN, 3, NaN],
      [NaN, 5, NaN, 9],
      [1, 4, 4, 2],
    ]);
    expect(values(x.max(1))).toEqual([NaN, NaN, 4]);
    expect(values(x.argmax(1))).toEqual([1, 0, 1]);
    expect(values(x.argmax(0))).toEqual([1, 0, 1, 0]);
  });

  holds("the mean is the sum divided by the number of elements, rounded once", () => {
    const x = Tensor.full([49], 0.1, float64);
    const sum = values(x.sum())[0] as number;
    expect(values(x.mean())).toEqual([sum / 49]);
    expect(values(Tensor.full([3, 49], 1, float64).mean(1))).toEqual([1, 1, 1]);
    expect(() => Tensor.zeros([2], { dtype: "int32" }).mean()).toThrow(/mean: needs a floating tensor but got int32/);
  });

  holds("rows, scalars and columns stretch on either side, in every operation of two operands", () => {
    const [m, n] = [3, 4];
    const full = Tensor.from(Array.from({ length: m * n }, (_, i) => i + 1)).reshape([m, n]);
    const others = [[n], [1, n], [m, 1], [1], [], [1, 1, 1], [1, m, n], [2, 1, n], [2, m, n]];
    for (const [k, shape] of others.entries()) {
      const other = Tensor.from(
        Array.from({ length: sizeOf(shape) }, (_, i) => ((7 * i + k) % 5) + 1),
        { shape },
      );
      const joint = sizeOf(shape) > m * n || shape.length === 3 ? [shape[0] as number, m, n] : [m, n];
      const [a, b] = [full.broadcastTo(joint), other.broadcastTo(joint)];
      for (const name of ["add", "subtract", "multiply", "divide", "maximum", "less"] as const) {
        expect(values(full[name](other))).toEqual(values(a[name](b)));
        expect(values(other[name](full))).toEqual(values(b[name](a)));
      }
      const condition = full.less(other);
      expect(values(where(condition, full, other))).toEqual(values(a.minimum(b)));
      expect(values(where(other.less(3), full, other))).toEqual(values(where(b.less(3), a, b)));
    }
  });

  holds("comparisons give int32, and greater is less turned round", () => {
    const [a, b] = [Tensor.from([1, 2, 3]), Tensor.from([2, 2, 2])];
    expect(a.less(b).dtype).toBe("int32");
    expect([values(a.less(b)), values(a.lessEqual(b)), values(a.equal(b))]).toEqual([
      [1, 0, 0],
      [1, 1, 0],
      [0, 1, 0],
    ]);
    expect([values(a.greater(b)), values(a.greaterEqual(b))]).toEqual([
      [0, 0, 1],
      [0, 1, 1],
    ]);
    expect([values(a.greater(2)), values(a.greaterEqual(2))]).toEqual([
      [0, 0, 1],
      [0, 1, 1],
    ]);
  });

  holds("reductions take one axis, several, or all, and keep extents of 1 when asked", () => {
    const x = Tensor.arange(6).reshape([2, 3]);
    expect([values(x.sum()), values(x.sum(0)), values(x.sum(-1)), values(x.sum([0, 1]))]).toEqual([[15], [3, 5, 7], [3, 12], [15]]);
    expect([x.sum().shape, x.sum(0, { keepDims: true }).shape, x.max([], { keepDims: true }).shape]).toEqual([[], [1, 3], [2, 3]]);
    expect([values(x.mean()), values(x.mean(1)), values(x.max(0))]).toEqual([[2.5], [1, 4], [3, 4, 5]]);
    expect([values(x.argmax()), values(x.argmax(0))]).toEqual([
      [2, 2],
      [1, 1, 1],
    ]);
  });

  holds("the sum over an empty axis is 0", () => {
    expect(values(Tensor.zeros([0, 3]).sum(0))).toEqual([0, 0, 0]);
    expect(values(Tensor.zeros([0]).sum())).toEqual([0]);
  });

  holds("the softmax of a row sums to one, however large its elements", () => {
    const x = Tensor.from(
      [
        [1000, 999, -1000],
        [0, 0, 0],
      ],
      float64,
    );
    expect(values(x.softmax().sum(1))).toBeAllclose([1, 1], { relative: 1e-15 });
    expect(values(x.softmax()).every(Number.isFinite)).toBe(true);
  });

  holds("sigmoid and softplus of large arguments neither overflow nor vanish", () => {
    const x = Tensor.from([-1000, 1000, -40], float64);
    expect(values(x.sigmoid())).toEqual([0, 1, Math.exp(-40)]);
    expect(values(x.softplus())).toEqual([0, 1000, Math.exp(-40)]);
  });

  holds("NaN goes through ReLU, maximum, max and max pooling", () => {
    const x = Tensor.from([1, NaN, -1]);
    expect(values(x.relu())).toEqual([1, NaN, 0]);
    expect(values(x.maximum(0))).toEqual([1, NaN, 0]);
    expect(values(x.max())).toEqual([NaN]);
    expect(values(maxPool2d(x.reshape([1, 1, 3, 1]), [1, 3]))).toEqual([NaN]);
  });

  holds("cast to its own type is another handle of the same value", () => {
    const x = Tensor.from([1.5]);
    expect(x.cast("float32").id).toBe(x.id);
    expect(values(x.cast("int32"))).toEqual([1]);
    expect(values(Tensor.from([-1.5]).cast("int32"))).toEqual([-1]);
  });
});

describe("functions", () => {
  holds("pooling strides by its kernel unless told", () => {
    const x = Tensor.arange(16).reshape([1, 4, 4, 1]);
    expect(values(maxPool2d(x, 2))).toEqual([5, 7, 13, 15]);
    expect(values(averagePool2d(x, 2))).toEqual([2.5, 4.5, 10.5, 12.5]);
    expect(maxPool2d(x, 2, { stride: 1 }).shape).toEqual([1, 3, 3, 1]);
    expect(maxPool2d(x, [1, 4]).shape).toEqual([1, 4, 1, 1]);
  });

  holds("padding is a number, a pair [vertical, horizontal], or four sides", () => {
    const x = Tensor.zeros([1, 3, 3, 1]);
    const weight = Tensor.zeros([1, 1, 1, 1]);
    expect(conv2d(x, weight, null, { padding: 1 }).shape).toEqual([1, 5, 5, 1]);
    expect(conv2d(x, weight, null, { padding: [1, 0] }).shape).toEqual([1, 5, 3, 1]);
    expect(conv2d(x, weight, null, { padding: { top: 1, bottom: 0, left: 0, right: 3 } }).shape).toEqual([1, 4, 6, 1]);
  });

  holds("zeros of the padding count in an average unless told", () => {
    const x = Tensor.ones([1, 1, 1, 1]);
    expect(values(averagePool2d(x, 3, { padding: 1 }))).toBeAllclose([1 / 9], { relative: 1e-7 });
    expect(values(averagePool2d(x, 3, { padding: 1, countPadding: false }))).toEqual([1]);
  });

  holds("concat joins along negative axes too", () => {
    const x = Tensor.arange(2).reshape([2, 1]);
    expect(values(concat([x, x], -1))).toEqual([0, 0, 1, 1]);
    expect(values(concat([x, x]))).toEqual([0, 1, 0, 1]);
  });

  holds("where chooses by any nonzero condition", () => {
    expect(values(where(Tensor.from([0, 2, -1], { dtype: "int32" }), Tensor.from(1), Tensor.from(0)))).toEqual([0, 1, 1]);
  });

  test("windowOutput is what convolution gives", () => {
    expect(
      windowOutput("f", [32, 32], { kernel: [3, 3], stride: [2, 2], dilation: [1, 1], padding: { top: 1, bottom: 1, left: 1, right: 1 } }),
    ).toEqual([16, 16]);
  });
});

describe("losses", () => {
  const lossOf = (logits: number[], label: number, dtype: DType): number | undefined =>
    softmaxCrossEntropy(Tensor.from([logits], { dtype }), Tensor.from(Int32Array.of(label))).dataSync()[0];

  holds("logits of ±1000 give a finite cross-entropy", () => {
    for (const dtype of ["float32", "float64"] as const) {
      for (const [label, expected] of [0, 2000, 1000].entries()) expect(lossOf([1000, -1000, 0], label, dtype)).toBe(expected);
    }
  });

  holds("a class that is impossible, and is not the label, adds nothing", () => {
    expect(lossOf([0, -Infinity, 0], 0, "float64")).toBeCloseTo(Math.LN2, 15);
    expect(lossOf([0, -Infinity], 1, "float64")).toBe(Infinity);
  });
});

describe("a variable", () => {
  holds("has a handle of its own, and an identity of its own", () => {
    const x = Tensor.from([1, 2]);
    const v = new Variable("v", x);
    expect(v.value.id).not.toBe(x.id);
    x.dispose();
    expect(values(v.value)).toEqual([1, 2]);
    v.dispose();
  });

  holds("assigned has a new identity; tensors that hold the old value keep it", () => {
    const v = new Variable("v", Tensor.from([1, 2]));
    const before = v.value.keep();
    v.assign(Tensor.from([3, 4]));
    expect(values(v.value)).toEqual([3, 4]);
    expect(values(before)).toEqual([1, 2]);
    expect(v.value.id).not.toBe(before.id);
    v.dispose();
  });

  holds("assigned its own value stays what it is", () => {
    const v = new Variable("v", Tensor.from([1, 2]));
    v.assign(v.value);
    expect(values(v.value)).toEqual([1, 2]);
    v.dispose();
  });

  holds("assigned over and over holds one buffer", () => {
    const v = tidy(() => new Variable("v", Tensor.zeros([2])));
    const { buffers } = defaultBackend().memory();
    for (let i = 0; i < 5; i++) tidy(() => v.assign(v.value.add(1)));
    expect(values(v.value)).toEqual([5, 5]);
    expect(defaultBackend().memory().buffers).toBe(buffers);
    v.dispose();
  });

  holds("never changes shape or type", () => {
    const v = new Variable("bias", Tensor.zeros([2]));
    expect(() => v.assign(Tensor.zeros([3]))).toThrow(ShapeError);
    expect(() => v.assign(Tensor.zeros([3]))).toThrow(/variable "bias" is \[2\] but the new value is \[3\]/);
    expect(() => v.assign(Tensor.zeros([2], float64))).toThrow(DTypeError);
    expect(() => v.assign(Tensor.zeros([2], float64))).toThrow(/cast\("float32"\)/);
    v.dispose();
  });
});
