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

/** Sum of a vector's elements, by halves. */
export function sumLanes<T>(v: v128): T {
  if (sizeof<T>() == 8) return <T>(v128.extract_lane<f64>(v, 0) + v128.extract_lane<f64>(v, 1));
  return <T>(v128.extract_lane<f32>(v, 0) + v128.extract_lane<f32>(v, 2) + (v128.extract_lane<f32>(v, 1) + v128.extract_lane<f32>(v, 3)));
}
