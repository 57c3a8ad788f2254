import { BackendError } from "../../errors.ts";
import type { ArgumentKind, PortableKernel } from "./kernel.ts";

/*
 * From a kernel in JavaScript to WGSL or GLSL, by gpu.js. Only its translator is used: its own way of running a kernel allocates in each
 * call, reads back by itself and cannot put several kernels into one submission. That takes classes that gpu.js exports without describing
 * them, all of them named here and nowhere else, and is why package.json pins its version to the letter.
 */

/** What is used of gpu.js's `FunctionBuilder`. */
interface FunctionBuilder {
  /** The kernel as text, behind the functions that it calls. */
  getPrototypes(name: "kernel"): string[];
}

/** What makes text of one function, in one language. */
type FunctionNode = new (source: string, settings: object) => object;

export interface GpuJs {
  readonly FunctionBuilder: { fromKernel(kernel: object, node: FunctionNode, settings: object): FunctionBuilder };
  readonly WGSLFunctionNode: FunctionNode;
  readonly WebGL2FunctionNode: FunctionNode;
}

const TYPES: Readonly<Record<ArgumentKind, string>> = { array: "Array", integer: "Integer", float: "Float" };
const WGSL_TYPES = { integer: "i32", float: "f32" } as const;
const GLSL_TYPES = { array: "sampler2D", integer: "int", float: "float" } as const;

/** WGSL whose condition holds for NaN: comparisons may be compiled as if there were none. */
export const nanTest = (v: string): string => `(bitcast<u32>(${v}) & 0x7fffffffu) > 0x7f800000u`;

/** A function that kernels may call, with an integer for result. */
interface Helper {
  readonly name: string;
  readonly takes: readonly string[];
  /** Default integers. */
  readonly of?: "Float";
  readonly body: string;
  /** In place of what gpu.js would make of it. */
  readonly wgsl?: string;
  readonly glsl?: string;
}

/*
 * gpu.js makes a float of every variable but a loop's counter, so what computes places with integers is one expression, or a function.
 */
const helpers: readonly Helper[] = [
  {
    // gpu.js divides integers as float32: made right up to 2²⁴ here, and beyond that by languages that can divide them.
    name: "quotient",
    takes: ["a", "b"],
    body: `let q = Math.floor(a / b);
      if (q * b > a) { q = q - 1; }
      if ((q + 1) * b <= a) { q = q + 1; }
      return q;`,
    wgsl: "fn fn_quotient(a : i32, b : i32) -> i32 { return a / b; }",
    glsl: "int quotient(int a, int b) { return a / b; }",
  },
  // What was read of an array, as an integer.
  { name: "whole", takes: ["x"], of: "Float", body: "return x;" },
  {
    // 1 or 0: drivers may compile comparisons as if there were no NaN, so it is told by its bits.
    name: "isNan",
    takes: ["x"],
    of: "Float",
    body: "if (x == x) { return 0; } return 1;",
    wgsl: `fn fn_isNan(x : f32) -> i32 { return i32(${nanTest("x")}); }`,
    glsl: "int isNan(float x) { return int((floatBitsToUint(x) & 0x7fffffffu) > 0x7f800000u); }",
  },
  { name: "remainder", takes: ["a", "b"], body: "return a - b * quotient(a, b);" },
  {
    // Of the walk along five axes: see walk.ts.
    name: "placeOf",
    takes: ["z", "y", "x", "e1", "e2", "s0", "s1", "s2", "s3", "s4"],
    body: `return s0 * quotient(quotient(z, e2), e1) + s1 * remainder(quotient(z, e2), e1) + s2 * remainder(z, e2) + s3 * y + s4 * x;`,
  },
];

/** A loop of gpu.js ends after so many rounds, whatever its condition says; its default of 1000 would cut sums short in silence. */
const ROUNDS = 2 ** 31 - 1;

/** Threads of a workgroup. */
export const GROUP = 64;

/** gpu.js's own settings of a kernel, for WebGPU and for WebGL alike. */
function settingsOf(kernel: PortableKernel): object {
  const kernelArguments = Object.entries(kernel.takes).map(([name, kind]) => ({ name, type: TYPES[kind] }));
  return {
    source: sourceOf(kernel),
    kernelArguments,
    argumentNames: Object.keys(kernel.takes),
    // Of arrays: flat, in float32.
    argumentSizes: kernelArguments.map(() => 0),
    argumentBitRatios: kernelArguments.map(() => 4),
    kernelConstants: [],
    constants: {},
    constantBitRatios: {},
    functions: helpers.map(({ name, takes, body, of = "Integer" }) => ({
      name,
      source: `function ${name}(${takes.join(", ")}) {${body}}`,
      argumentTypes: takes.map(() => of),
      returnType: "Integer",
    })),
    output: [1, 1, 1],
    precision: "single",
    loopMaxIterations: ROUNDS,
    dynamicOutput: true,
    dynamicArguments: true,
  };
}

/** A kernel as gpu.js takes it. */
function sourceOf({ takes, body }: PortableKernel): string {
  return `function (${Object.keys(takes).join(", ")}) {${body}}`;
}

