import type { Backend } from "./backend.ts";
import { UsageError } from "./errors.ts";
import { philoxBlock, type Key } from "./philox.ts";
import { checkShape, sizeOf, type Shape } from "./shape.ts";
import { apply, type Tensor } from "./tensor.ts";
import type { FloatDType } from "./dtype.ts";

export interface RandomOptions {
  /** Default `float32`. */
  readonly dtype?: FloatDType;
  readonly backend?: Backend;
}

/** What a checkpoint needs to go on with a stream. */
export interface GeneratorState {
  readonly key: readonly [number, number];
  readonly offset: number;
}

/**
 * A stream of random numbers with an explicit seed: the same numbers on every backend and for any number of threads. Each
 * call takes the next blocks of the stream; `fork(name)` gives an independent stream that depends only on seed and name.
 */
export class Generator {
  readonly #key: Key;
  #offset = 0;

  /** @param seed a whole number of at least 0, below 2⁵³, or the two 32-bit words of a Philox key. */
  constructor(seed: number | Key) {
    if (typeof seed === "number" && (!Number.isSafeInteger(seed) || seed < 0)) {
      throw new UsageError(`Generator: the seed must be a whole number of at least 0 but is ${seed}`);
    }
    this.#key = typeof seed === "number" ? [seed >>> 0, Math.floor(seed / 2 ** 32) >>> 0] : seed;
  }

  /** A generator that differs at each call: for experiments that need not be repeated. */
  static fromEntropy(): Generator {
    const [low, high] = globalThis.crypto.getRandomValues(new Uint32Array(2));
    return new Generator([low as number, high as number]);
  }

  /** Uniform on [0, 1), in steps of 2⁻²⁴ (float32) or 2⁻⁵³ (float64). */
  uniform(shape: Shape, { dtype = "float32", backend }: RandomOptions = {}): Tensor {
    const params = { shape, dtype, key: this.#key, offset: this.#take("uniform", shape, dtype) };
    return apply("uniform", [], params, backend ? { backend } : {})[0];
  }

  /** Standard normal. */
  normal(shape: Shape, { dtype = "float32", backend }: RandomOptions = {}): Tensor {
    const params = { shape, dtype, key: this.#key, offset: this.#take("normal", shape, dtype) };
    return apply("normal", [], params, backend ? { backend } : {})[0];
  }

  /** n numbers uniform on [0, 1), on the host, in steps of 2⁻⁵³. */
  numbers(n: number): Float64Array {
    return this.#numbers("numbers", n);
  }

  #numbers(operation: string, n: number): Float64Array {
    const start = this.#take(operation, [n], "float64");
    const words = new Uint32Array(4 * Math.ceil(n / 2));
    for (let block = 0; block < words.length / 4; block++) philoxBlock(start + block, this.#key, words, 4 * block);
    const bits = (i: number): number => (words[2 * i] as number) * 2 ** 21 + ((words[2 * i + 1] as number) >>> 11);
    return Float64Array.from({ length: n }, (_, i) => bits(i) * 2 ** -53);
  }

  /** A random order of 0 … n − 1, on the host (Fisher–Yates). */
  permutation(n: number): Int32Array {
    const draws = this.#numbers("permutation", n);
    const order = Int32Array.from({ length: n }, (_, i) => i);
    for (let i = n - 1; i > 0; i--) {
      // 53 random bits: the bias of scaling them to i + 1 ≤ 2³¹ places is below 2⁻²².
      const j = Math.floor((draws[i] as number) * (i + 1));
      const held = order[i] as number;
      order[i] = order[j] as number;
      order[j] = held;
    }
    return order;
  }

  /** `count` of 0 … n − 1 without replacement, ascending, on the host (Floyd's method). */
  choice(n: number, count: number): Int32Array {
    if (!(Number.isSafeInteger(count) && count >= 0 && count <= n)) {
      throw new UsageError(`choice: the count must be a whole number from 0 to ${n} but is ${count}`);
    }
    const draws = this.#numbers("choice", count);
    const chosen = new Set<number>();
    draws.forEach((draw, i) => {
      const last = n - count + i;
      const j = Math.floor(draw * (last + 1));
      chosen.add(chosen.has(j) ? last : j);
    });
    return Int32Array.from(chosen).sort();
  }

  /** An independent stream named by a string: does not advance this one. */
  fork(name: string): Generator {
    // The new key is a Philox block of this key at a counter made from the name (FNV-1a), far from ordinary offsets.
    let hash = 0x811c9dc5;
    for (const character of name) hash = Math.imul(hash ^ (character.codePointAt(0) as number), 0x01000193) >>> 0;
    const words = new Uint32Array(4);
    philoxBlock(2 ** 52 + hash, this.#key, words);
    return new Generator([words[0] as number, words[1] as number]);
  }

  state(): GeneratorState {
    return { key: this.#key, offset: this.#offset };
  }

  /** @throws UsageError if the state belongs to another stream. */
  load(state: GeneratorState): void {
    if (state.key[0] !== this.#key[0] || state.key[1] !== this.#key[1]) {
      throw new UsageError("Generator.load: the state belongs to a generator with another seed or name");
    }
    if (!Number.isSafeInteger(state.offset) || state.offset < 0) {
      throw new UsageError(`Generator.load: the offset must be a whole number of at least 0 but is ${state.offset}`);
    }
    this.#offset = state.offset;
  }

  /** Reserves the blocks for a tensor: four float32 or two float64 a block. Nothing moves if the shape is none. */
  #take(operation: string, shape: Shape, dtype: FloatDType): number {
    checkShape(operation, shape);
    const size = sizeOf(shape);
    const start = this.#offset;
    this.#offset += Math.ceil(size / (dtype === "float32" ? 4 : 2));
    return start;
  }
}
