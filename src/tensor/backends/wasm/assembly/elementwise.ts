import { scratch } from "./scratch";
import {
  Abs,
  Add,
  Cos,
  Divide,
  DoubleToInteger,
  Equal,
  Erf,
  Exp,
  IntegerToDouble,
  IntegerToSingle,
  Less,
  LessEqual,
  Log,
  Maximum,
  Minimum,
  Multiply,
  Narrow,
  Negative,
  Power,
  Reciprocal,
  Relu,
  ReluGradient,
  Same,
  Sigmoid,
  Sign,
  Sin,
  SingleToInteger,
  Softplus,
  Sqrt,
  Subtract,
  Tanh,
  Widen,
} from "./operations";
import { BLOCK, blocksOf, elementsOf, planeOf, rowsOf, stepAlong, stepOfRows } from "./walk";

/*
 * Loops over the operations of operations.ts. T is the type of the operands, U that of the result. A step computes as many
 * elements as fit into a vector of the larger one; the smaller lie in the low half of theirs. The last elements of a row take the
 * same way with vectors that are partly zero, so an element's result does not depend on its place.
 */

// ── parts of vectors ──────────────────────────────────────────────────────────────────────────────────────────────────────

/** Elements of a step. */
// @ts-ignore: decorator
@inline
function width<T, U>(): i32 {
  return 16 / <i32>max(sizeof<T>(), sizeof<U>());
}

/** `count` elements at `from`: all of a step, or fewer. */
// @ts-ignore: decorator
@inline
function loadStep<T>(from: usize, count: i32): v128 {
  return count * <i32>sizeof<T>() == 16 ? v128.load(from) : v128.load64_zero(from);
}

// @ts-ignore: decorator
@inline
function storeStep<T>(to: usize, v: v128, count: i32): void {
  if (count * <i32>sizeof<T>() == 16) v128.store(to, v);
  else v128.store64_lane(to, v, 0);
}

// @ts-ignore: decorator
@inline
function loadPart<T>(from: usize, count: i32): v128 {
  if (sizeof<T>() == 8) return v128.load64_zero(from);
  if (count == 1) return v128.load32_zero(from);
  const v = v128.load64_zero(from);
  return count == 2 ? v : v128.load32_lane(from, v, 2, 8);
}

// @ts-ignore: decorator
@inline
function storePart<T>(to: usize, v: v128, count: i32): void {
  if (sizeof<T>() == 8) {
    v128.store64_lane(to, v, 0);
  } else if (count == 1) {
    v128.store32_lane(to, v, 0);
  } else {
    v128.store64_lane(to, v, 0);
    if (count == 3) v128.store32_lane(to, v, 2, 8);
  }
}

/** Where to read an operand's row: an element that stays the same for all of the row becomes a vector in scratch memory. */
// @ts-ignore: decorator
@inline
function rowOf<T>(from: usize, step: usize, spread: usize): usize {
  if (step != 0) return from;
  v128.store(spread, v128.load_splat<T>(from));
  return spread;
}

// ── loops ─────────────────────────────────────────────────────────────────────────────────────────────────────────────────

/** y = f(x): blocks of BLOCK elements. */
function map<T, U, Operation>(start: i32, end: i32, x: usize, y: usize, n: i32): void {
  const f = changetype<Operation>(0);
  const first = start * BLOCK;
  let count = min(n, end * BLOCK) - first;
  x += <usize>first * sizeof<T>();
  y += <usize>first * sizeof<U>();
  for (; count >= width<T, U>(); count -= width<T, U>()) {
    storeStep<U>(y, f.of(loadStep<T>(x, width<T, U>())), width<T, U>());
    x += <usize>width<T, U>() * sizeof<T>();
    y += <usize>width<T, U>() * sizeof<U>();
  }
  if (count > 0) storePart<U>(y, f.of(loadPart<T>(x, count)), count);
}

