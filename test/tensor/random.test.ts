import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { Generator, normalQuantile, philoxBlock, ShapeError, Tensor, tidy, UsageError, type FloatDType } from "../../src/tensor/index.ts";
import { philoxWords } from "./philox.ts";

const words = fc.integer({ min: 0, max: 2 ** 32 - 1 });
const keys = fc.tuple(words, words);
const hex = (numbers: Iterable<number>): string[] => Array.from(numbers, (word) => word.toString(16).padStart(8, "0"));

function block(counter: number, key: readonly [number, number]): Uint32Array {
  const out = new Uint32Array(4);
  philoxBlock(counter, key, out);
  return out;
}

/** Numbers of a generator as plain numbers. */
function numbers(draw: () => Tensor): number[] {
  return tidy(() => [...draw().dataSync()]);
}

describe("Philox 4×32-10", () => {
  // Random123, examples/kat_vectors: counter, key, result.
  test("gives the known answer for counter 0 and key 0", () => {
    expect(hex(block(0, [0, 0]))).toEqual(["6627e8d5", "e169c58d", "bc57ac4c", "9b00dbd8"]);
  });

  test("in big integers gives the known answers that use all 128 bits of the counter", () => {
    const ones = 0xffffffff;
    const pi = 0x243f6a88n | (0x85a308d3n << 32n) | (0x13198a2en << 64n) | (0x03707344n << 96n);
    expect(hex(philoxWords(2n ** 128n - 1n, [ones, ones]).map(Number))).toEqual(["408f276d", "41c83b0e", "a20bc7c6", "6d5451fd"]);
    expect(hex(philoxWords(pi, [0xa4093822, 0x299f31d0]).map(Number))).toEqual(["d16cfe09", "94fdcceb", "5001e420", "24126ea1"]);
  });

  test("equals an implementation in big integers for every counter below 2⁵³ and every key", () => {
    const counters = fc.oneof(fc.nat(), fc.maxSafeNat(), fc.constantFrom(2 ** 32 - 1, 2 ** 32, 2 ** 53 - 1));
    fc.assert(
      fc.property(counters, keys, (counter, key) => {
        expect([...block(counter, key)]).toEqual(philoxWords(BigInt(counter), key).map(Number));
      }),
      { numRuns: 500 },
    );
  });

  test("writes where it is told and nowhere else", () => {
    const out = new Uint32Array(12).fill(7);
    philoxBlock(3, [1, 2], out, 4);
    expect([...out.subarray(4, 8)]).toEqual([...block(3, [1, 2])]);
    expect([...out.subarray(0, 4), ...out.subarray(8)]).toEqual(new Array(8).fill(7));
  });
});

describe("the normal quantile", () => {
  // Roots of ½ erfc(−z/√2) = p, found by mpmath with 60 digits.
  test.each([
    [0.5, 0],
    [0.75, 0.6744897501960817],
    [0.9, 1.2815515655446004],
    [0.975, 1.959963984540054],
    [0.999, 3.090232306167813],
    [1e-5, -4.264890793922825],
    [1e-10, -6.361340902404056],
    [1e-20, -9.262340089798408],
    [1e-100, -21.273453560965324],
  ])("of %d is %d", (p, expected) => {
    expect(Math.abs(normalQuantile(p) - expected)).toBeLessThanOrEqual(4e-15 * Math.max(1, Math.abs(expected)));
  });

  test("is the inverse of Φ(z) = ½ (1 + erf(z/√2))", () => {
    fc.assert(
      fc.property(fc.double({ min: 1e-9, max: 1 - 1e-9, noNaN: true }), (p) =>
        tidy(() => {
          const cdf = Tensor.from(normalQuantile(p), { dtype: "float64" }).multiply(Math.SQRT1_2).erf().add(1).multiply(0.5);
          expect(Math.abs((cdf.dataSync()[0] as number) - p)).toBeLessThan(1e-15);
        }),
      ),
      { numRuns: 500 },
    );
  });

  test("is odd about ½ and increasing", () => {
    const grid = Array.from({ length: 999 }, (_, i) => (i + 1) / 1000);
    const quantiles = grid.map(normalQuantile);
    quantiles.forEach((z, i) => expect(Math.abs(z + (quantiles[998 - i] as number))).toBeLessThan(1e-12));
    quantiles.slice(1).forEach((z, i) => expect(z).toBeGreaterThan(quantiles[i] as number));
  });
});

