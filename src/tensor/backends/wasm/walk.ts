import type { Engine } from "./engine.ts";
import type { ExportName } from "./generated.ts";

/** Elements of a row that are an item of their own; assembly/walk.ts has the same number. */
export const BLOCK = 1024;
/** Nanoseconds that a row costs besides its elements. */
const ROW = 4;

/** An axis of a loop over several operands: its extent, and by how many elements each operand moves along it. */
export interface Axis {
  extent: number;
  readonly strides: readonly number[];
}

/** The axes of a loop, the innermost first. Those of extent 1 are left out, and neighbours that all operands walk as one are merged. */
export function axesOf(shape: readonly number[], strides: readonly (readonly number[])[]): Axis[] {
  const axes: Axis[] = [];
  for (let i = shape.length - 1; i >= 0; i--) {
    const extent = shape[i]!;
    if (extent === 1) continue;
    const inner = axes.at(-1);
    if (inner && strides.every((own, k) => own[i] === inner.strides[k]! * inner.extent)) inner.extent *= extent;
    else axes.push({ extent, strides: strides.map((own) => own[i]!) });
  }
  return axes;
}

/**
 * Runs a kernel over the rows of the innermost of `axes`. Its arguments are `start, end, ...pointers, n, form` with the form that
 * assembly/walk.ts describes. `sizes` are the bytes of each operand's elements, `cost` the nanoseconds for an element.
 */
export function runRows(
  engine: Engine,
  name: ExportName,
  axes: readonly Axis[],
  sizes: readonly number[],
  cost: number,
  ...pointers: number[]
): void {
  const n = axes[0]?.extent ?? 1;
  let items = Math.ceil(n / BLOCK);
  for (let i = 1; i < axes.length; i++) items *= axes[i]!.extent;
  const itemCost = Math.min(n, BLOCK) * cost + ROW;
  const form = shortForm(axes);
  if (form >= 0) engine.run(name, items, itemCost, ...pointers, n, form);
  else formOf(engine, name, axes, sizes, (place) => engine.run(name, items, itemCost, ...pointers, n, place));
}

/** The form of a loop of at most two axes along which every operand moves by its elements in order, or not at all; else −1. */
function shortForm(axes: readonly Axis[]): number {
  if (axes.length > 2) return -1;
  const [inner, outer] = axes;
  let form = 0;
  const operands = inner?.strides.length ?? 0;
  for (let k = 0; k < operands; k++) {
    const along = inner!.strides[k]!;
    const across = outer?.strides[k] ?? 0;
    if (along > 1 || (across !== 0 && across !== (along === 1 ? inner!.extent : 1))) return -1;
    form |= (along | (across === 0 ? 0 : 2)) << (2 * k);
  }
  return form;
}

/** Writes the form of any loop to memory, for the duration of `f`. */
export function formOf(engine: Engine, origin: string, axes: readonly Axis[], sizes: readonly number[], f: (form: number) => void): void {
  const outer = Math.max(0, axes.length - 2);
  const length = 8 + 4 * outer;
  engine.temporary(4 * length, origin, (form) => {
    const words = engine.view("int32", form, length);
    words[6] = axes[1]?.extent ?? 1;
    words[7] = outer;
    for (let i = 0; i < outer; i++) words[8 + 4 * i] = axes[i + 2]!.extent;
    for (const [k, size] of sizes.entries()) {
      words[2 * k] = (axes[0]?.strides[k] ?? 0) * size;
      words[2 * k + 1] = (axes[1]?.strides[k] ?? 0) * size;
      for (let i = 0; i < outer; i++) words[9 + 4 * i + k] = axes[i + 2]!.strides[k]! * size;
    }
    f(form);
  });
}
