import { ShapeError } from "./errors.ts";

/** Extents of a tensor, outermost first. `[]` is a scalar; an extent may be 0. */
export type Shape = readonly number[];

export function sizeOf(shape: Shape): number {
  let size = 1;
  for (const extent of shape) size *= extent;
  return size;
}

/** Row-major strides in elements. */
export function stridesOf(shape: Shape): number[] {
  const strides = new Array<number>(shape.length);
  let stride = 1;
  for (let axis = shape.length - 1; axis >= 0; axis--) {
    strides[axis] = stride;
    stride *= shape[axis] as number;
  }
  return strides;
}

export function sameShape(a: Shape, b: Shape): boolean {
  return a.length === b.length && a.every((extent, axis) => extent === b[axis]);
}

export function formatShape(shape: Shape): string {
  return `[${shape.join(", ")}]`;
}

/** @throws ShapeError unless every extent is a non-negative integer. */
export function checkShape(operation: string, shape: Shape): void {
  for (const extent of shape) {
    if (!Number.isSafeInteger(extent) || extent < 0) {
      throw new ShapeError(`${operation}: extents must be whole numbers of at least 0 but the shape is ${formatShape(shape)}`);
    }
  }
}

/**
 * The common shape of two operands: axes are aligned at the end, and an extent of 1 (or a missing axis) stretches.
 * @throws ShapeError when two extents differ and neither is 1.
 */
export function broadcastShapes(operation: string, a: Shape, b: Shape): Shape {
  const rank = Math.max(a.length, b.length);
  const shape = new Array<number>(rank);
  for (let i = 1; i <= rank; i++) {
    const p = a[a.length - i] ?? 1;
    const q = b[b.length - i] ?? 1;
    if (p !== q && p !== 1 && q !== 1) {
      throw new ShapeError(
        `${operation}: shapes ${formatShape(a)} and ${formatShape(b)} do not broadcast (${p} against ${q}, ` +
          `counting axes from the end); extents must be equal or 1`,
      );
    }
    shape[rank - i] = p === 1 ? q : p;
  }
  return shape;
}

/** Strides with which an operand of shape `from` is walked along `to`: 0 along every stretched axis. */
export function broadcastStrides(from: Shape, to: Shape): number[] {
  const own = stridesOf(from);
  return to.map((_, axis) => {
    const source = axis - (to.length - from.length);
    return source < 0 || from[source] === 1 ? 0 : (own[source] as number);
  });
}

/** The axes of `to` along which an operand of shape `from` was stretched; summing over them undoes the stretch. */
export function stretchedAxes(from: Shape, to: Shape): number[] {
  const axes: number[] = [];
  for (let axis = 0; axis < to.length; axis++) {
    const source = axis - (to.length - from.length);
    if (source < 0 || (from[source] === 1 && to[axis] !== 1)) axes.push(axis);
  }
  return axes;
}

/** Turns a possibly negative axis into one in `[0, rank)`. */
export function normalizeAxis(operation: string, axis: number, rank: number): number {
  const normal = axis < 0 ? axis + rank : axis;
  if (!Number.isInteger(axis) || normal < 0 || normal >= rank) {
    throw new ShapeError(`${operation}: axis ${axis} is outside of a tensor of rank ${rank}`);
  }
  return normal;
}

/** Normal, sorted, distinct axes; every axis when `axes` is undefined. */
export function normalizeAxes(operation: string, axes: number | readonly number[] | undefined, rank: number): number[] {
  if (axes === undefined) return Array.from({ length: rank }, (_, axis) => axis);
  const list = typeof axes === "number" ? [axes] : axes;
  const normal = list.map((axis) => normalizeAxis(operation, axis, rank)).sort((p, q) => p - q);
  if (new Set(normal).size !== normal.length) {
    throw new ShapeError(`${operation}: axes [${list.join(", ")}] name one axis twice`);
  }
  return normal;
}

/** The shape left after reducing over `axes` (normal and sorted). */
export function reducedShape(shape: Shape, axes: readonly number[], keepDims: boolean): number[] {
  const gone = new Set(axes);
  return keepDims ? shape.map((extent, axis) => (gone.has(axis) ? 1 : extent)) : shape.filter((_, axis) => !gone.has(axis));
}

/** Zero padding of an image in pixels. */
export interface Padding {
  readonly top: number;
  readonly bottom: number;
  readonly left: number;
  readonly right: number;
}

/** How a window moves over an image [n, height, width, channels]. All lengths in pixels, `[vertical, horizontal]`. */
export interface WindowGeometry {
  readonly kernel: readonly [number, number];
  readonly stride: readonly [number, number];
  readonly padding: Padding;
  readonly dilation: readonly [number, number];
}

/** Output extent `[height, width]` of a window moving over `[height, width]`. */
export function windowOutput(operation: string, size: readonly [number, number], geometry: WindowGeometry): [number, number] {
  checkShape(operation, size);
  const { kernel, stride, padding, dilation } = geometry;
  const positive = [...kernel, ...stride, ...dilation];
  const pads = [padding.top, padding.bottom, padding.left, padding.right];
  if (!positive.every((v) => Number.isInteger(v) && v > 0) || !pads.every((v) => Number.isInteger(v) && v >= 0)) {
    throw new ShapeError(
      `${operation}: kernel, stride and dilation must be whole numbers of at least 1 and padding of at least 0, ` +
        `but kernel is [${kernel.join(", ")}], stride [${stride.join(", ")}], dilation [${dilation.join(", ")}], padding [${pads.join(", ")}]`,
    );
  }
  const along = (extent: number, pad: number, k: number, s: number, d: number): number =>
    Math.floor((extent + pad - d * (k - 1) - 1) / s) + 1;
  const height = along(size[0], padding.top + padding.bottom, kernel[0], stride[0], dilation[0]);
  const width = along(size[1], padding.left + padding.right, kernel[1], stride[1], dilation[1]);
  if (height < 1 || width < 1) {
    throw new ShapeError(
      `${operation}: a window of ${kernel[0]} × ${kernel[1]} (dilation ${dilation[0]} × ${dilation[1]}) does not fit into an image of ` +
        `${size[0]} × ${size[1]} with padding [${pads.join(", ")}]; enlarge the image or the padding`,
    );
  }
  return [height, width];
}