describe.each<FloatDType>(["float32", "float64"])("%s numbers", (dtype) => {
  const perBlock = dtype === "float32" ? 4 : 2;

  test("are the same for the same seed, and others for another", () => {
    fc.assert(
      fc.property(fc.maxSafeNat(), fc.maxSafeNat(), (seed, other) => {
        fc.pre(seed !== other);
        const draw = (s: number): number[] => numbers(() => new Generator(s).uniform([8], { dtype }));
        expect(draw(seed)).toEqual(draw(seed));
        expect(draw(seed)).not.toEqual(draw(other));
      }),
    );
  });

  test("drawn in two calls are those drawn in one, if the first call takes whole blocks", () => {
    fc.assert(
      fc.property(fc.nat(), fc.nat(5), fc.nat(5), (seed, a, b) => {
        const [first, second] = [a * perBlock, b * perBlock];
        for (const kind of ["uniform", "normal"] as const) {
          const [once, twice] = [new Generator(seed), new Generator(seed)];
          const together = numbers(() => once[kind]([first + second], { dtype }));
          const apart = [...numbers(() => twice[kind]([first], { dtype })), ...numbers(() => twice[kind]([second], { dtype }))];
          expect(apart).toEqual(together);
          expect(twice.state()).toEqual(once.state());
        }
      }),
    );
  });

  test("of the next call never repeat those of the last", () => {
    fc.assert(
      fc.property(fc.nat(), fc.integer({ min: 1, max: 9 }), (seed, count) => {
        const generator = new Generator(seed);
        const draw = (): number[] => numbers(() => generator.uniform([count], { dtype }));
        expect(draw()).not.toEqual(draw());
      }),
    );
  });

  // Statements about fixed streams: five standard deviations would fail one stream in a million.
  const n = 100_000;
  const moment = (sample: number[], power: number): number => sample.reduce((sum, x) => sum + x ** power, 0) / sample.length;
  const chiSquared = (sample: number[], place: (x: number) => number, bins: number): number => {
    const counts = new Array<number>(bins).fill(0);
    for (const x of sample) {
      const bin = Math.min(bins - 1, Math.floor(place(x) * bins));
      counts[bin] = (counts[bin] as number) + 1;
    }
    const expected = sample.length / bins;
    return counts.reduce((sum, count) => sum + (count - expected) ** 2 / expected, 0);
  };

  test("uniform: in [0, 1), of mean ½ and variance 1/12, even over 100 bins, and uncorrelated with their neighbours", () => {
    const sample = numbers(() => new Generator(11).uniform([n], { dtype }));
    expect(sample.every((x) => x >= 0 && x < 1)).toBe(true);
    expect(Math.abs(moment(sample, 1) - 1 / 2)).toBeLessThan(5 * Math.sqrt(1 / 12 / n));
    const centred = sample.map((x) => x - 1 / 2);
    expect(Math.abs(moment(centred, 2) - 1 / 12)).toBeLessThan(5 * Math.sqrt(1 / 180 / n));
    expect(Math.abs(chiSquared(sample, (x) => x, 100) - 99)).toBeLessThan(5 * Math.sqrt(2 * 99));
    const neighbours = centred.slice(1).reduce((sum, x, i) => sum + x * (centred[i] as number), 0) / n;
    expect(Math.abs(neighbours)).toBeLessThan(5 / 12 / Math.sqrt(n));
  });

  test("normal: of mean 0, variance 1, skewness 0 and kurtosis 3, and even over 100 bins of equal probability", () => {
    const sample = numbers(() => new Generator(12).normal([n], { dtype }));
    expect(Math.abs(moment(sample, 1))).toBeLessThan(5 * Math.sqrt(1 / n));
    expect(Math.abs(moment(sample, 2) - 1)).toBeLessThan(5 * Math.sqrt(2 / n));
    expect(Math.abs(moment(sample, 3))).toBeLessThan(5 * Math.sqrt(15 / n));
    expect(Math.abs(moment(sample, 4) - 3)).toBeLessThan(5 * Math.sqrt(96 / n));
    const cdf = numbers(() => Tensor.from(sample, { dtype: "float64" }).multiply(Math.SQRT1_2).erf().add(1).multiply(0.5));
    expect(Math.abs(chiSquared(cdf, (p) => p, 100) - 99)).toBeLessThan(5 * Math.sqrt(2 * 99));
  });
});

