/** TensorFlow.js as a peer: `tfjs.ts cpu` or `tfjs.ts wasm`. */
import { createRequire, register } from "node:module";
import { dirname, join } from "node:path";
import { pathToFileURL } from "node:url";
import { sampler } from "../measure.ts";
import { pattern, probeOf, serve, sgd, type Conv, type Gemm, type Network, type Prepared, type Work } from "./protocol.ts";

interface TfTensor {
  readonly shape: number[];
  dataSync(): Float32Array;
  dispose(): void;
}

/** What is used of @tensorflow/tfjs-core, whose own types need those of the DOM. */
interface TfCore {
  setBackend(name: string): Promise<boolean>;
  tensor(values: Float32Array | Int32Array, shape: readonly number[], dtype?: "int32"): TfTensor;
  variable(initial: TfTensor): TfTensor;
  oneHot(labels: TfTensor, depth: number): TfTensor;
  matMul(a: TfTensor, b: TfTensor): TfTensor;
  conv2d(x: TfTensor, filter: TfTensor, strides: number, pad: "same"): TfTensor;
  add(a: TfTensor, b: TfTensor): TfTensor;
  relu(x: TfTensor): TfTensor;
  maxPool(x: TfTensor, size: number, strides: number, pad: "valid"): TfTensor;
  reshape(x: TfTensor, shape: readonly number[]): TfTensor;
  moments(x: TfTensor, axes: readonly number[]): { readonly mean: TfTensor; readonly variance: TfTensor };
  batchNorm(x: TfTensor, mean: TfTensor, variance: TfTensor, offset: TfTensor, scale: TfTensor, epsilon: number): TfTensor;
  tidy<T>(f: () => T): T;
  readonly losses: { softmaxCrossEntropy(labels: TfTensor, logits: TfTensor): TfTensor };
  readonly fused: {
    conv2d(options: { x: TfTensor; filter: TfTensor; strides: number; pad: "same"; bias: TfTensor }): TfTensor;
  };
  readonly train: { momentum(learningRate: number, momentum: number): { minimize(f: () => TfTensor): null } };
}

interface TfWasm {
  setWasmPaths(folder: string): void;
}

const require = createRequire(import.meta.url);
const name = process.argv[2] as "cpu" | "wasm";
const tf = require("@tensorflow/tfjs-core") as TfCore;
const backend = require(`@tensorflow/tfjs-backend-${name}`) as TfWasm;
if (name === "wasm") {
  const folder = dirname(require.resolve("@tensorflow/tfjs-backend-wasm/package.json"));
  backend.setWasmPaths(join(folder, "dist/"));
}

async function prepare(work: Work): Promise<Prepared> {
  if (!(await tf.setBackend(name))) throw new Error(`setBackend("${name}") failed`);
  if (work.kind === "gemm") return gemm(work);
  if (work.kind === "conv") return conv(work);
  if (work.kind === "network") return network(work);
  throw new Error("it has no eigenvalues");
}

function gemm({ n, dtype }: Gemm): Prepared {
  if (dtype !== "float32") throw new Error(`TensorFlow.js has no ${dtype}`);
  const a = tf.tensor(pattern(n * n, 1), [n, n]);
  const b = tf.tensor(pattern(n * n, 2), [n, n]);
  return prepared(() => tf.matMul(a, b), [a, b]);
}

function conv({ pass, batch, channels, size }: Conv): Prepared {
  if (pass !== "forward") throw new Error("only the forward convolution is timed");
  const x = tf.tensor(pattern(batch * size * size * channels, 1), [batch, size, size, channels]);
  // From [out, height, width, in] to [height, width, in, out].
  const ours = pattern(channels * 9 * channels, 2);
  const theirs = ours.map((_, i) => ours[(i % channels) * 9 * channels + Math.floor(i / channels)] as number);
  const filter = tf.tensor(theirs, [3, 3, channels, channels]);
  return prepared(() => tf.conv2d(x, filter, 1, "same"), [x, filter]);
}

function prepared(f: () => TfTensor, inputs: readonly TfTensor[]): Prepared {
  const result = f();
  const probe = probeOf(result.dataSync());
  result.dispose();
  return { probe, sample: sampler(() => f().dispose()), release: () => inputs.forEach((tensor) => tensor.dispose()) };
}

async function network({ features, kernel, fc, classes, channels, size, batch, pass }: Network): Promise<Prepared> {
  let parameters = 0;
  let seed = 10;
  const variable = (shape: readonly number[], scale: number): TfTensor => {
    const length = shape.reduce((product, extent) => product * extent, 1);
    parameters += length;
    return tf.variable(
      tf.tensor(
        pattern(length, seed++).map((value) => value * scale),
        shape,
      ),
    );
  };
  const training = pass === "step";
  const layers: ((x: TfTensor) => TfTensor)[] = [];
  let [depth, extent] = [channels, size];
  for (const item of features) {
    if (item === "M") {
      layers.push((x) => tf.maxPool(x, 2, 2, "valid"));
      extent = Math.floor(extent / 2);
      continue;
    }
    const filter = variable([kernel, kernel, depth, item], Math.sqrt(6 / (kernel * kernel * depth)));
    const bias = variable([item], 0);
    const scale = variable([item], 1);
    const shift = variable([item], 0);
    // Evaluation has running statistics, which are no parameters.
    const [runningMean, runningVariance] = [tf.tensor(new Float32Array(item), [item]), tf.tensor(new Float32Array(item).fill(1), [item])];
    layers.push((x) => {
      const y = tf.fused.conv2d({ x, filter, strides: 1, pad: "same", bias });
      const { mean, variance } = training ? tf.moments(y, [0, 1, 2]) : { mean: runningMean, variance: runningVariance };
      return tf.relu(tf.batchNorm(y, mean, variance, shift, scale, 1e-5));
    });
    depth = item;
  }
  let width = depth * extent * extent;
  const flat = width;
  layers.push((x) => tf.reshape(x, [batch, flat]));
  for (const [i, out] of [...fc, classes].entries()) {
    const weight = variable([width, out], Math.sqrt(3 / width));
    const bias = variable([out], 0);
    layers.push((x) => {
      const y = tf.add(tf.matMul(x, weight), bias);
      return i < fc.length ? tf.relu(y) : y;
    });
    width = out;
  }
  const images = tf.tensor(pattern(batch * size * size * channels, 1), [batch, size, size, channels]);
  const forward = (): TfTensor => layers.reduce((x, layer) => layer(x), images);
  if (!training) return { probe: [parameters], sample: sampler(() => tf.tidy(forward).dispose()) };

  await registerGradients();
  const labels = tf.oneHot(
    tf.tensor(
      Int32Array.from({ length: batch }, (_, i) => i % classes),
      [batch],
      "int32",
    ),
    classes,
  );
  const optimizer = tf.train.momentum(sgd.learningRate, sgd.momentum); // it has no weight decay
  const step = (): void => void optimizer.minimize(() => tf.losses.softmaxCrossEntropy(labels, forward()));
  step(); // fails where a gradient has no kernel
  return { probe: [parameters], sample: sampler(step) };
}

/** The bundle for Node leaves the gradients out; they are ES modules that Node needs help with (esm.js). */
async function registerGradients(): Promise<void> {
  register("./esm.js", import.meta.url);
  const folder = dirname(require.resolve("@tensorflow/tfjs-core/package.json"));
  await import(pathToFileURL(join(folder, "dist/register_all_gradients.js")).href);
}

await serve(prepare);