/** y = f(a, b), for operands that broadcast: see walk.ts. */
function zip<T, U, Operation>(start: i32, end: i32, a: usize, b: usize, y: usize, n: i32, form: usize): void {
  const f = changetype<Operation>(0);
  const blocks = blocksOf(n);
  const rows = rowsOf(form);
  const alongA = stepAlong(form, 0, sizeof<T>());
  const alongB = stepAlong(form, 1, sizeof<T>());
  const stepA: usize = alongA != 0 ? <usize>width<T, U>() * sizeof<T>() : 0;
  const stepB: usize = alongB != 0 ? <usize>width<T, U>() * sizeof<T>() : 0;
  const rowsA = stepOfRows(form, 0, sizeof<T>(), n);
  const rowsB = stepOfRows(form, 1, sizeof<T>(), n);
  let row = start / blocks;
  let first = (start - row * blocks) * BLOCK;
  let left = end - start;
  y += (<usize>row * <usize>n + <usize>first) * sizeof<U>();
  let plane = row / rows;
  row -= plane * rows;
  while (left > 0) {
    let p = a + planeOf(form, 0, plane) + <usize>row * rowsA;
    let q = b + planeOf(form, 1, plane) + <usize>row * rowsB;
    for (; left > 0 && row < rows; row++) {
      let count = elementsOf(n - first, left);
      let u = rowOf<T>(p, alongA, scratch) + <usize>first * alongA;
      let v = rowOf<T>(q, alongB, scratch + 16) + <usize>first * alongB;
      left -= blocksOf(count);
      for (; count >= width<T, U>(); count -= width<T, U>()) {
        storeStep<U>(y, f.of(loadStep<T>(u, width<T, U>()), loadStep<T>(v, width<T, U>())), width<T, U>());
        u += stepA;
        v += stepB;
        y += <usize>width<T, U>() * sizeof<U>();
      }
      if (count > 0) {
        storePart<U>(y, f.of(loadPart<T>(u, count), loadPart<T>(v, count)), count);
        y += <usize>count * sizeof<U>();
      }
      first = 0;
      p += rowsA;
      q += rowsB;
    }
    row = 0;
    plane++;
  }
}

/** y = a where the int32 condition c is not 0, b elsewhere; for operands that broadcast. */
function choose<T>(start: i32, end: i32, c: usize, a: usize, b: usize, y: usize, n: i32, form: usize): void {
  const blocks = blocksOf(n);
  const rows = rowsOf(form);
  const alongC = stepAlong(form, 0, 4);
  const alongA = stepAlong(form, 1, sizeof<T>());
  const alongB = stepAlong(form, 2, sizeof<T>());
  const stepC: usize = alongC != 0 ? <usize>width<i32, T>() * 4 : 0;
  const stepA: usize = alongA != 0 ? 16 : 0;
  const stepB: usize = alongB != 0 ? 16 : 0;
  const rowsC = stepOfRows(form, 0, 4, n);
  const rowsA = stepOfRows(form, 1, sizeof<T>(), n);
  const rowsB = stepOfRows(form, 2, sizeof<T>(), n);
  let row = start / blocks;
  let first = (start - row * blocks) * BLOCK;
  let left = end - start;
  y += (<usize>row * <usize>n + <usize>first) * sizeof<T>();
  let plane = row / rows;
  row -= plane * rows;
  while (left > 0) {
    let o = c + planeOf(form, 0, plane) + <usize>row * rowsC;
    let p = a + planeOf(form, 1, plane) + <usize>row * rowsA;
    let q = b + planeOf(form, 2, plane) + <usize>row * rowsB;
    for (; left > 0 && row < rows; row++) {
      let count = elementsOf(n - first, left);
      let t = rowOf<i32>(o, alongC, scratch) + <usize>first * alongC;
      let u = rowOf<T>(p, alongA, scratch + 16) + <usize>first * alongA;
      let v = rowOf<T>(q, alongB, scratch + 32) + <usize>first * alongB;
      left -= blocksOf(count);
      for (; count >= width<i32, T>(); count -= width<i32, T>()) {
        v128.store(y, pick<T>(loadStep<i32>(t, width<i32, T>()), v128.load(u), v128.load(v)));
        t += stepC;
        u += stepA;
        v += stepB;
        y += 16;
      }
      if (count > 0) {
        storePart<T>(y, pick<T>(loadPart<i32>(t, count), loadPart<T>(u, count), loadPart<T>(v, count)), count);
        y += <usize>count * sizeof<T>();
      }
      first = 0;
      o += rowsC;
      p += rowsA;
      q += rowsB;
    }
    row = 0;
    plane++;
  }
}

// @ts-ignore: decorator
@inline
function pick<T>(c: v128, a: v128, b: v128): v128 {
  let isZero = v128.eq<i32>(c, v128.splat<i32>(0));
  if (sizeof<T>() == 8) isZero = v128.extend_low<i32>(isZero);
  return v128.bitselect(b, a, isZero);
}

// ── exports ───────────────────────────────────────────────────────────────────────────────────────────────────────────────

