import { broadcastStrides, sameShape } from "../../shape.ts";
import { portable, type DeviceArray, type Kernels, type Operand } from "./kernel.ts";
import type { Queue } from "./queue.ts";
import { strideArguments, walk, walking } from "./walk.ts";

/** y = f(x), `body` being what comes of x. */
function map(name: string, body: string): (queue: Queue, inputs: [x: Operand], params: unknown, outputs: [y: Operand]) => void {
  const kernel = portable(name, { a: "array" }, `const x = a[this.thread.x]; ${body}`);
  return (queue, [{ array: a }], _, [{ array: y }]) => {
    queue.run(kernel, [y.size], y, { a });
  };
}

/** z = f(x, y) with broadcasting, `body` being what comes of x and y. */
function zip(name: string, body: string): (queue: Queue, inputs: [a: Operand, b: Operand], params: unknown, outputs: [z: Operand]) => void {
  const flat = portable(name, { a: "array", b: "array" }, `const x = a[this.thread.x]; const y = b[this.thread.x]; ${body}`);
  const strided = walking((place) =>
    portable(
      `${name}, broadcasting`,
      { a: "array", b: "array", e1: "integer", e2: "integer", ...strideArguments("p"), ...strideArguments("q") },
      `const x = a[${place("p")}];
      const y = b[${place("q")}];
      ${body}`,
    ),
  );
  return (queue, [a, b], _, [z]) => {
    if (sameShape(a.shape, b.shape)) {
      queue.run(flat, [z.array.size], z.array, { a: a.array, b: b.array });
      return;
    }
    const own = [broadcastStrides(a.shape, z.shape), broadcastStrides(b.shape, z.shape)] as const;
    const { axes, threads, e1, e2, strides: [[p0, p1, p2, p3, p4], [q0, q1, q2, q3, q4]] } = walk(name, z.shape, own); // prettier-ignore
    queue.run(strided[axes], threads, z.array, { a: a.array, b: b.array, e1, e2, p0, p1, p2, p3, p4, q0, q1, q2, q3, q4 });
  };
}

const select = walking((place) =>
  portable(
    "where",
    {
      c: "array",
      a: "array",
      b: "array",
      e1: "integer",
      e2: "integer",
      ...strideArguments("r"),
      ...strideArguments("p"),
      ...strideArguments("q"),
    },
    `if (c[${place("r")}] != 0) { return a[${place("p")}]; }
    return b[${place("q")}];`,
  ),
);

const combine = portable(
  "linearCombination",
  { x: "array", y: "array", a: "float", b: "float" },
  `return a * x[this.thread.x] + b * y[this.thread.x];`,
);

const overRoot = portable(
  "divideByRoot",
  { x: "array", square: "array", scale: "float", rootScale: "float", epsilon: "float" },
  `return scale * x[this.thread.x] / (rootScale * Math.sqrt(square[this.thread.x]) + epsilon);`,
);

const copy = portable("copy", { a: "array" }, `return a[this.thread.x];`);
/** 0 for what is no integer at all: NaN, and infinities, which half of them equal (as half of 0 does). */
const truncate = portable(
  "truncate",
  { a: "array" },
  `const x = a[this.thread.x];
  if (isNan(x) == 1) { return 0; }
  if (x * 0.5 == x) { return 0; }
  if (x < 0) { return Math.ceil(x); }
  return Math.floor(x);`,
);

/** The same numbers in another array. */
export function copyArray(queue: Queue, from: DeviceArray, to: DeviceArray): void {
  queue.run(copy, [to.size], to, { a: from });
}

/**
 * The error function by its power series below 1, and beyond by the rational approximation of Abramowitz & Stegun 7.1.26, whose error is
 * 1.5e-7: float32 has no more.
 */
const ERF = `
  const z = Math.abs(x);
  if (z < 1) {
    const s = x * x;
    return 1.1283791671 * x * (1 - s * (0.3333333333 - s * (0.1 - s * (0.0238095238 - s * (0.0046296296
      - s * (0.0007575758 - s * (0.0001068376 - s * (0.0000132275 - s * 0.0000014589))))))));
  }
  const t = 1 / (1 + 0.3275911 * z);
  const p = t * (0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429))));
  const y = 1 - p * Math.exp(-z * z);
  if (x < 0) { return -y; }
  return y;`;

/**
 * sin(x + quarters · π/2): the devices' own may err by 2⁻¹¹. To x belongs the nearest multiple of π/2, taken away in three parts of which
 * float32 holds the first's products (Cody & Waite 1980, Software Manual for the Elementary Functions), so that below 8192 nothing is lost;
 * of what is left, at most π/4, the Taylor series. Beyond 1e5 the products round, and what is left may be anything: a number in [−1, 1] then.
 */
const sine = (quarters: number): string => `
  const n = Math.floor(x * 0.6366197723675814 + 0.5);
  const r = x - n * 1.5703125 - n * 0.0004837512969970703 - n * 0.00000007549789948768648;
  const s = r * r;
  const turn = n + ${quarters}.0;
  const half = turn * 0.5;
  let y = r * (1 - s * (0.16666666666 - s * (0.00833333333 - s * (0.000198412698 - s * 0.00000275573192))));
  if (Math.floor(half) != half) {
    y = 1 - s * (0.5 - s * (0.04166666667 - s * (0.00138888889 - s * (0.0000248015873 - s * 0.00000027557319))));
  }
  if (y > 1) { y = 1; }
  if (y < -1) { y = -1; }
  const quarter = half * 0.5;
  if (Math.floor(half) * 0.5 != Math.floor(quarter)) { return -y; }
  return y;`;

