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
@inline
function width<T, U>(): i32 {
  return 16 / <i32>max(sizeof<T>(), sizeof<U>());
}

/** `count` elements at `from`: all of a step, or fewer. */
@inline
function loadStep<T>(from: usize, count: i32): v128 {
  return count * <i32>sizeof<T>() == 16 ? v128.load(from) : v128.load64_zero(from);
}

@inline
function storeStep<T>(to: usize, v: v128, count: i32): void {
  if (count * <i32>sizeof<T>() == 16) v128.store(to, v);
  else v128.store64_lane(to, v, 0);
}

@inline
function loadPart<T>(from: usize, count: i32): v128 {
  if (sizeof<T>() == 8) return v128.load64_zero(from);
  if (count == 1) return v128.load32_zero(from);
  const v = v128.load64_zero(from);
  return count == 2 ? v : v128.load32_lane(from, v, 2, 8);
}

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

@inline
function pick<T>(c: v128, a: v128, b: v128): v128 {
  let isZero = v128.eq<i32>(c, v128.splat<i32>(0));
  if (sizeof<T>() == 8) isZero = v128.extend_low<i32>(isZero);
  return v128.bitselect(b, a, isZero);
}

// ── exports ───────────────────────────────────────────────────────────────────────────────────────────────────────────────

// export negative_T = map<T, T, Negative<T>> for T of f32, f64, i32
// export abs_T = map<T, T, Abs<T>> for T of f32, f64, i32
// export sign_T = map<T, T, Sign<T>> for T of f32, f64, i32
// export reciprocal_T = map<T, T, Reciprocal<T>> for T of f32, f64
// export sqrt_T = map<T, T, Sqrt<T>> for T of f32, f64
// export exp_T = map<T, T, Exp<T>> for T of f32, f64
// export log_T = map<T, T, Log<T>> for T of f32, f64
// export sin_T = map<T, T, Sin<T>> for T of f32, f64
// export cos_T = map<T, T, Cos<T>> for T of f32, f64
// export tanh_T = map<T, T, Tanh<T>> for T of f32, f64
// export sigmoid_T = map<T, T, Sigmoid<T>> for T of f32, f64
// export softplus_T = map<T, T, Softplus<T>> for T of f32, f64
// export erf_T = map<T, T, Erf<T>> for T of f32, f64
// export relu_T = map<T, T, Relu<T>> for T of f32, f64
// export copy_32 = map<i32, i32, Same>
// export copy_64 = map<i64, i64, Same>
// export cast_f32_f64 = map<f32, f64, Widen>
// export cast_f64_f32 = map<f64, f32, Narrow>
// export cast_i32_f32 = map<i32, f32, IntegerToSingle>
// export cast_i32_f64 = map<i32, f64, IntegerToDouble>
// export cast_f32_i32 = map<f32, i32, SingleToInteger>
// export cast_f64_i32 = map<f64, i32, DoubleToInteger>
// export add_T = zip<T, T, Add<T>> for T of f32, f64, i32
// export subtract_T = zip<T, T, Subtract<T>> for T of f32, f64, i32
// export multiply_T = zip<T, T, Multiply<T>> for T of f32, f64, i32
// export maximum_T = zip<T, T, Maximum<T>> for T of f32, f64, i32
// export minimum_T = zip<T, T, Minimum<T>> for T of f32, f64, i32
// export divide_T = zip<T, T, Divide<T>> for T of f32, f64
// export power_T = zip<T, T, Power<T>> for T of f32, f64
// export reluGradient_T = zip<T, T, ReluGradient<T>> for T of f32, f64
// export equal_T = zip<T, i32, Equal<T>> for T of f32, f64, i32
// export less_T = zip<T, i32, Less<T>> for T of f32, f64, i32
// export lessEqual_T = zip<T, i32, LessEqual<T>> for T of f32, f64, i32

/** For elements of 4 bytes, whatever they are, and of 8. */
// export where_32 = choose<i32>
// export where_64 = choose<i64>
