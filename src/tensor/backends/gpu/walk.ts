import { BackendError } from "../../errors.ts";
import { formatShape, type Shape } from "../../shape.ts";

/*
 * Walking several arrays at once, each by strides of its own: axes that all of them walk as one are one, and what is left of them, at most
 * five, are the threads' x and y, and three that share z.
 */

export interface Walk {
  readonly threads: readonly [x: number, y: number, z: number];
  /** Extents of the middle and of the inner one of the axes that share z. */
  readonly e1: number;
  readonly e2: number;
  /** For each array its strides along the five axes, the innermost last. */
  readonly strides: readonly (readonly [number, number, number, number, number])[];
}

/** The place in an array whose strides are the arguments `name`0 … `name`4, in a kernel that takes the integers e1 and e2. */
export function place(name: string): string {
  return `placeOf(this.thread.z, this.thread.y, this.thread.x, e1, e2, ${[0, 1, 2, 3, 4].map((i) => `${name}${i}`).join(", ")})`;
}

/** The arguments of an array's strides, as a kernel takes them. */
export function strideArguments<const Name extends string>(name: Name): { readonly [I in 0 | 1 | 2 | 3 | 4 as `${Name}${I}`]: "integer" } {
  return Object.fromEntries([0, 1, 2, 3, 4].map((i) => [`${name}${i}`, "integer"])) as ReturnType<typeof strideArguments<Name>>;
}

/** The strides of array i of a walk, as a kernel is given them. */
export function stridesAs<const Name extends string>(
  name: Name,
  { strides }: Walk,
  i: number,
): { readonly [J in 0 | 1 | 2 | 3 | 4 as `${Name}${J}`]: number } {
  return Object.fromEntries((strides[i] ?? []).map((stride, j) => [`${name}${j}`, stride])) as ReturnType<typeof stridesAs<Name>>;
}

/** @throws BackendError for more axes than can be walked. */
export function walk(operation: string, shape: Shape, strides: readonly (readonly number[])[]): Walk {
  const extents: number[] = [];
  const own: number[][] = strides.map(() => []);
  shape.forEach((extent, axis) => {
    if (extent === 1) return;
    const last = extents.length - 1;
    const joins = last >= 0 && strides.every((of, i) => own[i]?.[last] === (of[axis] as number) * extent);
    if (joins) extents[last] = (extents[last] as number) * extent;
    else extents.push(extent);
    strides.forEach((of, i) => {
      const list = own[i] as number[];
      list[extents.length - 1] = of[axis] as number;
    });
  });
  if (extents.length > 5) {
    throw new BackendError(
      `gpu: ${operation} of shape ${formatShape(shape)} walks ${extents.length} axes that are not contiguous, and can do 5; permute or reshape it in two steps`,
    );
  }
  const missing = 5 - extents.length;
  const [e0, e1, e2, y, x] = [...Array.from({ length: missing }, () => 1), ...extents] as [number, number, number, number, number];
  const padded = own.map((list) => [...Array.from({ length: missing }, () => 0), ...list] as [number, number, number, number, number]);
  return { threads: [x, y, e0 * e1 * e2], e1, e2, strides: padded };
}
