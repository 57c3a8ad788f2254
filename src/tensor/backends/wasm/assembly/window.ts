/**
 * Where a window that may leave the image meets it, along one axis. Of the places from + i · step, 0 ≤ i < count, those inside of
 * [0, extent) are the ones with firstInside ≤ i < endInside; where there are none, the two are equal. The places may be the
 * elements of one window, a dilation apart, or one element of successive windows, a stride apart.
 */

@inline
export function firstInside(from: i32, step: i32, count: i32): i32 {
  return from >= 0 ? 0 : min(count, (step - 1 - from) / step);
}

@inline
export function endInside(from: i32, step: i32, count: i32, extent: i32): i32 {
  return from >= extent ? 0 : min(count, (extent - 1 - from) / step + 1);
}
