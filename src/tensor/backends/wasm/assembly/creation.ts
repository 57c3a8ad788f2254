import { BLOCK } from "./walk";

export { normal_f32, normal_f64, uniform_f32, uniform_f64 } from "./philox";

/** Blocks of BLOCK elements. */
function fill<T>(start: i32, end: i32, y: usize, n: i32, value: T): void {
  const first = start * BLOCK;
  const count = min(n, end * BLOCK) - first;
  const vector = v128.splat<T>(value);
  y += <usize>first * sizeof<T>();
  const stop = y + <usize>count * sizeof<T>();
  for (; y + 16 <= stop; y += 16) v128.store(y, vector);
  for (; y < stop; y += sizeof<T>()) store<T>(y, value);
}

export function fill_f32(start: i32, end: i32, y: usize, n: i32, value: f64): void {
  fill<f32>(start, end, y, n, <f32>value);
}
export function fill_f64(start: i32, end: i32, y: usize, n: i32, value: f64): void {
  fill<f64>(start, end, y, n, value);
}
export function fill_i32(start: i32, end: i32, y: usize, n: i32, value: f64): void {
  fill<i32>(start, end, y, n, <i32>value);
}

function arange<T>(start: i32, end: i32, y: usize, n: i32, first: f64, step: f64): void {
  const stop = min(n, end * BLOCK);
  for (let i = start * BLOCK; i < stop; i++) store<T>(y + <usize>i * sizeof<T>(), <T>(first + <f64>i * step));
}

export function arange_f32(start: i32, end: i32, y: usize, n: i32, first: f64, step: f64): void {
  arange<f32>(start, end, y, n, first, step);
}
export function arange_f64(start: i32, end: i32, y: usize, n: i32, first: f64, step: f64): void {
  arange<f64>(start, end, y, n, first, step);
}
export function arange_i32(start: i32, end: i32, y: usize, n: i32, first: f64, step: f64): void {
  arange<i32>(start, end, y, n, first, step);
}
