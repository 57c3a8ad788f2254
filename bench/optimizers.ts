import {
  Adam,
  crossEntropy,
  defaultBackend,
  Generator,
  Kfac,
  Sgd,
  Tensor,
  valueAndGrad,
  vgg,
  type Module,
  type Optimizer,
  type Parameter,
  type StepPhases,
} from "../src/index.ts";
import { interleaved, median } from "./measure.ts";
import type { Row, Suite } from "./report.ts";

const BATCH = 128;
const ROUNDS = 9;
const WARMUP = 3;
/** K-FAC's default cadence, over which its events are spread. */
const UPDATE_EVERY = 10;
const INVERT_EVERY = 50;

/**
 * Where a training step's time goes, for SGD, Adam and K-FAC on the small network of `npm start`. K-FAC is measured with its
 * events in every step; the row `amortised` spreads them over its default cadence.
 */
export async function optimizers(): Promise<Suite> {
  const generator = new Generator(0);
  const images = generator.normal([BATCH, 28, 28, 1]);
  const labels = Tensor.from(Int32Array.from({ length: BATCH }, (_, i) => i % 10));
  const loss = (model: Module) => (): Tensor => crossEntropy(model.forward(images), labels);
  const make: Record<string, (parameters: Parameter[]) => Optimizer> = {
    sgd: (parameters) => new Sgd(parameters, { learningRate: 1e-3, momentum: 0.9 }),
    adam: (parameters) => new Adam(parameters, { learningRate: 1e-4 }),
    kfac: (parameters) => new Kfac(parameters, { learningRate: 1e-3, inverse: "eigh", factorUpdateEvery: 1, inversionEvery: 1 }),
  };

  const phases = new Map<string, StepPhases[]>();
  const tasks = Object.entries(make).map(([name, create]) => {
    const model = vgg("vgg_tiny_bn", { channels: 1, size: 28 });
    const optimizer = create(model.parameters());
    const seen: StepPhases[] = [];
    phases.set(name, seen);
    return {
      name,
      f: async (): Promise<void> => {
        await optimizer.minimize(loss(model));
        seen.push(optimizer.phases);
      },
    };
  });
  const bare = vgg("vgg_tiny_bn", { channels: 1, size: 28 });
  const forwardBackward = async (): Promise<void> => {
    const { value, gradients } = valueAndGrad(loss(bare), bare.parameters());
    await value.item();
    for (const tensor of [value, ...gradients]) tensor.dispose();
  };
  const times = await interleaved([...tasks, { name: "forward-backward", f: forwardBackward }], ROUNDS, WARMUP);

  const phase = (name: string, part: keyof StepPhases): number => 1000 * median((phases.get(name) ?? []).slice(WARMUP).map((p) => p[part]));
  const time = (name: string): number => times.get(name) as number;
  const what = `vgg_tiny_bn 28×28×1 float32 batch ${BATCH}`;
  const rows: Row[] = [];
  for (const name of Object.keys(make)) {
    for (const part of ["forward", "backward", "factorUpdate", "inversion", "precondition", "update"] as const) {
      if (name !== "kfac" && (part === "factorUpdate" || part === "inversion" || part === "precondition")) continue;
      rows.push({ case: `${name} ${PART_NAMES[part]} ${what}`, metric: "ms", kfacet: phase(name, part), peers: {} });
    }
    if (name !== "kfac")
      rows.push({
        case: `${name} step ${what}`,
        metric: "ms",
        kfacet: time(name),
        peers: { "forward-backward": time("forward-backward") },
      });
  }
  const events = phase("kfac", "factorUpdate") + phase("kfac", "inversion");
  const amortised = time("kfac") - events + phase("kfac", "factorUpdate") / UPDATE_EVERY + phase("kfac", "inversion") / INVERT_EVERY;
  const peers = { sgd: time("sgd"), adam: time("adam"), "forward-backward": time("forward-backward") };
  rows.push({ case: `kfac step amortised ${what}`, metric: "ms", kfacet: amortised, peers });
  return {
    rows,
    notes: [
      `Medians of ${ROUNDS} interleaved rounds after ${WARMUP} warm-up rounds, on ${defaultBackend().describe()}. "factor update" and "inversion" are one event each;`,
      `"kfac step amortised" spreads them over every ${UPDATE_EVERY} and every ${INVERT_EVERY} steps, the defaults. A ratio is the peer's time over kfacet's.`,
    ],
  };
}

const PART_NAMES: Readonly<Record<keyof StepPhases, string>> = {
  forward: "forward",
  backward: "backward",
  factorUpdate: "factor update",
  inversion: "inversion",
  precondition: "precondition",
  update: "update",
};
