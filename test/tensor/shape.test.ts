import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { ShapeError, sizeOf, stretchedAxes, Tensor, tidy, windowOutput } from "../../src/tensor/index.ts";
import {
  broadcastShapes,
  broadcastStrides,
  formatShape,
  normalizeAxes,
  normalizeAxis,
  reducedShape,
  sameShape,
  stridesOf,
} from "../../src/tensor/shape.ts";
import { axesOf, broadcastable, shapes, stretchableTo, windows } from "../arbitraries/shapes.ts";

const anyShape = shapes({ minExtent: 0 });

describe("strides", () => {
  test("are row-major: the places of all indices are 0, 1, 2, …", () => {
    fc.assert(
      fc.property(shapes(), (shape) => {
        const strides = stridesOf(shape);
        let places = [0];
        for (const [axis, extent] of shape.entries()) {
          places = places.flatMap((place) => Array.from({ length: extent }, (_, i) => place + i * (strides[axis] as number)));
        }
        expect(places).toEqual(Array.from({ length: sizeOf(shape) }, (_, i) => i));
      }),
    );
  });

  test("of a stretched operand are 0 along the stretched axes and its own elsewhere", () => {
    fc.assert(
      fc.property(
        shapes().chain((to) => stretchableTo(to).map((from) => ({ from, to }))),
        ({ from, to }) => {
          const missing = to.length - from.length;
          const own = stridesOf(from);
          const expected = to.map((_, axis) => (axis < missing || from[axis - missing] === 1 ? 0 : own[axis - missing]));
          expect(broadcastStrides(from, to)).toEqual(expected);
        },
      ),
    );
  });
});

describe("broadcasting", () => {
  test("is commutative", () => {
    fc.assert(
      fc.property(broadcastable(2), ([a = [], b = []]) => {
        expect(broadcastShapes("f", a, b)).toEqual(broadcastShapes("f", b, a));
      }),
    );
  });

  test("is associative", () => {
    fc.assert(
      fc.property(broadcastable(3, { minExtent: 0 }), ([a = [], b = [], c = []]) => {
        const left = broadcastShapes("f", broadcastShapes("f", a, b), c);
        expect(broadcastShapes("f", a, broadcastShapes("f", b, c))).toEqual(left);
      }),
    );
  });

  test("of a shape with itself, or with a scalar, is the shape", () => {
    fc.assert(
      fc.property(anyShape, (shape) => {
        expect(broadcastShapes("f", shape, shape)).toEqual(shape);
        expect(broadcastShapes("f", shape, [])).toEqual(shape);
        expect(broadcastShapes("f", [], shape)).toEqual(shape);
      }),
    );
  });

  test("names both shapes where they do not fit", () => {
    expect(() => broadcastShapes("add", [2, 3], [2, 4])).toThrow(ShapeError);
    expect(() => broadcastShapes("add", [2, 3], [2, 4])).toThrow(/add: shapes \[2, 3\] and \[2, 4\] do not broadcast \(3 against 4/);
  });

  test("stretches an empty axis only from 1", () => {
    expect(broadcastShapes("f", [0], [1])).toEqual([0]);
    expect(() => broadcastShapes("f", [0], [2])).toThrow(ShapeError);
  });

  test("is undone in shape by a sum over the stretched axes", () => {
    fc.assert(
      fc.property(
        shapes().chain((to) => stretchableTo(to).map((from) => ({ from, to }))),
        ({ from, to }) =>
          tidy(() => {
            const axes = stretchedAxes(from, to);
            const repeats = sizeOf(to) / sizeOf(from);
            const total = Tensor.ones(from).broadcastTo(to).sum(axes, { keepDims: true });
            expect(total.size).toBe(sizeOf(from));
            expect([...total.dataSync()]).toEqual(new Array(sizeOf(from)).fill(repeats));
          }),
      ),
    );
  });
});

describe("axes", () => {
  test("count from the end when negative", () => {
    fc.assert(
      fc.property(fc.integer({ min: 1, max: 6 }), fc.nat(5), (rank, i) => {
        const axis = i % rank;
        expect(normalizeAxis("f", axis - rank, rank)).toBe(axis);
        expect(normalizeAxis("f", axis, rank)).toBe(axis);
      }),
    );
  });

  test.each([-4, 3, 0.5, NaN])("%d is outside of a tensor of rank 3", (axis) => {
    expect(() => normalizeAxis("sum", axis, 3)).toThrow(ShapeError);
    expect(() => normalizeAxis("sum", axis, 3)).toThrow(/sum: axis .* is outside of a tensor of rank 3/);
  });

  test("come out sorted, whatever the order and sign they are given in", () => {
    fc.assert(
      fc.property(
        fc
          .integer({ min: 0, max: 5 })
          .chain((rank) => fc.tuple(fc.constant(rank), axesOf(rank), fc.array(fc.boolean(), { minLength: rank, maxLength: rank }))),
        ([rank, axes, negative]) => {
          const given = axes.map((axis) => (negative[axis] ? axis - rank : axis)).reverse();
          expect(normalizeAxes("f", given, rank)).toEqual(axes);
        },
      ),
    );
  });

  test("left out are all", () => {
    expect(normalizeAxes("f", undefined, 3)).toEqual([0, 1, 2]);
    expect(normalizeAxes("f", undefined, 0)).toEqual([]);
  });

  test("may not name one axis twice", () => {
    expect(() => normalizeAxes("sum", [1, -1], 2)).toThrow(/\[1, -1\] name one axis twice/);
  });

  test("that are reduced leave 1 or nothing", () => {
    fc.assert(
      fc.property(
        anyShape.chain((shape) => axesOf(shape.length).map((axes) => ({ shape, axes }))),
        ({ shape, axes }) => {
          const kept = reducedShape(shape, axes, true);
          expect(kept.map((extent, axis) => (axes.includes(axis) ? shape[axis] : extent))).toEqual(shape);
          expect(kept.filter((_, axis) => !axes.includes(axis))).toEqual(reducedShape(shape, axes, false));
        },
      ),
    );
  });
});

describe("a window's output", () => {
  test("has one pixel for each place at which the window fits into the padded image", () => {
    fc.assert(
      fc.property(windows(), ({ geometry, size }) => {
        const { kernel, stride, padding, dilation } = geometry;
        const places = (extent: number, before: number, after: number, axis: 0 | 1): number => {
          let count = 0;
          for (let start = 0; start + dilation[axis] * (kernel[axis] - 1) < before + extent + after; start += stride[axis]) count++;
          return count;
        };
        const expected = [places(size[0], padding.top, padding.bottom, 0), places(size[1], padding.left, padding.right, 1)];
        expect(windowOutput("f", size, geometry)).toEqual(expected);
      }),
    );
  });
});

test("shapes are equal iff they print alike", () => {
  fc.assert(
    fc.property(anyShape, anyShape, (a, b) => {
      expect(sameShape(a, b)).toBe(formatShape(a) === formatShape(b));
    }),
  );
});