export function negative_f32(start: i32, end: i32, x: usize, y: usize, n: i32): void {
  map<f32, f32, Negative<f32>>(start, end, x, y, n);
}
export function negative_f64(start: i32, end: i32, x: usize, y: usize, n: i32): void {
  map<f64, f64, Negative<f64>>(start, end, x, y, n);
}
export function negative_i32(start: i32, end: i32, x: usize, y: usize, n: i32): void {
  map<i32, i32, Negative<i32>>(start, end, x, y, n);
}
export function abs_f32(start: i32, end: i32, x: usize, y: usize, n: i32): void {
  map<f32, f32, Abs<f32>>(start, end, x, y, n);
}
export function abs_f64(start: i32, end: i32, x: usize, y: usize, n: i32): void {
  map<f64, f64, Abs<f64>>(start, end, x, y, n);
}
export function abs_i32(start: i32, end: i32, x: usize, y: usize, n: i32): void {
  map<i32, i32, Abs<i32>>(start, end, x, y, n);
}
export function sign_f32(start: i32, end: i32, x: usize, y: usize, n: i32): void {
  map<f32, f32, Sign<f32>>(start, end, x, y, n);
}
export function sign_f64(start: i32, end: i32, x: usize, y: usize, n: i32): void {
  map<f64, f64, Sign<f64>>(start, end, x, y, n);
}
export function sign_i32(start: i32, end: i32, x: usize, y: usize, n: i32): void {
  map<i32, i32, Sign<i32>>(start, end, x, y, n);
}
export function reciprocal_f32(start: i32, end: i32, x: usize, y: usize, n: i32): void {
  map<f32, f32, Reciprocal<f32>>(start, end, x, y, n);
}
export function reciprocal_f64(start: i32, end: i32, x: usize, y: usize, n: i32): void {
  map<f64, f64, Reciprocal<f64>>(start, end, x, y, n);
}
export function sqrt_f32(start: i32, end: i32, x: usize, y: usize, n: i32): void {
  map<f32, f32, Sqrt<f32>>(start, end, x, y, n);
}
export function sqrt_f64(start: i32, end: i32, x: usize, y: usize, n: i32): void {
  map<f64, f64, Sqrt<f64>>(start, end, x, y, n);
}
export function exp_f32(start: i32, end: i32, x: usize, y: usize, n: i32): void {
  map<f32, f32, Exp<f32>>(start, end, x, y, n);
}
export function exp_f64(start: i32, end: i32, x: usize, y: usize, n: i32): void {
  map<f64, f64, Exp<f64>>(start, end, x, y, n);
}
export function log_f32(start: i32, end: i32, x: usize, y: usize, n: i32): void {
  map<f32, f32, Log<f32>>(start, end, x, y, n);
}
export function log_f64(start: i32, end: i32, x: usize, y: usize, n: i32): void {
  map<f64, f64, Log<f64>>(start, end, x, y, n);
}
export function sin_f32(start: i32, end: i32, x: usize, y: usize, n: i32): void {
  map<f32, f32, Sin<f32>>(start, end, x, y, n);
}
export function sin_f64(start: i32, end: i32, x: usize, y: usize, n: i32): void {
  map<f64, f64, Sin<f64>>(start, end, x, y, n);
}
export function cos_f32(start: i32, end: i32, x: usize, y: usize, n: i32): void {
  map<f32, f32, Cos<f32>>(start, end, x, y, n);
}
export function cos_f64(start: i32, end: i32, x: usize, y: usize, n: i32): void {
  map<f64, f64, Cos<f64>>(start, end, x, y, n);
}
export function tanh_f32(start: i32, end: i32, x: usize, y: usize, n: i32): void {
  map<f32, f32, Tanh<f32>>(start, end, x, y, n);
}
export function tanh_f64(start: i32, end: i32, x: usize, y: usize, n: i32): void {
  map<f64, f64, Tanh<f64>>(start, end, x, y, n);
}
export function sigmoid_f32(start: i32, end: i32, x: usize, y: usize, n: i32): void {
  map<f32, f32, Sigmoid<f32>>(start, end, x, y, n);
}
export function sigmoid_f64(start: i32, end: i32, x: usize, y: usize, n: i32): void {
  map<f64, f64, Sigmoid<f64>>(start, end, x, y, n);
}
export function softplus_f32(start: i32, end: i32, x: usize, y: usize, n: i32): void {
  map<f32, f32, Softplus<f32>>(start, end, x, y, n);
}
export function softplus_f64(start: i32, end: i32, x: usize, y: usize, n: i32): void {
  map<f64, f64, Softplus<f64>>(start, end, x, y, n);
}
export function erf_f32(start: i32, end: i32, x: usize, y: usize, n: i32): void {
  map<f32, f32, Erf<f32>>(start, end, x, y, n);
}
export function erf_f64(start: i32, end: i32, x: usize, y: usize, n: i32): void {
  map<f64, f64, Erf<f64>>(start, end, x, y, n);
}
export function relu_f32(start: i32, end: i32, x: usize, y: usize, n: i32): void {
  map<f32, f32, Relu<f32>>(start, end, x, y, n);
}
export function relu_f64(start: i32, end: i32, x: usize, y: usize, n: i32): void {
  map<f64, f64, Relu<f64>>(start, end, x, y, n);
}
export function copy_32(start: i32, end: i32, x: usize, y: usize, n: i32): void {
  map<i32, i32, Same>(start, end, x, y, n);
}
export function copy_64(start: i32, end: i32, x: usize, y: usize, n: i32): void {
  map<i64, i64, Same>(start, end, x, y, n);
}
export function cast_f32_f64(start: i32, end: i32, x: usize, y: usize, n: i32): void {
  map<f32, f64, Widen>(start, end, x, y, n);
}
export function cast_f64_f32(start: i32, end: i32, x: usize, y: usize, n: i32): void {
  map<f64, f32, Narrow>(start, end, x, y, n);
}
export function cast_i32_f32(start: i32, end: i32, x: usize, y: usize, n: i32): void {
  map<i32, f32, IntegerToSingle>(start, end, x, y, n);
}
export function cast_i32_f64(start: i32, end: i32, x: usize, y: usize, n: i32): void {
  map<i32, f64, IntegerToDouble>(start, end, x, y, n);
}
export function cast_f32_i32(start: i32, end: i32, x: usize, y: usize, n: i32): void {
  map<f32, i32, SingleToInteger>(start, end, x, y, n);
}
export function cast_f64_i32(start: i32, end: i32, x: usize, y: usize, n: i32): void {
  map<f64, i32, DoubleToInteger>(start, end, x, y, n);
}

