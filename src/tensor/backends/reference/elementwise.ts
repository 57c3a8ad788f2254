import type { TypedArray } from "../../dtype.ts";
import { broadcastStrides, sameShape } from "../../shape.ts";
import { offsets, type Operand, type Kernels } from "./kernel.ts";

/** y_i = f(x_i). */
const map =
  (f: (x: number) => number) =>
  ([x]: [x: Operand], _: unknown, [y]: [Operand]): void => {
    const [from, to] = [x.data, y.data];
    for (let i = 0; i < to.length; i++) to[i] = f(from[i] as number);
  };

/** y_i = f(a_i, b_i) with broadcasting: equal shapes and scalars directly, anything else through index arrays. */
const zip =
  (f: (a: number, b: number) => number) =>
  ([a, b]: [a: Operand, b: Operand], _: unknown, [y]: [Operand]): void => {
    const [p, q, to] = [a.data, b.data, y.data];
    const [sameA, sameB] = [sameShape(a.shape, y.shape), sameShape(b.shape, y.shape)];
    if (sameA && sameB) {
      for (let i = 0; i < to.length; i++) to[i] = f(p[i] as number, q[i] as number);
    } else if (sameA && q.length === 1) {
      const scalar = q[0] as number;
      for (let i = 0; i < to.length; i++) to[i] = f(p[i] as number, scalar);
    } else {
      const atA = offsets(y.shape, broadcastStrides(a.shape, y.shape));
      const atB = offsets(y.shape, broadcastStrides(b.shape, y.shape));
      for (let i = 0; i < to.length; i++) to[i] = f(p[atA[i] as number] as number, q[atB[i] as number] as number);
    }
  };

/** Hot loops of training are written out: a call through a function value costs more than the addition. */
function addInto(p: TypedArray, q: TypedArray, to: TypedArray): void {
  for (let i = 0; i < to.length; i++) to[i] = (p[i] as number) + (q[i] as number);
}
function multiplyInto(p: TypedArray, q: TypedArray, to: TypedArray): void {
  for (let i = 0; i < to.length; i++) to[i] = (p[i] as number) * (q[i] as number);
}

const addAny = zip((a, b) => a + b);
const multiplyAny = zip((a, b) => a * b);

export const elementwise: Kernels<
  | "negative"
  | "abs"
  | "sign"
  | "reciprocal"
  | "sqrt"
  | "exp"
  | "log"
  | "sin"
  | "cos"
  | "tanh"
  | "sigmoid"
  | "softplus"
  | "erf"
  | "relu"
  | "reluGradient"
  | "add"
  | "subtract"
  | "multiply"
  | "divide"
  | "maximum"
  | "minimum"
  | "power"
  | "equal"
  | "less"
  | "lessEqual"
  | "where"
  | "cast"
> = {
  negative: map((x) => -x),
  abs: map(Math.abs),
  sign: map(Math.sign),
  reciprocal: map((x) => 1 / x),
  sqrt: map(Math.sqrt),
  exp: map(Math.exp),
  log: map(Math.log),
  sin: map(Math.sin),
  cos: map(Math.cos),
  tanh: map(Math.tanh),
  sigmoid: map((x) => (x >= 0 ? 1 / (1 + Math.exp(-x)) : Math.exp(x) / (1 + Math.exp(x)))),
  softplus: map((x) => Math.max(x, 0) + Math.log1p(Math.exp(-Math.abs(x)))),
  erf: map(erf),
  relu: ([x], _, [y]) => {
    const [from, to] = [x.data, y.data];
    for (let i = 0; i < to.length; i++) {
      const value = from[i] as number;
      to[i] = value < 0 ? 0 : value; // lets NaN through
    }
  },
  reluGradient: ([output, gradient], _, [y]) => {
    const [out, from, to] = [output.data, gradient.data, y.data];
    for (let i = 0; i < to.length; i++) to[i] = (out[i] as number) > 0 ? (from[i] as number) : 0;
  },
  add: (inputs, params, outputs) => {
    const [a, b] = inputs;
    if (sameShape(a.shape, b.shape)) addInto(a.data, b.data, outputs[0].data);
    else addAny(inputs, params, outputs);
  },
  subtract: zip((a, b) => a - b),
  multiply: (inputs, params, outputs) => {
    const [a, b] = inputs;
    if (sameShape(a.shape, b.shape)) multiplyInto(a.data, b.data, outputs[0].data);
    else multiplyAny(inputs, params, outputs);
  },
  divide: zip((a, b) => a / b),
  maximum: zip(Math.max),
  minimum: zip(Math.min),
  power: zip(Math.pow),
  equal: zip((a, b) => (a === b ? 1 : 0)),
  less: zip((a, b) => (a < b ? 1 : 0)),
  lessEqual: zip((a, b) => (a <= b ? 1 : 0)),
  where: ([condition, a, b], _, [y]) => {
    const [atC, atA, atB] = [condition, a, b].map((x) => offsets(y.shape, broadcastStrides(x.shape, y.shape))) as [
      Int32Array,
      Int32Array,
      Int32Array,
    ];
    for (let i = 0; i < y.data.length; i++) {
      y.data[i] = (condition.data[atC[i] as number] !== 0 ? a.data[atA[i] as number] : b.data[atB[i] as number]) as number;
    }
  },
  cast: ([x], _, [y]) => {
    y.data.set(x.data); // typed arrays convert as the primitive is defined: to int32 by truncation
  },
};

/**
 * The error function: its Taylor series near zero, and the continued fraction of erfc (Abramowitz & Stegun 7.1.14) beyond;
 * both to float64 accuracy. Slow and plain; the definition that faster kernels are compared with.
 */
function erf(x: number): number {
  const z = Math.abs(x);
  if (Number.isNaN(x)) return x;
  if (z > 6) return Math.sign(x);
  if (z < 2.5) {
    // erf x = 2/√π · e^(−x²) Σ 2ⁿ x^(2n+1) / (2n+1)!!   (A&S 7.1.6): all terms positive, no cancellation
    let term = x;
    let sum = x;
    for (let n = 1; Math.abs(term) > 1e-17 * Math.abs(sum); n++) {
      term *= (2 * x * x) / (2 * n + 1);
      sum += term;
    }
    return (2 / Math.sqrt(Math.PI)) * Math.exp(-x * x) * sum;
  }
  let fraction = z;
  for (let k = 60; k > 0; k--) fraction = z + k / 2 / fraction;
  return Math.sign(x) * (1 - Math.exp(-z * z) / (Math.sqrt(Math.PI) * fraction));
}