describe("a generator", () => {
  test("goes on from a saved state as if it had not stopped", () => {
    fc.assert(
      fc.property(fc.nat(), fc.nat(20), fc.nat(20), (seed, before, after) => {
        const [first, second] = [new Generator(seed), new Generator(seed)];
        numbers(() => first.normal([before]));
        second.load(structuredClone(first.state()));
        expect(numbers(() => second.normal([after]))).toEqual(numbers(() => first.normal([after])));
      }),
    );
  });

  test("refuses the state of another stream", () => {
    expect(() => new Generator(1).load(new Generator(2).state())).toThrow(UsageError);
  });

  test.each([-1, 0.5, NaN, 2 ** 53])("refuses to stand at block %d", (offset) => {
    const generator = new Generator(1);
    expect(() => {
      generator.load({ ...generator.state(), offset });
    }).toThrow(UsageError);
    expect(generator.state()).toEqual(new Generator(1).state());
  });

  test.each([[[-1]], [[2, 0.5]], [[NaN]]])("takes nothing from the stream for the shape %j, which is none", (shape) => {
    const generator = new Generator(1);
    expect(() => generator.uniform(shape)).toThrow(/uniform: extents/);
    expect(() => generator.normal(shape)).toThrow(/normal: extents/);
    expect(generator.state()).toEqual(new Generator(1).state());
  });

  test.each([-1, 0.5, NaN, 2 ** 53])("refuses the seed %d", (seed) => {
    expect(() => new Generator(seed)).toThrow(UsageError);
  });

  test("forks by name: equal names give equal streams, and forking takes nothing from the parent", () => {
    fc.assert(
      fc.property(fc.nat(), fc.string(), fc.string(), (seed, name, other) => {
        const parent = new Generator(seed);
        const stream = (from: Generator): number[] => numbers(() => from.uniform([8]));
        const child = stream(parent.fork(name));
        expect(stream(parent.fork(name))).toEqual(child);
        if (name !== other) expect(stream(parent.fork(other))).not.toEqual(child);
        expect(parent.state()).toEqual(new Generator(seed).state());
        expect(stream(parent)).not.toEqual(child);
      }),
    );
  });

  test("forks the same stream wherever it stands in its own", () => {
    const [fresh, used] = [new Generator(5), new Generator(5)];
    numbers(() => used.uniform([100]));
    expect(used.fork("weights").state()).toEqual(fresh.fork("weights").state());
  });

  test("and its forks are uncorrelated", () => {
    const n = 20_000;
    const parent = new Generator(3);
    const streams = [parent.fork("a"), parent.fork("b"), parent.fork("a").fork("b"), parent].map((g) => numbers(() => g.normal([n])));
    for (const [i, a] of streams.entries()) {
      for (const b of streams.slice(0, i)) {
        const correlation = a.reduce((sum, x, k) => sum + x * (b[k] as number), 0) / n;
        expect(Math.abs(correlation)).toBeLessThan(5 / Math.sqrt(n));
      }
    }
  });

  test("from entropy differs at each call", () => {
    expect(Generator.fromEntropy().state().key).not.toEqual(Generator.fromEntropy().state().key);
  });
});

describe("a permutation", () => {
  test("of n holds each of 0 … n − 1 once", () => {
    fc.assert(
      fc.property(fc.nat(), fc.nat(300), (seed, n) => {
        const order = [...new Generator(seed).permutation(n)];
        expect(order.toSorted((a, b) => a - b)).toEqual(Array.from({ length: n }, (_, i) => i));
      }),
    );
  });

  test("takes every order of 4 equally often", () => {
    const generator = new Generator(9);
    const rounds = 24_000;
    const counts = new Map<string, number>();
    for (let i = 0; i < rounds; i++) {
      const order = generator.permutation(4).join("");
      counts.set(order, (counts.get(order) ?? 0) + 1);
    }
    const expected = rounds / 24;
    const statistic = [...counts.values()].reduce((sum, count) => sum + (count - expected) ** 2 / expected, 0);
    expect(counts.size).toBe(24);
    expect(Math.abs(statistic - 23)).toBeLessThan(5 * Math.sqrt(2 * 23));
  });

  test.each([-1, 0.5, NaN])("of %d elements is refused, and takes nothing from the stream", (n) => {
    const generator = new Generator(1);
    expect(() => generator.permutation(n)).toThrow(ShapeError);
    expect(() => generator.permutation(n)).toThrow(/permutation: extents/);
    expect(generator.state()).toEqual(new Generator(1).state());
  });

  test("is another at the next call", () => {
    const generator = new Generator(1);
    expect(generator.permutation(20)).not.toEqual(generator.permutation(20));
  });
});
