/**
 * How a kernel walks over the rows of up to three operands that broadcast, or that lie in memory in another order. A row is the
 * innermost axis; item i of a task is block i mod `blocks` of row i ÷ `blocks`.
 *
 * A `form` below 64 is for at most two axes: bit 2k says that operand k moves along a row, bit 2k + 1 that it moves from row to
 * row. It steps over n elements then if it also moves along the row, else over one. Any other form points to int32 words:
 *
 *     2k, 2k + 1   bytes that operand k moves by along a row, and from row to row
 *     6            rows before one of the outer axes moves: a plane
 *     7            outer axes
 *     8 + 4i …     extent of outer axis i, the innermost first, and bytes by which each operand moves along it
 */

/** Elements of a row in an item: the host relies on it. */
export const BLOCK: i32 = 1024;

@inline
export function blocksOf(n: i32): i32 {
  return (n + (BLOCK - 1)) / BLOCK;
}

/** Elements in the next `blocks` blocks, of the `rest` that a row still has. */
@inline
export function elementsOf(rest: i32, blocks: i32): i32 {
  return blocks < blocksOf(rest) ? blocks * BLOCK : rest; // all blocks of a task may have more elements than an i32 counts
}

/** Bytes by which operand k, of `size` bytes an element, moves along a row. */
@inline
export function stepAlong(form: usize, k: usize, size: usize): usize {
  return form < 64 ? ((form >> (2 * k)) & 1) * size : load<usize>(form + 8 * k);
}

/** Bytes by which operand k, of `size` bytes an element, moves from a row of n elements to the next. */
@inline
export function stepOfRows(form: usize, k: usize, size: usize, n: i32): usize {
  if (form >= 64) return load<usize>(form + 8 * k, 4);
  const bits = form >> (2 * k);
  return bits & 2 ? (bits & 1 ? <usize>n * size : size) : 0;
}

@inline
export function rowsOf(form: usize): i32 {
  return form < 64 ? i32.MAX_VALUE : load<i32>(form, 24);
}

/** Bytes from the start of operand k to its part in a plane. */
export function planeOf(form: usize, k: usize, plane: i32): usize {
  if (form < 64) return 0;
  let place: usize = 0;
  let rest = <u32>plane;
  const axes = load<i32>(form, 28);
  let at = form + 32;
  for (let i = 0; i < axes; i++, at += 16) {
    const extent = load<u32>(at);
    place += <usize>(rest % extent) * load<usize>(at + 4 * k, 4);
    rest /= extent;
  }
  return place;
}
