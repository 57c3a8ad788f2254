/** 128-bit vectors of either float type: kernels are written once, as generic functions, and exported for each type. */

/** Elements in a vector: 4 float32 or int32, 2 float64. */
export function lanes<T>(): i32 {
  return 16 / <i32>sizeof<T>();
}

/** a · b + c; with one rounding where relaxed SIMD is compiled in. */
export function madd<T>(a: v128, b: v128, c: v128): v128 {
  if (ASC_FEATURE_RELAXED_SIMD) return v128.relaxed_madd<T>(a, b, c);
  return v128.add<T>(v128.mul<T>(a, b), c);
}

/** Transposes as many rows as a vector has elements, of one vector each; rows are `fromPitch` and `toPitch` bytes apart. */
@inline
export function transposeSquare<T>(from: usize, fromPitch: usize, to: usize, toPitch: usize): void {
  const a = v128.load(from);
  const b = v128.load(from + fromPitch);
  if (sizeof<T>() == 8) {
    v128.store(to, v128.shuffle<f64>(a, b, 0, 2));
    v128.store(to + toPitch, v128.shuffle<f64>(a, b, 1, 3));
    return;
  }
  const c = v128.load(from + 2 * fromPitch);
  const d = v128.load(from + 3 * fromPitch);
  const ab01 = v128.shuffle<f32>(a, b, 0, 4, 1, 5);
  const ab23 = v128.shuffle<f32>(a, b, 2, 6, 3, 7);
  const cd01 = v128.shuffle<f32>(c, d, 0, 4, 1, 5);
  const cd23 = v128.shuffle<f32>(c, d, 2, 6, 3, 7);
  v128.store(to, v128.shuffle<f64>(ab01, cd01, 0, 2));
  v128.store(to + toPitch, v128.shuffle<f64>(ab01, cd01, 1, 3));
  v128.store(to + 2 * toPitch, v128.shuffle<f64>(ab23, cd23, 0, 2));
  v128.store(to + 3 * toPitch, v128.shuffle<f64>(ab23, cd23, 1, 3));
}
