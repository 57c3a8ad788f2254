import { lanes, madd } from "./vector";
import { BLOCK } from "./walk";

/** z = a x + b y over elements `[start · BLOCK, end · BLOCK)` of n; z may be x or y. */
function linearCombination<T>(start: i32, end: i32, x: usize, y: usize, z: usize, n: i32, a: T, b: T): void {
  const va = v128.splat<T>(a);
  const vb = v128.splat<T>(b);
  const last = min(n, end * BLOCK);
  let i = start * BLOCK;
  let at = <usize>i * sizeof<T>();
  for (; i + lanes<T>() <= last; i += lanes<T>(), at += 16) {
    v128.store(z + at, madd<T>(vb, v128.load(y + at), v128.mul<T>(va, v128.load(x + at))));
  }
  // The tail as a vector too, so that an element's rounding does not depend on its place.
  for (; i < last; i++, at += sizeof<T>()) {
    const sum = madd<T>(vb, v128.load_splat<T>(y + at), v128.mul<T>(va, v128.load_splat<T>(x + at)));
    store<T>(z + at, sizeof<T>() == 8 ? <T>v128.extract_lane<f64>(sum, 0) : <T>v128.extract_lane<f32>(sum, 0));
  }
}

/** y = scale x / (rootScale √square + ε), likewise. */
// prettier-ignore
function divideByRoot<T>(start: i32, end: i32, x: usize, square: usize, y: usize, n: i32, scale: T, rootScale: T, epsilon: T): void {
  const numerator = v128.splat<T>(scale);
  const factor = v128.splat<T>(rootScale);
  const shift = v128.splat<T>(epsilon);
  const last = min(n, end * BLOCK);
  let i = start * BLOCK;
  let at = <usize>i * sizeof<T>();
  for (; i + lanes<T>() <= last; i += lanes<T>(), at += 16) {
    const root = madd<T>(factor, v128.sqrt<T>(v128.load(square + at)), shift);
    v128.store(y + at, v128.div<T>(v128.mul<T>(numerator, v128.load(x + at)), root));
  }
  for (; i < last; i++, at += sizeof<T>()) {
    const root = madd<T>(factor, v128.sqrt<T>(v128.load_splat<T>(square + at)), shift);
    const quotient = v128.div<T>(v128.mul<T>(numerator, v128.load_splat<T>(x + at)), root);
    store<T>(y + at, sizeof<T>() == 8 ? <T>v128.extract_lane<f64>(quotient, 0) : <T>v128.extract_lane<f32>(quotient, 0));
  }
}

// export linearCombination_T = linearCombination<T> for T of f32, f64
// export divideByRoot_T = divideByRoot<T> for T of f32, f64