export function add_f32(start: i32, end: i32, a: usize, b: usize, y: usize, n: i32, form: usize): void {
  zip<f32, f32, Add<f32>>(start, end, a, b, y, n, form);
}
export function add_f64(start: i32, end: i32, a: usize, b: usize, y: usize, n: i32, form: usize): void {
  zip<f64, f64, Add<f64>>(start, end, a, b, y, n, form);
}
export function add_i32(start: i32, end: i32, a: usize, b: usize, y: usize, n: i32, form: usize): void {
  zip<i32, i32, Add<i32>>(start, end, a, b, y, n, form);
}
export function subtract_f32(start: i32, end: i32, a: usize, b: usize, y: usize, n: i32, form: usize): void {
  zip<f32, f32, Subtract<f32>>(start, end, a, b, y, n, form);
}
export function subtract_f64(start: i32, end: i32, a: usize, b: usize, y: usize, n: i32, form: usize): void {
  zip<f64, f64, Subtract<f64>>(start, end, a, b, y, n, form);
}
export function subtract_i32(start: i32, end: i32, a: usize, b: usize, y: usize, n: i32, form: usize): void {
  zip<i32, i32, Subtract<i32>>(start, end, a, b, y, n, form);
}
export function multiply_f32(start: i32, end: i32, a: usize, b: usize, y: usize, n: i32, form: usize): void {
  zip<f32, f32, Multiply<f32>>(start, end, a, b, y, n, form);
}
export function multiply_f64(start: i32, end: i32, a: usize, b: usize, y: usize, n: i32, form: usize): void {
  zip<f64, f64, Multiply<f64>>(start, end, a, b, y, n, form);
}
export function multiply_i32(start: i32, end: i32, a: usize, b: usize, y: usize, n: i32, form: usize): void {
  zip<i32, i32, Multiply<i32>>(start, end, a, b, y, n, form);
}
export function maximum_f32(start: i32, end: i32, a: usize, b: usize, y: usize, n: i32, form: usize): void {
  zip<f32, f32, Maximum<f32>>(start, end, a, b, y, n, form);
}
export function maximum_f64(start: i32, end: i32, a: usize, b: usize, y: usize, n: i32, form: usize): void {
  zip<f64, f64, Maximum<f64>>(start, end, a, b, y, n, form);
}
export function maximum_i32(start: i32, end: i32, a: usize, b: usize, y: usize, n: i32, form: usize): void {
  zip<i32, i32, Maximum<i32>>(start, end, a, b, y, n, form);
}
export function minimum_f32(start: i32, end: i32, a: usize, b: usize, y: usize, n: i32, form: usize): void {
  zip<f32, f32, Minimum<f32>>(start, end, a, b, y, n, form);
}
export function minimum_f64(start: i32, end: i32, a: usize, b: usize, y: usize, n: i32, form: usize): void {
  zip<f64, f64, Minimum<f64>>(start, end, a, b, y, n, form);
}
export function minimum_i32(start: i32, end: i32, a: usize, b: usize, y: usize, n: i32, form: usize): void {
  zip<i32, i32, Minimum<i32>>(start, end, a, b, y, n, form);
}
export function divide_f32(start: i32, end: i32, a: usize, b: usize, y: usize, n: i32, form: usize): void {
  zip<f32, f32, Divide<f32>>(start, end, a, b, y, n, form);
}
export function divide_f64(start: i32, end: i32, a: usize, b: usize, y: usize, n: i32, form: usize): void {
  zip<f64, f64, Divide<f64>>(start, end, a, b, y, n, form);
}
export function power_f32(start: i32, end: i32, a: usize, b: usize, y: usize, n: i32, form: usize): void {
  zip<f32, f32, Power<f32>>(start, end, a, b, y, n, form);
}
export function power_f64(start: i32, end: i32, a: usize, b: usize, y: usize, n: i32, form: usize): void {
  zip<f64, f64, Power<f64>>(start, end, a, b, y, n, form);
}
export function reluGradient_f32(start: i32, end: i32, a: usize, b: usize, y: usize, n: i32, form: usize): void {
  zip<f32, f32, ReluGradient<f32>>(start, end, a, b, y, n, form);
}
export function reluGradient_f64(start: i32, end: i32, a: usize, b: usize, y: usize, n: i32, form: usize): void {
  zip<f64, f64, ReluGradient<f64>>(start, end, a, b, y, n, form);
}
export function equal_f32(start: i32, end: i32, a: usize, b: usize, y: usize, n: i32, form: usize): void {
  zip<f32, i32, Equal<f32>>(start, end, a, b, y, n, form);
}
export function equal_f64(start: i32, end: i32, a: usize, b: usize, y: usize, n: i32, form: usize): void {
  zip<f64, i32, Equal<f64>>(start, end, a, b, y, n, form);
}
export function equal_i32(start: i32, end: i32, a: usize, b: usize, y: usize, n: i32, form: usize): void {
  zip<i32, i32, Equal<i32>>(start, end, a, b, y, n, form);
}
export function less_f32(start: i32, end: i32, a: usize, b: usize, y: usize, n: i32, form: usize): void {
  zip<f32, i32, Less<f32>>(start, end, a, b, y, n, form);
}
export function less_f64(start: i32, end: i32, a: usize, b: usize, y: usize, n: i32, form: usize): void {
  zip<f64, i32, Less<f64>>(start, end, a, b, y, n, form);
}
export function less_i32(start: i32, end: i32, a: usize, b: usize, y: usize, n: i32, form: usize): void {
  zip<i32, i32, Less<i32>>(start, end, a, b, y, n, form);
}
export function lessEqual_f32(start: i32, end: i32, a: usize, b: usize, y: usize, n: i32, form: usize): void {
  zip<f32, i32, LessEqual<f32>>(start, end, a, b, y, n, form);
}
export function lessEqual_f64(start: i32, end: i32, a: usize, b: usize, y: usize, n: i32, form: usize): void {
  zip<f64, i32, LessEqual<f64>>(start, end, a, b, y, n, form);
}
export function lessEqual_i32(start: i32, end: i32, a: usize, b: usize, y: usize, n: i32, form: usize): void {
  zip<i32, i32, LessEqual<i32>>(start, end, a, b, y, n, form);
}

/** For elements of 4 bytes, whatever they are, and of 8. */
export function where_32(start: i32, end: i32, c: usize, a: usize, b: usize, y: usize, n: i32, form: usize): void {
  choose<i32>(start, end, c, a, b, y, n, form);
}
export function where_64(start: i32, end: i32, c: usize, a: usize, b: usize, y: usize, n: i32, form: usize): void {
  choose<i64>(start, end, c, a, b, y, n, form);
}
