import { lanes } from "./vector";

export function add_same_f32(start: i32, end: i32, a: usize, b: usize, y: usize): void {
  for (let i = start; i < end; i++) store<f32>(y + ((<usize>i) << 2), load<f32>(a + ((<usize>i) << 2)) + load<f32>(b + ((<usize>i) << 2)));
}
