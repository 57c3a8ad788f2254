/** Statements that add to `total` what `add` adds to `part` for each integer below n: by blocks, since long sums in float32 lose digits. */
export function inBlocks(n: string, add: (at: string) => string): string {
  return `
  for (let block = 0; block * 64 < ${n}; block++) {
    let part = 0;
    for (let i = 0; i < 64 && block * 64 + i < ${n}; i++) {
      ${add("(block * 64 + i)")}
    }
    total += part;
  }`;
}