/**
 * x + x³ P(x²) near zero, ±(1 − t) / (1 + t) with t = exp(−2|x|) beyond. The devices' own may err by a unit of 1 where the result is small, and
 * is NaN on some where it overflows inside.
 */
const TANH = `
  const z = Math.abs(x);
  if (z < 0.625) {
    const s = x * x;
    return x - x * s * (0.3333328 - s * (0.13331442 - s * (0.053739715 - s * (0.02063909 - s * 0.00570499))));
  }
  const t = Math.exp(-z - z);
  const y = (1 - t) / (1 + t);
  if (x < 0) { return -y; }
  return y;`;

/**
 * max(x, 0) + log(1 + t) with t = exp(−|x|): of the sum only the digits of a large t would be left. log(1 + t) = 2 artanh(t / (2 + t)), and that
 * is at most ⅓, so that seven terms of its series are exact to 1e-8, relative to it.
 */
const SOFTPLUS = `
  const t = Math.exp(-Math.abs(x));
  const s = t / (2 + t);
  const q = s * s;
  const series = 1 + q * (0.3333333333 + q * (0.2 + q * (0.1428571429 + q * (0.1111111111 + q * (0.0909090909 + q * 0.0769230769)))));
  const e = 2 * s * series;
  if (x > 0) { return x + e; }
  return e;`;

/** The device knows no power of a negative number: its magnitude, and the sign of odd exponents. */
const POWER = `
  if (y == 0) { return 1; }
  if (x >= 0) { return Math.pow(x, y); }
  const half = y * 0.5;
  const size = Math.pow(-x, y);
  if (Math.floor(y) != y) { return (x - x) / (x - x); }
  if (Math.floor(half) == half) { return size; }
  return -size;`;

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
  negative: map("negative", "return -x;"),
  abs: map("abs", "return Math.abs(x);"),
  sign: map("sign", "if (x > 0) { return 1; } if (x < 0) { return -1; } return x;"),
  reciprocal: map("reciprocal", "return 1 / x;"),
  sqrt: map("sqrt", "return Math.sqrt(x);"),
  exp: map("exp", "return Math.exp(x);"),
  log: map("log", "return Math.log(x);"),
  sin: map("sin", sine(0)),
  cos: map("cos", sine(1)),
  tanh: map("tanh", TANH),
  sigmoid: map("sigmoid", "if (x >= 0) { return 1 / (1 + Math.exp(-x)); } const e = Math.exp(x); return e / (1 + e);"),
  softplus: map("softplus", SOFTPLUS),
  erf: map("erf", ERF),
  relu: map("relu", "if (x < 0) { return 0; } return x;"), // lets NaN through
  reluGradient: zip("reluGradient", "if (x > 0) { return y; } return 0;"),
  add: zip("add", "return x + y;"),
  subtract: zip("subtract", "return x - y;"),
  multiply: zip("multiply", "return x * y;"),
  divide: zip("divide", "return x / y;"),
  maximum: zip("maximum", "if (isNan(x) == 1) { return x; } if (isNan(y) == 1) { return y; } if (x > y) { return x; } return y;"),
  minimum: zip("minimum", "if (isNan(x) == 1) { return x; } if (isNan(y) == 1) { return y; } if (x < y) { return x; } return y;"),
  power: zip("power", POWER),
  equal: zip("equal", "if (x == y) { return 1; } return 0;"),
  less: zip("less", "if (x < y) { return 1; } return 0;"),
  lessEqual: zip("lessEqual", "if (x <= y) { return 1; } return 0;"),
  where: (queue, [c, a, b], _, [z]) => {
    const [ofC, ofA, ofB] = [c, a, b].map(({ shape }) => broadcastStrides(shape, z.shape)) as [number[], number[], number[]];
    const { axes, threads, e1, e2, strides } = walk("where", z.shape, [ofC, ofA, ofB]);
    const [[r0, r1, r2, r3, r4], [p0, p1, p2, p3, p4], [q0, q1, q2, q3, q4]] = strides;
    const arrays = { c: c.array, a: a.array, b: b.array };
    queue.run(select[axes], threads, z.array, { ...arrays, e1, e2, r0, r1, r2, r3, r4, p0, p1, p2, p3, p4, q0, q1, q2, q3, q4 });
  },
  cast: (queue, [{ array: a, dtype }], params, [{ array: y }]) => {
    queue.run(params.dtype === "int32" && dtype !== "int32" ? truncate : copy, [y.size], y, { a });
  },
  linearCombination: (queue, [{ array: x }, { array: y }], { a, b }, [{ array: z }]) => {
    queue.run(combine, [z.size], z, { x, y, a, b });
  },
  divideByRoot: (queue, [{ array: x }, { array: square }], { scale, rootScale, epsilon }, [{ array: y }]) => {
    queue.run(overRoot, [y.size], y, { x, square, scale, rootScale, epsilon });
  },
};
