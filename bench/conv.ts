import { apply, openBackend, Tensor, type Backend, type Conv2dParams } from "../src/index.ts";
import { Contest } from "./contest.ts";
import { openEngine, openEngines } from "./engines.ts";
import { pattern, probeOf, type Conv } from "./peers/protocol.ts";
import { distance } from "./measure.ts";
import { Peers } from "./peers.ts";
import type { BenchOptions, Row, Suite } from "./report.ts";

const SHAPES = [
  { channels: 64, size: 32 },
  { channels: 128, size: 16 },
  { channels: 256, size: 8 },
  { channels: 512, size: 4 },
] as const;
const PASSES = ["forward", "input gradient", "weight gradient"] as const;
const BATCH = 32;
/** The error is that of fewer images, for plain loops compute what it is measured against. */
const ERROR_BATCH = 4;

const geometry: Conv2dParams = { stride: [1, 1], padding: { top: 1, bottom: 1, left: 1, right: 1 }, dilation: [1, 1], groups: 1 };

interface Layer {
  readonly channels: number;
  readonly size: number;
}

/** 3 × 3 convolutions of VGG16's shapes: forward and both gradients, by Winograd's algorithm and by direct sums. */
export async function conv(options: BenchOptions): Promise<Suite> {
  const [rounds, warmup] = options.small ? [3, 1] : [15, 3];
  const shapes: readonly Layer[] = options.small ? [{ channels: 8, size: 6 }] : SHAPES;
  const batch = options.small ? 2 : BATCH;
  const engines = await openEngines(options);
  const exact = options.backend === "wasm" ? await openEngine(options, { threads: 1, precision: "exact" }) : null;
  const contestants = [
    ...engines.map(({ label, backend }) => ({ label, backend })),
    ...(exact ? [{ label: "exact", backend: exact.backend }] : []),
  ];
  const [single] = engines;
  const peers = new Peers();
  const rows: Row[] = [];
  let versions: string;
  try {
    for (const layer of shapes) {
      for (const pass of PASSES) {
        const what = `${pass} ${layer.channels}@${layer.size} float32`;
        const contest = new Contest(peers, what);
        const inputs: (() => void)[] = [];
        let probe: number[] = [];
        for (const { label, backend } of contestants) {
          const { run, dispose } = convolution(pass, layer, batch, backend, "float32");
          using result = run();
          if (backend === single.backend) probe = probeOf(await result.data());
          contest.add(label, () => run().dispose());
          inputs.push(dispose);
        }
        const work: Conv = { kind: "conv", pass, batch, ...layer, layout: "nhwc" };
        for (const { threads } of engines) await contest.invite("pytorch", work, { threads, layouts: ["nchw", "nhwc"], probe });
        if (pass === "forward") await contest.invite("tfjs-wasm", work, { probe });
        await contest.run(rounds, warmup);
        for (const dispose of inputs) dispose();

        const flop = 2 * batch * layer.size ** 2 * 9 * layer.channels ** 2;
        for (const { threads, label } of engines) {
          const onOne = threads === 1 ? { exact: "exact", "tfjs-wasm": "tfjs-wasm 1" } : {};
          rows.push(contest.row(`${what} batch ${batch} ${label}`, label, { ...onOne, pytorch: `pytorch ${threads}` }, flop));
        }
        const truth = await compute(pass, layer, await openBackend("reference"), "float64");
        const error = async (backend: Backend): Promise<number> => distance(await compute(pass, layer, backend, "float32"), truth);
        const exactly = exact ? { exact: await error(exact.backend) } : {};
        rows.push({ case: `${what} batch ${ERROR_BATCH}`, metric: "relative error", kfacet: await error(single.backend), peers: exactly });
      }
    }
    versions = peers.versions();
  } finally {
    peers.close();
    for (const engine of [...engines, exact]) engine?.close();
  }
  return {
    rows,
    absent: peers.absences,
    notes: [
      `Peers: ${versions}.`,
      `Medians of ${rounds} interleaved rounds after ${warmup} warm-up rounds. GFLOP/s counts the direct sum's operations, also where Winograd's algorithm does fewer.`,
      `exact: kfacet with { precision: "exact" }. pytorch: the faster of NCHW and channels_last, row by row.`,
      `Relative error: ‖result − truth‖ / ‖truth‖, the truth by the reference backend's direct sums in float64.`,
    ],
  };
}

/** One of the three operations on inputs that are the same everywhere. */
function convolution(
  pass: Conv["pass"],
  { channels, size }: Layer,
  batch: number,
  backend: Backend,
  dtype: "float32" | "float64",
): { readonly run: () => Tensor; readonly dispose: () => void } {
  const images = [batch, size, size, channels];
  const tensor = (seed: number, shape: readonly number[]): Tensor =>
    Tensor.from(
      pattern(
        shape.reduce((product, extent) => product * extent, 1),
        seed,
      ),
      { shape, dtype, backend },
    );
  const [x, weight, gradient] = [tensor(1, images), tensor(2, [channels, 3, 3, channels]), tensor(3, images)];
  const run = {
    forward: () => apply("conv2d", [x, weight], geometry)[0],
    "input gradient": () => apply("conv2dInputGradient", [gradient, weight], { ...geometry, inputSize: [size, size] })[0],
    "weight gradient": () => apply("conv2dWeightGradient", [x, gradient], { ...geometry, kernel: [3, 3] })[0],
  }[pass];
  return { run, dispose: () => [x, weight, gradient].forEach((tensor) => tensor.dispose()) };
}

async function compute(pass: Conv["pass"], layer: Layer, backend: Backend, dtype: "float32" | "float64"): Promise<ArrayLike<number>> {
  const { run, dispose } = convolution(pass, layer, ERROR_BATCH, backend, dtype);
  using computed = run();
  dispose();
  return await computed.data();
}
