import { bytesPerElement, type DType } from "../../dtype.ts";
import { broadcastStrides } from "../../shape.ts";
import type { Engine } from "./engine.ts";
import type { ExportName } from "./generated.ts";
import type { Kernels, Operand } from "./kernel.ts";
import { axesOf, BLOCK, runRows } from "./walk.ts";

/** The operations that have a kernel for the number type that a suffix stands for. */
type With<Suffix extends string> = ExportName extends infer Name
  ? Name extends `${infer Operation}_${Suffix}`
    ? Operation
    : never
  : never;
type FloatOperation = With<"f32"> & With<"f64">;
type AnyOperation = FloatOperation & With<"i32">;
type Names = Readonly<Record<DType, ExportName>>;

/** Signatures let no int32 through to these. */
function floats(name: FloatOperation): Names {
  const float64: ExportName = `${name}_f64`;
  return { float32: `${name}_f32`, float64, int32: float64 };
}
const all = (name: AnyOperation): Names => ({ float32: `${name}_f32`, float64: `${name}_f64`, int32: `${name}_i32` });

/** Nanoseconds that an element takes on one thread: `single` for 4 bytes, `double` for float64. */
interface Cost {
  readonly single: number;
  readonly double: number;
}
const cheap: Cost = { single: 0.3, double: 0.6 };
const costOf = ({ single, double }: Cost, dtype: DType): number => (dtype === "float64" ? double : single);

// A form says which of two or three operands move along the row: see assembly/walk.ts.
const BOTH = 0b0101;
const FIRST = 0b0001;
const SECOND = 0b0100;
const ALL_THREE = 0b010101;

/** y_i = f(x_i). */
const map =
  (names: Names, cost = cheap) =>
  (engine: Engine, [x]: [x: Operand], _: unknown, [y]: [Operand]): void => {
    runMap(engine, names[x.dtype], costOf(cost, x.dtype), x, y);
  };

function runMap(engine: Engine, name: ExportName, cost: number, x: Operand, y: Operand): void {
  const n = y.size;
  engine.run(name, Math.ceil(n / BLOCK), Math.min(n, BLOCK) * cost, x.pointer, y.pointer, n);
}

/** y_i = f(a_i, b_i) with broadcasting. Equal shapes and scalars, which are nearly all, are one row. */
const zip =
  (names: Names, cost = cheap) =>
  (engine: Engine, [a, b]: [a: Operand, b: Operand], _: unknown, [y]: [Operand]): void => {
    const n = y.size;
    if (n === 0) return;
    const [name, each] = [names[a.dtype], costOf(cost, a.dtype)];
    const form = a.size === n ? (b.size === n ? BOTH : b.size === 1 ? FIRST : 0) : a.size === 1 && b.size === n ? SECOND : 0;
    if (form !== 0) engine.run(name, Math.ceil(n / BLOCK), Math.min(n, BLOCK) * each, a.pointer, b.pointer, y.pointer, n, form);
    else
      runRows(
        engine,
        name,
        broadcast([a, b], y),
        [bytesPerElement[a.dtype], bytesPerElement[b.dtype]],
        each,
        a.pointer,
        b.pointer,
        y.pointer,
      );
  };

const broadcast = (operands: readonly Operand[], y: Operand): ReturnType<typeof axesOf> =>
  axesOf(
    y.shape,
    operands.map((x) => broadcastStrides(x.shape, y.shape)),
  );

const castNames: Readonly<Record<DType, Names>> = {
  float32: { float32: "copy_32", float64: "cast_f32_f64", int32: "cast_f32_i32" },
  float64: { float32: "cast_f64_f32", float64: "copy_64", int32: "cast_f64_i32" },
  int32: { float32: "cast_i32_f32", float64: "cast_i32_f64", int32: "copy_32" },
};

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
  negative: map(all("negative")),
  abs: map(all("abs")),
  sign: map(all("sign")),
  reciprocal: map(floats("reciprocal"), { single: 0.4, double: 1 }),
  sqrt: map(floats("sqrt"), { single: 0.5, double: 1.5 }),
  exp: map(floats("exp"), { single: 1, double: 4 }),
  log: map(floats("log"), { single: 1.3, double: 5 }),
  sin: map(floats("sin"), { single: 5, double: 10 }),
  cos: map(floats("cos"), { single: 5, double: 10 }),
  tanh: map(floats("tanh"), { single: 2, double: 12 }),
  sigmoid: map(floats("sigmoid"), { single: 1.5, double: 5 }),
  softplus: map(floats("softplus"), { single: 3, double: 12 }),
  erf: map(floats("erf"), { single: 2, double: 10 }),
  relu: map(floats("relu")),
  reluGradient: zip(floats("reluGradient")),
  add: zip(all("add")),
  subtract: zip(all("subtract")),
  multiply: zip(all("multiply")),
  divide: zip(floats("divide"), { single: 0.5, double: 1 }),
  maximum: zip(all("maximum")),
  minimum: zip(all("minimum")),
  power: zip(floats("power"), { single: 6, double: 15 }),
  equal: zip(all("equal")),
  less: zip(all("less")),
  lessEqual: zip(all("lessEqual")),
  where: (engine, [condition, a, b], _, [y]) => {
    const n = y.size;
    if (n === 0) return;
    const name = a.dtype === "float64" ? "where_64" : "where_32";
    const cost = costOf({ single: 0.5, double: 0.8 }, a.dtype);
    if (condition.size === n && a.size === n && b.size === n) {
      const pointers = [condition.pointer, a.pointer, b.pointer, y.pointer];
      engine.run(name, Math.ceil(n / BLOCK), Math.min(n, BLOCK) * cost, ...pointers, n, ALL_THREE);
    } else {
      const size = bytesPerElement[a.dtype];
      const axes = broadcast([condition, a, b], y);
      runRows(engine, name, axes, [4, size, size], cost, condition.pointer, a.pointer, b.pointer, y.pointer);
    }
  },
  cast: (engine, [x], _, [y]) => {
    runMap(engine, castNames[x.dtype][y.dtype], costOf(cheap, y.dtype), x, y);
  },
};
