import fc, { type Arbitrary } from "fast-check";
import { sizeOf, type Padding, type Shape, type WindowGeometry } from "../../src/tensor/index.ts";

/*
 * Shapes and geometries that fit together by construction, so that nothing is thrown away and failing cases shrink towards
 * scalars, single pixels and 1 × 1 windows.
 */

export interface ShapeConstraints {
  /** Default 0. */
  readonly minRank?: number;
  /** Default 4. */
  readonly maxRank?: number;
  /** Smallest extent; 0 now and then gives an empty tensor. Default 1. */
  readonly minExtent?: 0 | 1;
  /** Largest number of elements. Default 24. */
  readonly maxSize?: number;
}

/** Mostly 1 to 4, and 0 rarely where `min` allows it. */
export function extents(min: 0 | 1 = 1, max = 4): Arbitrary<number> {
  const usual = fc.integer({ min: 1, max });
  return min === 1 ? usual : fc.oneof({ arbitrary: usual, weight: 24 }, { arbitrary: fc.constant(0), weight: 1 });
}

export function shapes({ minRank = 0, maxRank = 4, minExtent = 1, maxSize = 24 }: ShapeConstraints = {}): Arbitrary<Shape> {
  return fc.array(extents(minExtent), { minLength: minRank, maxLength: maxRank }).map((shape) => limited(shape, maxSize));
}

/** The shape with extents replaced by 1 from where the number of elements would pass `maxSize`. */
function limited(shape: Shape, maxSize: number): Shape {
  let size = 1;
  return shape.map((extent) => {
    if (size * extent > maxSize) return 1;
    size *= Math.max(1, extent);
    return extent;
  });
}

/** Some axes of a tensor of the given rank, sorted and distinct. */
export function axesOf(rank: number): Arbitrary<number[]> {
  return fc.subarray(Array.from({ length: rank }, (_, axis) => axis));
}

/** A shape from which `to` follows by stretching: leading axes left out, and extents of 1 put in. */
export function stretchableTo(to: Shape): Arbitrary<Shape> {
  return fc
    .record({ dropped: fc.integer({ min: 0, max: to.length }), ones: axesOf(to.length) })
    .map(({ dropped, ones }) => to.map((extent, axis) => (ones.includes(axis) ? 1 : extent)).slice(dropped));
}

/** `count` shapes that broadcast together. */
export function broadcastable(count: number, constraints?: ShapeConstraints): Arbitrary<Shape[]> {
  return shapes(constraints).chain((to) => fc.tuple(...Array.from({ length: count }, () => stretchableTo(to))));
}

/** An order of the axes of a tensor. */
export function permutationsOf(rank: number): Arbitrary<number[]> {
  const axes = Array.from({ length: rank }, (_, axis) => axis);
  return fc.shuffledSubarray(axes, { minLength: rank, maxLength: rank });
}

export interface WindowCase {
  readonly geometry: WindowGeometry;
  /** Height and width of an image into which the window fits. */
  readonly size: readonly [number, number];
}

export interface WindowConstraints {
  /** Every window sees some pixel. Default false. */
  readonly pooling?: boolean;
  /** Default 3. */
  readonly maxKernel?: number;
  /** How many rows or columns an image may have beyond those that one window needs. Default 2. */
  readonly slack?: number;
  /** Default 20. */
  readonly maxPixels?: number;
}

/** Along one direction: window, padding on either side, and an image extent with `slack` pixels more than needed. */
interface Direction {
  readonly kernel: number;
  readonly stride: number;
  readonly dilation: number;
  readonly before: number;
  readonly after: number;
  readonly extent: number;
}

function directions({ pooling, maxKernel, slack: maxSlack }: Required<WindowConstraints>): Arbitrary<Direction> {
  return fc
    .record({
      kernel: fc.integer({ min: 1, max: maxKernel }),
      stride: fc.integer({ min: 1, max: 3 }),
      dilation: fc.integer({ min: 1, max: 2 }),
      before: fc.integer({ min: 0, max: 2 }),
      after: fc.integer({ min: 0, max: 2 }),
      slack: fc.integer({ min: 0, max: maxSlack }),
    })
    .map(({ kernel, stride, dilation, before, after, slack }) => {
      const reach = dilation * (kernel - 1) + 1;
      // A pooling window must see the image wherever it stands: less padding than its reach, no hole wider than the image.
      const limit = pooling ? reach - 1 : Infinity;
      const pads = [Math.min(before, limit), Math.min(after, limit)] as const;
      const least = Math.max(pooling ? dilation : 1, reach - pads[0] - pads[1]);
      return { kernel, stride, dilation, before: pads[0], after: pads[1], extent: least + slack };
    });
}

/** Windows with any stride, dilation and uneven padding, over images of at most `maxPixels`. */
export function windows({ pooling = false, maxKernel = 3, slack = 2, maxPixels = 20 }: WindowConstraints = {}): Arbitrary<WindowCase> {
  const direction = directions({ pooling, maxKernel, slack, maxPixels });
  return fc
    .tuple(direction, direction)
    .map(([vertical, horizontal]): WindowCase => {
      const padding: Padding = { top: vertical.before, bottom: vertical.after, left: horizontal.before, right: horizontal.after };
      return {
        geometry: {
          kernel: [vertical.kernel, horizontal.kernel],
          stride: [vertical.stride, horizontal.stride],
          padding,
          dilation: [vertical.dilation, horizontal.dilation],
        },
        size: [vertical.extent, horizontal.extent],
      };
    })
    .filter(({ size }) => sizeOf(size) <= maxPixels);
}
