import fc from "fast-check";
import { expect } from "vitest";
import { defaultBackend } from "../src/tensor/index.ts";

/**
 * Properties are checked on the same samples every time. `KFACET_SEED=random npm test` draws new ones, `KFACET_SEED=123` repeats
 * a run: fast-check prints seed and path of a counterexample.
 */
const seed = process.env["KFACET_SEED"] ?? "20260101";
if (seed !== "random") {
  if (!/^-?\d+$/.test(seed)) throw new Error(`KFACET_SEED is ${seed}; expected an integer or "random"`);
  fc.configureGlobal({ seed: Number(seed) });
}

// Threads that run modules of src, which is TypeScript, are started with what this process was.
process.execArgv.push("--import", new URL("../scripts/typescript/register.js", import.meta.url).href);

interface AllcloseOptions {
  /** Largest accepted max|actual − expected| / max|expected|; the numerator itself where `expected` is all zero. Default 1e-5. */
  readonly relative?: number;
}

declare module "vitest" {
  interface Matchers<T> {
    /** The synchronous function leaves as many buffers of the default backend in use as it found. */
    toHaveNoLeaks(this: Matchers<T>): void;
    /** Equal lengths, no NaN, and an error of at most `relative`, measured over the whole array. */
    toBeAllclose(this: Matchers<T>, expected: ArrayLike<number>, options?: AllcloseOptions): void;
    /** Two typed arrays of one type with the same bits, so that −0 is not 0 and one NaN is not another. */
    toHaveSameBits(this: Matchers<T>, expected: ArrayBufferView): void;
  }
}

interface Verdict {
  pass: boolean;
  message: () => string;
}

expect.extend({ toHaveNoLeaks, toBeAllclose, toHaveSameBits });

function toHaveNoLeaks(f: unknown): Verdict {
  if (typeof f !== "function") throw new TypeError("toHaveNoLeaks: expected a function");
  const before = defaultBackend().memory().buffers;
  const result = (f as () => unknown)();
  if (result instanceof Promise) throw new TypeError("toHaveNoLeaks: the function returned a Promise but must be synchronous");
  const after = defaultBackend().memory().buffers;
  return {
    pass: after === before,
    message: () => `the function found ${before} buffers in use and left ${after} (${after > before ? "+" : ""}${after - before})`,
  };
}

function toBeAllclose(actual: unknown, expected: ArrayLike<number>, { relative = 1e-5 }: AllcloseOptions = {}): Verdict {
  if (!isArrayLike(actual))
    throw new TypeError("toBeAllclose: expected an array or a typed array; read a tensor with data() or dataSync()");
  if (actual.length !== expected.length) {
    return { pass: false, message: () => `${actual.length} elements where ${expected.length} are expected` };
  }
  let scale = 0;
  let worst = { difference: 0, index: 0 };
  for (let i = 0; i < expected.length; i++) {
    const [a, b] = [actual[i] as number, expected[i] as number];
    if (Number.isFinite(b)) scale = Math.max(scale, Math.abs(b));
    // Equal infinities differ by nothing; NaN differs from everything, and from then on nothing is worse.
    const difference = a === b ? 0 : Math.abs(a - b);
    if (Number.isNaN(difference) || difference > worst.difference) worst = { difference, index: i };
    if (Number.isNaN(difference)) break;
  }
  const error = scale === 0 ? worst.difference : worst.difference / scale;
  return {
    pass: error <= relative,
    message: () =>
      `${scale === 0 ? "absolute" : "relative"} error ${error} (accepted: ${relative}), worst at index ${worst.index} of ` +
      `${expected.length}: ${actual[worst.index]}, expected ${expected[worst.index]}`,
  };
}

function toHaveSameBits(actual: unknown, expected: ArrayBufferView): Verdict {
  if (!isTypedArray(actual) || !isTypedArray(expected)) throw new TypeError("toHaveSameBits: expected two typed arrays");
  const bytes = ({ buffer, byteOffset, byteLength }: ArrayBufferView): Uint8Array => new Uint8Array(buffer, byteOffset, byteLength);
  const pass = actual.constructor === expected.constructor && Buffer.compare(bytes(actual), bytes(expected)) === 0;
  return {
    pass,
    message: () => {
      if (pass) return `all ${expected.length} elements have the same bits`;
      if (actual.length !== expected.length) return `${actual.length} elements where ${expected.length} are expected`;
      const at = Array.from(expected).findIndex((value, i) => !Object.is(value, actual[i]));
      return `${actual.constructor.name} differs from ${expected.constructor.name} from index ${at} on: ${actual[at]}, expected ${expected[at]}`;
    },
  };
}

function isTypedArray(value: unknown): value is ArrayBufferView & ArrayLike<number> {
  return ArrayBuffer.isView(value) && "length" in value;
}

function isArrayLike(value: unknown): value is ArrayLike<number> {
  return Array.isArray(value) || (ArrayBuffer.isView(value) && "length" in value);
}
