/** Copies bytes, a multiple of four, that do not overlap. For short runs cheaper than `memory.copy`, which is a call into the host. */
export function copyBytes(to: usize, from: usize, bytes: usize): void {
  if (bytes >= 256) {
    memory.copy(to, from, bytes);
    return;
  }
  const end = to + bytes;
  while (to + 16 <= end) {
    v128.store(to, v128.load(from));
    to += 16;
    from += 16;
  }
  while (to < end) {
    store<u32>(to, load<u32>(from));
    to += 4;
    from += 4;
  }
}

/** Zeros bytes, a multiple of four, likewise. */
export function clearBytes(to: usize, bytes: usize): void {
  if (bytes >= 256) {
    memory.fill(to, 0, bytes);
    return;
  }
  const end = to + bytes;
  while (to + 16 <= end) {
    v128.store(to, i32x4.splat(0));
    to += 16;
  }
  while (to < end) {
    store<u32>(to, 0);
    to += 4;
  }
}
