/** jax-js on its WebAssembly backend as a peer, for products of matrices and eigenvalues. */
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";
import { sampler } from "../measure.ts";
import { pattern, probeOf, serve, symmetricPattern, type Factorization, type Prepared, type Work } from "./protocol.ts";

interface JaxArray {
  /** Another reference: an operation uses up those that it is given. */
  readonly ref: JaxArray;
  data(): Promise<Float32Array>;
  blockUntilReady(): Promise<JaxArray>;
  dispose(): void;
}

interface Jax {
  init(device: "wasm"): Promise<string[]>;
  defaultDevice(device: "wasm"): string;
  jit(f: (a: JaxArray, b: JaxArray) => JaxArray): (a: JaxArray, b: JaxArray) => JaxArray;
  readonly numpy: {
    array(values: Float32Array, options: { shape: number[] }): JaxArray;
    matmul(a: JaxArray, b: JaxArray): JaxArray;
    readonly linalg: { eigh(a: JaxArray): [values: JaxArray, vectors: JaxArray] };
  };
}

const require = createRequire(import.meta.url);
const jax = (await import(pathToFileURL(require.resolve("@jax-js/jax")).href.replace(/\.cjs$/, ".js"))) as Jax;
if (!(await jax.init("wasm")).includes("wasm")) throw new Error("jax-js has no WebAssembly backend here");
jax.defaultDevice("wasm");

async function prepare(work: Work): Promise<Prepared> {
  if (work.kind === "eigh") return prepareEigh(work);
  if (work.kind !== "gemm") throw new Error("only products and eigenvalues of matrices are timed");
  const { n, dtype } = work;
  if (dtype !== "float32") throw new Error(`jax-js is timed in float32 only, not ${dtype}`);
  const [a, b] = [1, 2].map((seed) => jax.numpy.array(pattern(n * n, seed), { shape: [n, n] })) as [JaxArray, JaxArray];
  const matmul = jax.jit((x, y) => jax.numpy.matmul(x, y));
  const probe = probeOf(await matmul(a.ref, b.ref).data());
  const sample = sampler(async () => {
    const result = matmul(a.ref, b.ref);
    await result.blockUntilReady();
    result.dispose();
  });
  return { probe, sample, release: () => [a, b].forEach((array) => array.dispose()) };
}

async function prepareEigh({ n }: Factorization): Promise<Prepared> {
  const a = jax.numpy.array(Float32Array.from(symmetricPattern(n)), { shape: [n, n] });
  const decompose = async (): Promise<Float32Array> => {
    const [values, vectors] = jax.numpy.linalg.eigh(a.ref);
    (await vectors.blockUntilReady()).dispose();
    return values.data();
  };
  const probe = probeOf((await decompose()).sort());
  return { probe, sample: sampler(() => decompose().then(() => undefined)), release: () => a.dispose() };
}

await serve(prepare);
