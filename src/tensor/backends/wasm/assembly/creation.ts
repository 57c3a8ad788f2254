import { BLOCK } from "./walk";

export { normal_f32, normal_f64, uniform_f32, uniform_f64 } from "./philox";

/** y = value: blocks of BLOCK elements. */
function fill<T>(start: i32, end: i32, y: usize, n: i32, value: f64): void {
  const first = start * BLOCK;
  const count = min(n, end * BLOCK) - first;
  const vector = v128.splat<T>(<T>value);
  y += <usize>first * sizeof<T>();
  const stop = y + <usize>count * sizeof<T>();
  for (; y + 16 <= stop; y += 16) v128.store(y, vector);
  for (; y < stop; y += sizeof<T>()) store<T>(y, <T>value);
}

/** y = first + i step, likewise. */
function arange<T>(start: i32, end: i32, y: usize, n: i32, first: f64, step: f64): void {
  const stop = min(n, end * BLOCK);
  for (let i = start * BLOCK; i < stop; i++) store<T>(y + <usize>i * sizeof<T>(), <T>(first + <f64>i * step));
}

// export fill_T = fill<T> for T of f32, f64, i32
// export arange_T = arange<T> for T of f32, f64, i32
