import fc from "fast-check";
import { afterAll, describe, expect, test } from "vitest";
import { openReference } from "../../../src/tensor/backends/reference/index.ts";
import { openWasm } from "../../../src/tensor/backends/wasm/index.ts";
import {
  apply,
  concat,
  DataError,
  Generator,
  sizeOf,
  Tensor,
  tidy,
  typedArray,
  where,
  type Backend,
  type DType,
  type FloatDType,
  type Shape,
  type TypedArray,
} from "../../../src/tensor/index.ts";
import { broadcastable, extents, permutationsOf, shapes } from "../../arbitraries/shapes.ts";

const reference = openReference();
const wasm = openWasm({ threads: 1 });
const threaded = [2, 3].map((threads) => openWasm({ threads }));
afterAll(() => {
  for (const { engine } of [wasm, ...threaded]) engine.close();
});

const dtypes: DType[] = ["float32", "float64", "int32"];
const floatTypes: FloatDType[] = ["float32", "float64"];

/** Whole numbers from a small generator, different for each `seed`. */
function numbers(dtype: DType, shape: Shape, seed = 1): TypedArray {
  const data = typedArray(dtype, sizeOf(shape));
  for (let i = 0, x = seed; i < data.length; i++) {
    x = (Math.imul(x, 1103515245) + 12345) | 0;
    data[i] = dtype === "int32" ? x >> 8 : (x >> 8) / 2 ** 20;
  }
  return data;
}

/** The elements that `f` computes from tensors of a backend. */
function on(backend: Backend, f: (tensor: (data: TypedArray, shape?: Shape) => Tensor) => Tensor): TypedArray {
  return tidy(() => f((data, shape = [data.length]) => Tensor.from(data, { shape, backend })).dataSync());
}

/** Position of the first element that differs by `Object.is`, or −1. `toEqual` takes seconds for large arrays. */
function firstDifference(actual: TypedArray, expected: TypedArray): number {
  if (actual.length !== expected.length) return Math.min(actual.length, expected.length);
  for (let i = 0; i < actual.length; i++) if (!Object.is(actual[i], expected[i])) return i;
  return -1;
}

function expectEqual(actual: TypedArray, expected: TypedArray): void {
  const i = firstDifference(actual, expected);
  if (i >= 0) expect({ position: i, value: actual[i] }).toEqual({ position: i, value: expected[i] });
}

/** Expects the same elements as from the reference backend, told apart by `Object.is`, from one and several threads. */
function expectSame(f: (tensor: (data: TypedArray, shape?: Shape) => Tensor) => Tensor): void {
  const expected = on(reference, f);
  for (const backend of [wasm, ...threaded]) expectEqual(on(backend, f), expected);
}

const special = [0, -0, 1, -1, 0.5, -2, NaN, Infinity, -Infinity, 1e-40, -1e-40, 3e38, 5e-324, 2 ** 31, -1e300];
const pairs = special.flatMap((a) => special.map((b) => [a, b] as const));
const integers = [0, 1, -1, 2, 65536, 65537, -65537, 123456789, -987654321, 2 ** 31 - 1, -(2 ** 31)];
const integerPairs = integers.flatMap((a) => integers.map((b) => [a, b] as const));
const column = (dtype: DType, table: readonly (readonly [number, number])[], side: 0 | 1): TypedArray => {
  const data = typedArray(dtype, table.length);
  data.set(table.map((row) => row[side]));
  return data;
};

const exact = ["add", "subtract", "multiply", "maximum", "minimum", "equal", "less", "lessEqual"] as const;

describe("on zeros, infinities, NaN, subnormal and extreme numbers", () => {
  test.each(floatTypes)("operations of two %s operands are those of the reference, bit by bit", (dtype) => {
    for (const name of [...exact, "divide"] as const) {
      expectSame((t) => t(column(dtype, pairs, 0))[name](t(column(dtype, pairs, 1))));
    }
    expectSame((t) => apply("reluGradient", [t(column(dtype, pairs, 0)), t(column(dtype, pairs, 1))], {})[0]);
  });

  test.each(floatTypes)("so are those of one %s operand that round once", (dtype) => {
    for (const name of ["negative", "abs", "sign", "reciprocal", "sqrt", "relu"] as const) {
      expectSame((t) => t(column(dtype, pairs, 0))[name]());
    }
  });

  test.each(floatTypes)("the others on %s are NaN, infinite and zero of the same sign where the reference is", (dtype) => {
    const eps = dtype === "float32" ? 2 ** -22 : 2 ** -50;
    const least = dtype === "float32" ? 2 ** -126 : 2 ** -1022;
    const inputs = Float64Array.from([
      ...special,
      88.7,
      88.8,
      -87.4,
      -103.9,
      -104.1,
      709.7,
      709.8,
      -745,
      20,
      -20,
      2e6,
      -3e6,
      1e9,
      1e27,
      -9e26,
    ]);
    const check = (f: (tensor: (data: TypedArray, shape?: Shape) => Tensor) => Tensor): void => {
      const [expected, actual] = [on(reference, f), on(wasm, f)];
      for (const [i, value] of expected.entries()) {
        const close = Math.abs((actual[i] as number) - value) <= eps * Math.abs(value) + 2 * eps * least;
        if (!close || !Number.isFinite(value) || value === 0) expect(actual[i]).toBe(value);
      }
    };
    for (const name of ["exp", "log", "sin", "cos", "tanh", "sigmoid", "softplus", "erf"] as const) {
      check((t) => t(inputs).cast(dtype)[name]());
    }
    check((t) =>
      t(column("float64", pairs, 0))
        .cast(dtype)
        .power(t(column("float64", pairs, 1)).cast(dtype)),
    );
  });
});

