import type { TypedArray } from "../../dtype.ts";
import { broadcastStrides, sameShape, type Shape } from "../../shape.ts";
import { offsets, type Operand, type Kernels } from "./kernel.ts";

/** y_i = f(x_i). */
const map =
  (f: (x: number) => number) =>
  ([x]: [x: Operand], _: unknown, [y]: [Operand]): void => {
    const [from, to] = [x.data, y.data];
    for (let i = 0; i < to.length; i++) to[i] = f(from[i] as number);
  };

/**
 * Whether an operand that stretches to `to` is read over and over from its start: its shape, but for leading extents of 1, is
 * the end of `to`. So are equal shapes, rows and scalars, and a running index then takes the place of an array of them.
 */
function repeats(from: Shape, to: Shape): boolean {
  const first = from.findIndex((extent) => extent !== 1);
  const row = first < 0 ? [] : from.slice(first);
  return sameShape(row, to.slice(to.length - row.length));
}

const bothRepeat = (a: Operand, b: Operand, y: Operand): boolean => repeats(a.shape, y.shape) && repeats(b.shape, y.shape);

/** y_i = f(a_i, b_i) with broadcasting. */
const zip =
  (f: (a: number, b: number) => number) =>
  ([a, b]: [a: Operand, b: Operand], _: unknown, [y]: [Operand]): void => {
    const [p, q, to] = [a.data, b.data, y.data];
    if (bothRepeat(a, b, y)) {
      for (let i = 0, atA = 0, atB = 0; i < to.length; i++) {
        to[i] = f(p[atA] as number, q[atB] as number);
        if (++atA === p.length) atA = 0;
        if (++atB === q.length) atB = 0;
      }
    } else {
      const atA = offsets(y.shape, broadcastStrides(a.shape, y.shape));
      const atB = offsets(y.shape, broadcastStrides(b.shape, y.shape));
      for (let i = 0; i < to.length; i++) to[i] = f(p[atA[i] as number] as number, q[atB[i] as number] as number);
    }
  };

/** Hot loops of training are written out: a call through a function value costs more than the addition. */
function addRepeating(p: TypedArray, q: TypedArray, to: TypedArray): void {
  if (p.length === q.length) {
    for (let i = 0; i < to.length; i++) to[i] = (p[i] as number) + (q[i] as number);
    return;
  }
  for (let i = 0, atP = 0, atQ = 0; i < to.length; i++) {
    to[i] = (p[atP] as number) + (q[atQ] as number);
    if (++atP === p.length) atP = 0;
    if (++atQ === q.length) atQ = 0;
  }
}
function multiplyRepeating(p: TypedArray, q: TypedArray, to: TypedArray): void {
  if (p.length === q.length) {
    for (let i = 0; i < to.length; i++) to[i] = (p[i] as number) * (q[i] as number);
    return;
  }
  for (let i = 0, atP = 0, atQ = 0; i < to.length; i++) {
    to[i] = (p[atP] as number) * (q[atQ] as number);
    if (++atP === p.length) atP = 0;
    if (++atQ === q.length) atQ = 0;
  }
}

const addAny = zip((a, b) => a + b);
const multiplyAny = zip((a, b) => a * b);
/** Modulo 2³², as sums are: a product in float64 would lose the low digits beyond 2⁵³. */
const multiplyIntegers = zip(Math.imul);

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
  | "linearCombination"
  | "divideByRoot"
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
    const [[a, b], [y]] = [inputs, outputs];
    if (bothRepeat(a, b, y)) addRepeating(a.data, b.data, y.data);
    else addAny(inputs, params, outputs);
  },
  subtract: zip((a, b) => a - b),
  multiply: (inputs, params, outputs) => {
    const [[a, b], [y]] = [inputs, outputs];
    if (a.data instanceof Int32Array) multiplyIntegers(inputs, params, outputs);
    else if (bothRepeat(a, b, y)) multiplyRepeating(a.data, b.data, y.data);
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
    const [c, p, q, to] = [condition.data, a.data, b.data, y.data];
    if ([condition, a, b].every((x) => repeats(x.shape, y.shape))) {
      for (let i = 0, atC = 0, atA = 0, atB = 0; i < to.length; i++) {
        to[i] = (c[atC] !== 0 ? p[atA] : q[atB]) as number;
        if (++atC === c.length) atC = 0;
        if (++atA === p.length) atA = 0;
        if (++atB === q.length) atB = 0;
      }
      return;
    }
    const [atC, atA, atB] = [condition, a, b].map((x) => offsets(y.shape, broadcastStrides(x.shape, y.shape))) as [
      Int32Array,
      Int32Array,
      Int32Array,
    ];
    for (let i = 0; i < to.length; i++) to[i] = (c[atC[i] as number] !== 0 ? p[atA[i] as number] : q[atB[i] as number]) as number;
  },
  linearCombination: ([x, y], { a, b }, [z]) => {
    const [p, q, to] = [x.data, y.data, z.data];
    for (let i = 0; i < to.length; i++) to[i] = a * (p[i] as number) + b * (q[i] as number);
  },
  divideByRoot: ([x, square], { scale, rootScale, epsilon }, [y]) => {
    const [p, q, to] = [x.data, square.data, y.data];
    for (let i = 0; i < to.length; i++) to[i] = (scale * (p[i] as number)) / (rootScale * Math.sqrt(q[i] as number) + epsilon);
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
