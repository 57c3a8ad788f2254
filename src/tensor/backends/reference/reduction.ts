import { reducedShape, sizeOf, stridesOf, type Shape } from "../../shape.ts";
import { offsets, type Kernels } from "./kernel.ts";

/** For each element of an array of shape `shape`, the place of its group in the reduced array. */
function groupOf(shape: Shape, axes: readonly number[]): Int32Array {
  const kept = stridesOf(reducedShape(shape, axes, true));
  const gone = new Set(axes);
  return offsets(
    shape,
    kept.map((stride, axis) => (gone.has(axis) ? 0 : stride)),
  );
}

/** Sums accumulate in float64 whatever the type, so that the reference is nearly exact for float32. */
export const reduction: Kernels<"sum" | "max" | "argmax"> = {
  sum: ([x], { axes }, [y]) => {
    const totals = new Float64Array(y.data.length);
    const leading = axes.every((axis, i) => axis === i);
    if (leading) {
      // Column sums, the hot case (bias gradients): no index array needed.
      const row = totals.length;
      for (let i = 0, at = 0; row > 0 && i < x.data.length; i++) {
        totals[at] = (totals[at] as number) + (x.data[i] as number);
        if (++at === row) at = 0;
      }
    } else {
      const group = groupOf(x.shape, axes);
      for (let i = 0; i < x.data.length; i++) {
        const at = group[i] as number;
        totals[at] = (totals[at] as number) + (x.data[i] as number);
      }
    }
    y.data.set(totals);
  },
  max: ([x], { axes }, [y]) => {
    const group = groupOf(x.shape, axes);
    y.data.fill(x.data instanceof Int32Array ? -(2 ** 31) : -Infinity);
    for (let i = 0; i < x.data.length; i++) {
      const at = group[i] as number;
      y.data[at] = Math.max(y.data[at] as number, x.data[i] as number); // Math.max lets NaN through
    }
  },
  argmax: ([x], { axis }, [y]) => {
    const extent = x.shape[axis] as number;
    const inner = sizeOf(x.shape.slice(axis + 1));
    for (let i = 0; i < y.data.length; i++) {
      const start = Math.floor(i / inner) * extent * inner + (i % inner);
      let best = 0;
      for (let k = 1; k < extent; k++) {
        const [candidate, value] = [x.data[start + k * inner] as number, x.data[start + best * inner] as number];
        if (candidate > value || (Number.isNaN(candidate) && !Number.isNaN(value))) best = k;
      }
      y.data[i] = best;
    }
  },
};