describe("int32", () => {
  test("arithmetic is modulo 2³²", () => {
    for (const name of exact) expectSame((t) => t(column("int32", integerPairs, 0))[name](t(column("int32", integerPairs, 1))));
    for (const name of ["negative", "abs", "sign"] as const) expectSame((t) => t(Int32Array.from(integers))[name]());
  });

  test.each(floatTypes)("from %s truncates, modulo 2³² as JavaScript does", (dtype) => {
    const edges = [
      2 ** 31,
      2 ** 32,
      2 ** 33 + 2 ** 20,
      2 ** 53,
      2 ** 62,
      2 ** 63,
      2 ** 63 + 2 ** 40,
      2 ** 75 + 2 ** 52,
      2 ** 84 + 2 ** 61,
      2 ** 100,
    ];
    const values = edges.flatMap((x) => [x, -x, x - 1, x / 3, -x / 7]).concat(special, 2.7, -2.7, -0.9, 2147483647.5);
    // Each alone among harmless numbers too, which are converted another way.
    expectSame((t) => t(Float64Array.from(values)).cast(dtype).cast("int32"));
    expectSame((t) =>
      t(Float64Array.from(values.flatMap((x) => [1.5, x, -1.5, 0, 3])))
        .cast(dtype)
        .cast("int32"),
    );
  });
});

describe("broadcasting", () => {
  const lists = broadcastable(3, { maxRank: 6, maxSize: 200, minExtent: 0 });
  const wide = fc.constantFrom<Shape[]>(
    [[3, 2500], [2500], [3, 1]],
    [
      [2, 3, 2049],
      [3, 1],
      [2, 1, 2049],
    ],
    [[1030, 3], [3], [1030, 1]],
    [
      [5, 1, 1025],
      [1, 4, 1],
      [5, 4, 1025],
    ],
    [[2, 1, 3, 1, 2, 1], [1, 2, 1, 3, 1, 700], []],
  );

  test.each(dtypes)("%s operands of any rank gives what the reference gives", (dtype) => {
    fc.assert(
      fc.property(fc.oneof({ arbitrary: lists, weight: 9 }, { arbitrary: wide, weight: 1 }), fc.nat(), ([a = [], b = [], c = []], seed) => {
        expectSame((t) => t(numbers(dtype, a, seed), a).subtract(t(numbers(dtype, b, seed + 1), b)));
        expectSame((t) => t(numbers(dtype, a, seed), a).less(t(numbers(dtype, b, seed + 1), b)));
        const condition = numbers("int32", c, seed + 2).map((x) => x & 1);
        expectSame((t) => where(t(condition, c), t(numbers(dtype, a, seed), a), t(numbers(dtype, b, seed + 1), b)));
      }),
      { numRuns: 60 },
    );
  });

  test.each(dtypes)("writes over a %s operand that is given up, whichever it is", (dtype) => {
    for (const [a, b, donated] of [
      [[3, 1030], [1030], 0],
      [[3, 1030], [3, 1], 0],
      [[1], [7], 1],
      [[2, 1, 3], [2, 5, 3], 1],
      [[2050], [2050], 1],
    ] as const) {
      expectSame((t) => apply("subtract", [t(numbers(dtype, a), a), t(numbers(dtype, b, 2), b)], {}, { donate: [donated] })[0]);
    }
    expectSame((t) => apply("negative", [t(numbers(dtype, [2051]))], {}, { donate: [0] })[0]);
  });
});

test("more rows than fit an i32 as blocks of elements are all walked by one thread", () => {
  const rows = 2 ** 21 + 3;
  expectSame((t) => t(numbers("float32", [rows, 2]), [rows, 2]).add(t(Float32Array.of(10, 20))));
  expectSame((t) => where(t(Int32Array.of(1, 0)), t(numbers("float32", [rows, 2]), [rows, 2]), t(Float32Array.of(5))));
  expectSame((t) => t(numbers("float32", [rows, 3]), [rows, 3]).slice([0, 1], [rows, 2]));
});

