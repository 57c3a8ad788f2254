import { BackendError } from "../../errors.ts";
import { formatShape, type Shape } from "../../shape.ts";
import type { PortableKernel, Takes } from "./kernel.ts";

/*
 * Walking several arrays at once, each by strides of its own: axes that all of them walk as one are one, and what is left of them, at most
 * five, are the threads' x and y, and three that share z.
 */

/** Along the five axes, the innermost last. */
export type Strides = readonly [s0: number, s1: number, s2: number, s3: number, s4: number];

export interface Walk {
  /** Whether there are more than three of them, of which some share z. */
  readonly axes: "few" | "many";
  readonly threads: readonly [x: number, y: number, z: number];
  /** Extents of the middle and of the inner one of the axes that share z. */
  readonly e1: number;
  readonly e2: number;
  /** Those of each array. */
  readonly strides: readonly Strides[];
}

/** A kernel in two forms, with the same arguments. */
export type Walking<T extends Takes> = Readonly<Record<Walk["axes"], PortableKernel<T>>>;

/**
 * A kernel that walks arrays.
 * @param make is given how to write the place in an array whose strides are the arguments `name`0 … `name`4, in a kernel that takes the integers
 * e1 and e2. Along three axes at most that takes no divisions, which would be most of what a kernel does.
 */
export function walking<T extends Takes>(make: (place: (name: string) => string) => PortableKernel<T>): Walking<T> {
  return {
    few: make((name) => `(this.thread.z * ${name}2 + this.thread.y * ${name}3 + this.thread.x * ${name}4)`),
    many: make((name) => {
      const strides = [0, 1, 2, 3, 4].map((i) => `${name}${i}`);
      return `placeOf(this.thread.z, this.thread.y, this.thread.x, e1, e2, ${strides.join(", ")})`;
    }),
  };
}

/** The arguments of an array's strides, as a kernel takes them. */
export function strideArguments<const Name extends string>(name: Name): { readonly [I in 0 | 1 | 2 | 3 | 4 as `${Name}${I}`]: "integer" } {
  return Object.fromEntries([0, 1, 2, 3, 4].map((i) => [`${name}${i}`, "integer"])) as ReturnType<typeof strideArguments<Name>>;
}

/**
 * @param strides of each array, along the axes of `shape`.
 * @throws BackendError for more axes than can be walked.
 */
export function walk<const Arrays extends readonly (readonly number[])[]>(
  operation: string,
  shape: Shape,
  strides: Arrays,
): Walk & { readonly strides: { readonly [I in keyof Arrays]: Strides } } {
  // The innermost first.
  const extents: number[] = [];
  const own = strides.map((): number[] => []);
  for (let axis = shape.length - 1; axis >= 0; axis--) {
    const extent = shape[axis] as number;
    if (extent === 1) continue;
    const last = extents.length - 1;
    const joins = last >= 0 && strides.every((of, i) => of[axis] === (own[i]?.[last] as number) * (extents[last] as number));
    if (joins) extents[last] = (extents[last] as number) * extent;
    else {
      extents.push(extent);
      strides.forEach((of, i) => own[i]?.push(of[axis] as number));
    }
  }
  if (extents.length > 5) {
    throw new BackendError(
      `gpu: ${operation} of shape ${formatShape(shape)} walks ${extents.length} axes that are not contiguous, and can do 5; permute or reshape it in two steps`,
    );
  }
  const [x = 1, y = 1, e2 = 1, e1 = 1, e0 = 1] = extents;
  const padded = own.map(([s4 = 0, s3 = 0, s2 = 0, s1 = 0, s0 = 0]): Strides => [s0, s1, s2, s3, s4]);
  // One of each, in their order.
  const axes = extents.length > 3 ? "many" : "few";
  return { axes, threads: [x, y, e0 * e1 * e2], e1, e2, strides: padded as { readonly [I in keyof Arrays]: Strides } & Strides[] };
}
