import { BackendError } from "../../errors.ts";
import type { ArgumentKind, PortableKernel } from "./kernel.ts";

/*
 * From a kernel in JavaScript to WGSL, by gpu.js. Only its translator is used: its own way of running a kernel allocates in each call, reads
 * back by itself and cannot put several kernels into one submission. That takes members that are not part of its interface, all of them
 * named here and nowhere else, and is why package.json pins its version to the letter.
 */

/** What is used of gpu.js's `WebGPUKernel`. */
interface Translator {
  setupConstants(): void;
  setupArguments(values: readonly unknown[]): void;
  validateSettings(values: readonly unknown[]): void;
  threadDim: number[];
  translateSource(): void;
  /** The kernel's statements, and the functions that it calls, as WGSL. */
  readonly translatedBody: string;
  readonly translatedFunctions: string;
}

export interface GpuJs {
  readonly WebGPUKernel: new (source: string, settings: object) => Translator;
}

const TYPES: Readonly<Record<ArgumentKind, string>> = { array: "Array", integer: "Integer", float: "Float" };
const WGSL_TYPES = { integer: "i32", float: "f32" } as const;

/** A function that kernels may call, with integers for arguments and result. */
interface Helper {
  readonly name: string;
  readonly takes: readonly string[];
  readonly body: string;
  /** In place of what gpu.js would make of it. */
  readonly wgsl?: string;
}

/*
 * gpu.js makes a float of every variable but a loop's counter, so what computes places with integers is one expression, or a function.
 */
const helpers: readonly Helper[] = [
  {
    // gpu.js divides integers as float32: made right up to 2²⁴ here, and beyond that in WGSL, which can divide them.
    name: "quotient",
    takes: ["a", "b"],
    body: `let q = Math.floor(a / b);
      if (q * b > a) { q = q - 1; }
      if ((q + 1) * b <= a) { q = q + 1; }
      return q;`,
    wgsl: "fn fn_quotient(a : i32, b : i32) -> i32 { return a / b; }",
  },
  { name: "remainder", takes: ["a", "b"], body: "return a - b * quotient(a, b);" },
  {
    // Of the walk along five axes: see walk.ts.
    name: "placeOf",
    takes: ["z", "y", "x", "e1", "e2", "s0", "s1", "s2", "s3", "s4"],
    body: `return s0 * quotient(quotient(z, e2), e1) + s1 * remainder(quotient(z, e2), e1) + s2 * remainder(z, e2) + s3 * y + s4 * x;`,
  },
];

/** What gpu.js calls for Math.pow. */
const POW = "fn _pow(x : f32, y : f32) -> f32 { return pow(x, y); }\n";

/** A loop of gpu.js ends after so many rounds, whatever its condition says; its default of 1000 would cut sums short in silence. */
const ROUNDS = 2 ** 31 - 1;

/** Threads of a workgroup. */
export const GROUP = 64;

/** gpu.js's own settings of a kernel, for WebGPU and for WebGL alike. */
function settingsOf({ takes }: PortableKernel): object {
  const functions = helpers.map(({ name, takes, body }) => ({
    name,
    source: `function ${name}(${takes.join(", ")}) {${body}}`,
    settings: { argumentTypes: takes.map(() => "Integer"), returnType: "Integer" },
  }));
  return {
    output: [1, 1, 1],
    argumentTypes: Object.values(takes).map((kind) => TYPES[kind]),
    precision: "single",
    tactic: "precision",
    loopMaxIterations: ROUNDS,
    dynamicOutput: true,
    dynamicArguments: true,
    functions,
  };
}

/** A kernel as gpu.js takes it. */
function sourceOf({ takes, body }: PortableKernel): string {
  return `function (${Object.keys(takes).join(", ")}) {${body}}`;
}

/**
 * A whole WGSL module. Bindings: 0 the parameters, then the arrays in their order, then the result. The parameters are the extents of the
 * threads and the width of a row of workgroups, in threads, as u32; then the numbers in their order.
 * @throws BackendError for a kernel that gpu.js cannot translate.
 */
export function toWgsl({ WebGPUKernel }: GpuJs, kernel: PortableKernel): string {
  const kinds = Object.entries(kernel.takes);
  const arrays = kinds.flatMap(([name, kind]) => (kind === "array" ? [name] : []));
  const numbers = kinds.flatMap(([name, kind]) => (kind === "array" ? [] : [[name, WGSL_TYPES[kind]] as const]));
  const { body, functions } = translate(WebGPUKernel, kernel);
  return `struct Params {
  outputX : u32, outputY : u32, outputZ : u32, width : u32,
${numbers.map(([name, type]) => `  user_${name} : ${type},\n`).join("")}}
@group(0) @binding(0) var<uniform> params : Params;
${arrays.map((name, i) => `@group(0) @binding(${i + 1}) var<storage, read> user_${name} : array<f32>;\n`).join("")}\
@group(0) @binding(${arrays.length + 1}) var<storage, read_write> result : array<f32>;
const LOOP_MAX : i32 = ${ROUNDS};
var<private> threadGid : vec3<u32>;
${arrays.map((name) => `fn get_user_${name}(z : i32, y : i32, x : i32) -> f32 { return user_${name}[x]; }\n`).join("")}\
${`${functions}${body}`.includes("_pow(") ? POW : ""}${functions}
@compute @workgroup_size(${GROUP}) fn main(@builtin(global_invocation_id) id : vec3<u32>) {
  let flat = id.x + id.y * params.width;
  let plane = params.outputX * params.outputY;
  if (flat >= plane * params.outputZ) { return; }
  threadGid = vec3<u32>(flat % params.outputX, flat / params.outputX % params.outputY, flat / plane);
  let data_index = i32(flat);
${body}
}
`;
}

function translate(WebGPUKernel: GpuJs["WebGPUKernel"], kernel: PortableKernel): { body: string; functions: string } {
  // Of the values only the types count.
  const values = Object.values(kernel.takes).map((kind) => (kind === "array" ? [0] : 0));
  try {
    const translator = new WebGPUKernel(sourceOf(kernel), settingsOf(kernel));
    translator.setupConstants();
    translator.setupArguments(values);
    translator.validateSettings(values);
    translator.threadDim = [1, 1, 1];
    translator.translateSource();
    return { body: translator.translatedBody, functions: helpers.reduce(withWgsl, translator.translatedFunctions) };
  } catch (cause) {
    const why = cause instanceof Error ? cause.message : String(cause);
    throw new BackendError(`gpu: gpu.js cannot translate the kernel "${kernel.name}" (${why}): ${sourceOf(kernel)}`, { cause });
  }
}

/** The translated functions, a helper's replaced by the WGSL that it brings. */
function withWgsl(functions: string, { name, wgsl }: Helper): string {
  if (wgsl === undefined) return functions;
  return functions.replace(new RegExp(`^fn fn_${name}\\([^]*?^}$`, "m"), wgsl);
}