describe("an element's result does not depend on its place", () => {
  test.each(["exp", "log", "sin", "tanh", "sigmoid", "softplus", "erf"] as const)("%s", (name) => {
    for (const dtype of floatTypes) {
      const data = numbers(dtype, [1031]);
      const whole = on(wasm, (t) => t(data)[name]());
      for (const [start, size] of [
        [0, 1],
        [1, 2],
        [2, 3],
        [3, 5],
        [5, 1026],
      ] as const) {
        expectEqual(
          on(wasm, (t) => t(data.slice(start, start + size))[name]()),
          whole.slice(start, start + size),
        );
      }
    }
  });

  test.each(floatTypes)("nor on the number of threads: large %s tensors", (dtype) => {
    const n = 300_001;
    const f = (name: "exp" | "log" | "erf" | "tanh", t: (data: TypedArray, shape?: Shape) => Tensor): Tensor =>
      t(numbers(dtype, [n]))[name]();
    for (const name of ["exp", "log", "erf", "tanh"] as const) {
      const alone = on(wasm, (t) => f(name, t));
      for (const backend of threaded)
        expectEqual(
          on(backend, (t) => f(name, t)),
          alone,
        );
    }
    expectSame((t) => t(numbers(dtype, [n])).multiply(t(numbers(dtype, [n], 2))));
    expectSame((t) => t(numbers(dtype, [3, 100_003]), [3, 100_003]).add(t(numbers(dtype, [3, 1], 2), [3, 1])));
  });
});

describe("movement", () => {
  const cases = shapes({ minRank: 1, maxRank: 6, maxSize: 300, minExtent: 0 }).chain((shape) =>
    fc.record({
      shape: fc.constant(shape),
      axes: permutationsOf(shape.length),
      before: fc.tuple(...shape.map(() => fc.nat(2))),
      between: fc.tuple(...shape.map(() => fc.nat(2))),
      step: fc.tuple(...shape.map(() => extents(1, 3))),
    }),
  );

  test.each(dtypes)("of %s tensors of any rank gives what the reference gives", (dtype) => {
    fc.assert(
      fc.property(cases, ({ shape, axes, before, between, step }) => {
        const data = numbers(dtype, shape);
        const start = shape.map((extent, axis) => Math.min(extent, before[axis] as number));
        const size = shape.map((extent, axis) => Math.ceil((extent - (start[axis] as number)) / (step[axis] as number)));
        expectSame((t) => t(data, shape).permute(axes));
        expectSame((t) => t(data, shape).pad(before, step, between));
        expectSame((t) => t(data, shape).slice(start, size, step));
        expectSame((t) => t(data, shape).broadcastTo([2, 3, ...shape]));
        expectSame((t) => concat([t(data, shape), t(data, shape)], axes[0]));
      }),
      { numRuns: 80 },
    );
  });

  test.each(dtypes)("of large %s tensors is that of the reference for any number of threads", (dtype) => {
    const shape = [3, 517, 130];
    for (const axes of [
      [0, 2, 1],
      [2, 1, 0],
      [1, 0, 2],
      [2, 0, 1],
    ])
      expectSame((t) => t(numbers(dtype, shape), shape).permute(axes));
    expectSame((t) => t(numbers(dtype, shape), shape).slice([0, 1, 1], [3, 258, 64], [1, 2, 2]));
    expectSame((t) => t(numbers(dtype, [517, 1]), [517, 1]).broadcastTo([2, 517, 130]));
    const rows = numbers("int32", [3000]).map((x) => x & 31);
    expectSame((t) => t(numbers(dtype, [32, 100]), [32, 100]).gather(t(rows)));
    // Many rows meet, and float sums depend on their order.
    expectSame((t) => t(numbers(dtype, [3000, 100]), [3000, 100]).scatterAdd(t(rows), 32));
    expectSame((t) => t(numbers(dtype, [3000])).scatterAdd(t(rows), 32));
  });

  test.each([
    [[0, 3, -1], "index 3 at position 1 is outside of 3 rows"],
    [[0, 0, 0, 0, 1, 2, -1], "index -1 at position 6 is outside of 3 rows"],
    [[2, 2, 2, 2 ** 31 - 1], "index 2147483647 at position 3 is outside of 3 rows"],
  ])("refuses the indices %j", (list, message) => {
    const indices = Int32Array.from(list);
    const rows = (n: number): [TypedArray, Shape] => [numbers("float32", [n, 2]), [n, 2]];
    expect(() => on(wasm, (t) => t(...rows(3)).gather(t(indices)))).toThrow(new DataError(`gather: ${message}`));
    expect(() => on(wasm, (t) => t(...rows(list.length)).scatterAdd(t(indices), 3))).toThrow(new DataError(`scatterAdd: ${message}`));
  });
});

describe("random numbers are those of the reference to the last bit", () => {
  test.each(floatTypes)("%s", (dtype) => {
    fc.assert(
      fc.property(
        fc.maxSafeNat(),
        fc.oneof(fc.nat(100), fc.constantFrom(2 ** 32 - 2, 2 ** 53 - 10_000)),
        fc.oneof(fc.nat(40), fc.constantFrom(4096, 9999)),
        (seed, offset, n) => {
          for (const name of ["uniform", "normal"] as const) {
            const draw = (backend: Backend): TypedArray => {
              const generator = new Generator(seed);
              generator.load({ ...generator.state(), offset });
              return tidy(() => generator[name]([n], { dtype, backend }).dataSync());
            };
            const expected = draw(reference);
            for (const backend of [wasm, ...threaded]) expectEqual(draw(backend), expected);
          }
        },
      ),
      { numRuns: 40 },
    );
  });
});
