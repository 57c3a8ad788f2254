/** The part of AssemblyScript's compiler that is used here. Its own types would add to the global ones of this project. */
interface Compiler {
  compileString(
    source: string,
    options: object,
  ): Promise<{ error: Error | null; binary: Uint8Array | null; stderr: { toString(): string } }>;
}

/** Kernels that are made for looking at threads. A worker is known by the place of its scratch memory. */
const source = `
  export let scratch: usize = 0;
  /** Adds one to the int32 counter of each item, and writes which thread did. */
  export function count(start: i32, end: i32, counters: usize, threads: usize): void {
    for (let i = start; i < end; i++) {
      const at = <usize>i << 2;
      store<i32>(counters + at, load<i32>(counters + at) + 1);
      store<u32>(threads + at, <u32>scratch);
    }
  }
  export function sum32(start: i32, end: i32, to: usize,
    a: f64, b: f64, c: f64, d: f64, e: f64, f: f64, g: f64, h: f64, i: f64, j: f64, k: f64, l: f64): void {
    for (let p = start; p < end; p++) store<f64>(to + (<usize>p << 3), a + b + c + d + e + f + g + h + i + j + k + l);
  }
  export function fail(start: i32, end: i32): void {
    unreachable();
  }
  export function forever(start: i32, end: i32): void {
    while (true) {}
  }
`;

export interface TestKernels {
  readonly module: WebAssembly.Module;
  readonly memory: WebAssembly.Memory;
  /** Exported functions, by the number under which workers know them. */
  readonly functions: string[];
  /** The functions for this thread. */
  readonly own: Readonly<Record<string, (start: number, end: number, ...rest: number[]) => void>>;
}

/** Compiles them, with a memory of 64 pages of their own. */
export async function compileTestKernels(): Promise<TestKernels> {
  const compiler: string = "assemblyscript/asc";
  const { default: asc } = (await import(compiler)) as { default: Compiler };
  const { error, binary, stderr } = await asc.compileString(source, {
    runtime: "stub",
    optimizeLevel: 2,
    enable: ["threads"],
    importMemory: true,
    sharedMemory: true,
    initialMemory: 64,
    maximumMemory: 64,
  });
  if (error ?? !binary) throw new Error(`AssemblyScript: ${stderr.toString()}`);
  const module = new WebAssembly.Module(Uint8Array.from(binary));
  const memory = new WebAssembly.Memory({ initial: 64, maximum: 64, shared: true });
  const { exports } = new WebAssembly.Instance(module, { env: { memory } });
  const functions = WebAssembly.Module.exports(module).flatMap(({ kind, name }) => (kind === "function" ? [name] : []));
  return { module, memory, functions, own: exports as TestKernels["own"] };
}
