/**
 * Statements of a portable kernel that make `total` the sum of `term` over i = 0 … n − 1, where `term` may use `at` as the integer i. Summed
 * by blocks of 64 and by blocks of these, so that rounding errors grow with the cube root of n.
 */
export function sumOver(n: string, term: (at: string) => string): string {
  return `
  let total = 0;
  for (let outer = 0; outer * 4096 < ${n}; outer++) {
    let middleSum = 0;
    for (let middle = 0; middle < 64; middle++) {
      if (outer * 4096 + middle * 64 < ${n}) {
        let innerSum = 0;
        for (let inner = 0; inner < 64; inner++) {
          if (outer * 4096 + middle * 64 + inner < ${n}) {
            innerSum += ${term("(outer * 4096 + middle * 64 + inner)")};
          }
        }
        middleSum += innerSum;
      }
    }
    total += middleSum;
  }`;
}