/** @throws BackendError for a kernel that gpu.js cannot translate. */
function translate(gpuJs: GpuJs, kernel: PortableKernel, language: "wgsl" | "glsl"): { body: string; functions: string } {
  const node = language === "wgsl" ? gpuJs.WGSLFunctionNode : gpuJs.WebGL2FunctionNode;
  try {
    const builder = gpuJs.FunctionBuilder.fromKernel(settingsOf(kernel), node, { fixIntegerDivisionAccuracy: false });
    const parts = builder.getPrototypes("kernel");
    const functions = parts.slice(0, -1).map((text) => helpers.find(({ name }) => isFunction(text, name, language))?.[language] ?? text);
    return { body: parts.at(-1) as string, functions: functions.join("\n") };
  } catch (cause) {
    const why = cause instanceof Error ? cause.message : String(cause);
    throw new BackendError(`gpu: gpu.js cannot translate the kernel "${kernel.name}" (${why}): ${sourceOf(kernel)}`, { cause });
  }
}

/** Whether a translated function is that of a name. */
function isFunction(text: string, name: string, language: "wgsl" | "glsl"): boolean {
  return text.startsWith(language === "wgsl" ? `fn fn_${name}(` : `int ${name}(`);
}

/**
 * Statements that set x, y and z to the place of thread number `flatId`, by no more divisions than what is used of it needs: they take longer
 * than most kernels have to do otherwise.
 */
function setPlace(used: string, thread: string, type: string, [X, Y]: readonly [X: string, Y: string]): string {
  const declare = (name: string, value: string): string => (type === "int" ? `int ${name} = ${value};` : `let ${name} = ${value};`);
  if (used.includes(`${thread}.z`)) {
    return [
      declare("line", `flatId / ${X}`),
      declare("z", `line / ${Y}`),
      declare("x", `flatId - line * ${X}`),
      declare("y", `line - z * ${Y}`),
    ].join(" ");
  }
  const none = type === "int" ? "0" : "0u";
  if (used.includes(`${thread}.y`)) return [declare("y", `flatId / ${X}`), declare("x", `flatId - y * ${X}`), declare("z", none)].join(" ");
  return [declare("x", "flatId"), declare("y", none), declare("z", none)].join(" ");
}

/**
 * A whole WGSL module. Group 0: the arrays in their order, then the result. Group 1: the parameters. The parameters are the extents of the
 * threads and the width of a row of workgroups, in threads, as u32; then the numbers in their order.
 * @throws BackendError for a kernel that gpu.js cannot translate.
 */
export function toWgsl(gpuJs: GpuJs, kernel: PortableKernel): string {
  const kinds = Object.entries(kernel.takes);
  const arrays = kinds.flatMap(([name, kind]) => (kind === "array" ? [name] : []));
  const numbers = kinds.flatMap(([name, kind]) => (kind === "array" ? [] : [[name, WGSL_TYPES[kind]] as const]));
  const { body, functions } = translate(gpuJs, kernel, "wgsl");
  return `struct Params {
  outputX : u32, outputY : u32, outputZ : u32, width : u32,
${numbers.map(([name, type]) => `  user_${name} : ${type},\n`).join("")}}
@group(1) @binding(0) var<uniform> params : Params;
${arrays.map((name, i) => `@group(0) @binding(${i}) var<storage, read> user_${name} : array<f32>;\n`).join("")}\
@group(0) @binding(${arrays.length}) var<storage, read_write> result : array<f32>;
const LOOP_MAX : i32 = ${ROUNDS};
var<private> threadGid : vec3<u32>;
${arrays.map((name) => `fn get_user_${name}(z : i32, y : i32, x : i32) -> f32 { return user_${name}[x]; }\n`).join("")}\
fn _pow(x : f32, y : f32) -> f32 { return pow(x, y); }
${functions}
@compute @workgroup_size(${GROUP}) fn main(@builtin(global_invocation_id) id : vec3<u32>) {
  let flatId = id.x + id.y * params.width;
  if (flatId >= params.outputX * params.outputY * params.outputZ) { return; }
  ${setPlace(`${functions}${body}`, "threadGid", "u32", ["params.outputX", "params.outputY"])}
  threadGid = vec3<u32>(x, y, z);
  let data_index = i32(flatId);
${body}
}
`;
}

/** Numbers in a row of a texture. */
export const TEXTURE_ROW = 4096;

/**
 * A whole fragment shader for WebGL2, whose fragment is an element of the result. Uniforms: `extents` of the threads, and the arguments as
 * `user_` and their names. An array is a texture of float32 with TEXTURE_ROW numbers a row.
 * @throws BackendError for a kernel that gpu.js cannot translate.
 */
export function toGlsl(gpuJs: GpuJs, kernel: PortableKernel): string {
  const { body, functions } = translate(gpuJs, kernel, "glsl");
  const row = `${TEXTURE_ROW - 1}, (place) >> ${Math.log2(TEXTURE_ROW)}`;
  return `#version 300 es
precision highp float;
precision highp int;
precision highp sampler2D;
#define getMemoryOptimized32(array, size, extents, z, y, place) texelFetch(array, ivec2((place) & ${row}), 0).x
const int LOOP_MAX = ${ROUNDS};
uniform ivec3 extents;
${Object.entries(kernel.takes)
  .map(([name, kind]) => `uniform ${GLSL_TYPES[kind]} user_${name};\n`)
  .join("")}\
out float kernelResult;
ivec3 threadId;
float _pow(float x, float y) { return pow(x, y); }
${functions}
${body}
void main() {
  int flatId = int(gl_FragCoord.x) + ${TEXTURE_ROW} * int(gl_FragCoord.y);
  if (flatId >= extents.x * extents.y * extents.z) { kernelResult = 0.0; return; }
  ${setPlace(`${functions}${body}`, "threadId", "int", ["extents.x", "extents.y"])}
  threadId = ivec3(x, y, z);
  kernel();
}
`;
}
