/**
 * Philox 4×32-10 in big integers, written from the paper (Salmon et al., SC 2011, section 3.3) independently of the library.
 */
export function philoxWords(counter: bigint, key: readonly [number, number]): [bigint, bigint, bigint, bigint] {
  const word = 2n ** 32n;
  let [x0, x1, x2, x3] = [counter % word, (counter / word) % word, (counter / word ** 2n) % word, counter / word ** 3n];
  let [k0, k1] = [BigInt(key[0]), BigInt(key[1])];
  for (let round = 0; round < 10; round++) {
    const [p0, p1] = [0xd2511f53n * x0, 0xcd9e8d57n * x2];
    [x0, x1, x2, x3] = [(p1 / word) ^ x1 ^ k0, p1 % word, (p0 / word) ^ x3 ^ k1, p0 % word];
    [k0, k1] = [(k0 + 0x9e3779b9n) % word, (k1 + 0xbb67ae85n) % word];
  }
  return [x0, x1, x2, x3];
}
