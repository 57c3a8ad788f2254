import type { Optimizer, Parameter, StepPhases } from "../src/index.ts";
import { makeOptimizer, parseConfig, type TrainConfig } from "../src/train/index.ts";
import { openEngines, type Engine } from "./engines.ts";
import { interleaved, median, type Task } from "./measure.ts";
import { half, tiny, trainee, type Trainee } from "./networks.ts";
import type { BenchOptions, Row, Suite } from "./report.ts";
import { widths } from "./widths.ts";

/** Steps of an epoch of 10,000 images in batches of 128. */
const EPOCH = 79;
const [UPDATE_EVERY, INVERT_EVERY, SENG_EVERY] = [10, 30, 50];

interface Method {
  readonly name: string;
  readonly config: Partial<TrainConfig>;
  /** Steps after which its events repeat. */
  readonly cycle: number;
}

const ofFactors = (name: string, config: Partial<TrainConfig>): Method => ({
  name,
  config: { preset: "paper", factorUpdateEvery: UPDATE_EVERY, inversionEvery: INVERT_EVERY, ...config },
  cycle: INVERT_EVERY,
});

const methods: readonly Method[] = [
  { name: "sgd", config: { optimizer: "sgd" }, cycle: INVERT_EVERY },
  { name: "adam", config: { optimizer: "adam" }, cycle: INVERT_EVERY },
  ...["kfac", "rs-kfac", "sre-kfac", "nys-kfac"].map((optimizer) => ofFactors(optimizer, { optimizer })),
  ...["kfac", "nys-kfac"].map((optimizer) => ofFactors(`${optimizer} beside`, { optimizer, inversionLag: INVERT_EVERY / 2 })),
  ofFactors("kfac by Cholesky", { optimizer: "kfac", inverse: "cholesky", dampingKind: "factor-relative" }),
  { name: "seng", config: { optimizer: "seng", preset: "paper", inversionEvery: SENG_EVERY }, cycle: SENG_EVERY },
];

/**
 * What curvature costs: a factor update beside a forward and backward pass, an epoch beside SGD's, on the small VGG; and how the work of
 * each method grows with the width of a dense layer.
 */
export async function curvature(options: BenchOptions): Promise<Suite> {
  const engines = await openEngines(options);
  const rows: Row[] = [];
  const notes: string[] = [];
  try {
    for (const engine of engines) rows.push(...(await networkRows(engine, options.small)));
    const grown = await widths(engines[0], options.small);
    rows.push(...grown.rows);
    notes.push(...grown.notes);
  } finally {
    for (const engine of engines) engine.close();
  }
  return {
    rows,
    notes: [
      `epoch: ${EPOCH} steps at the mean of whole cycles of events (factor updates every ${UPDATE_EVERY} steps, inversions every ${INVERT_EVERY}, SENG's refreshes every ${SENG_EVERY}), preset paper; medians of interleaved cycles after one to warm up.`,
      `beside: inversions on a thread of their own, installed ${INVERT_EVERY / 2} steps later; kfac by Cholesky: thin application.`,
      `factor update, inversion: one event; precondition: one step. Medians. forward-backward: SGD's in the same rounds.`,
      ...notes,
    ],
  };
}

interface Contestant extends Method {
  readonly network: Trainee;
  readonly phases: StepPhases[];
}

async function networkRows({ backend, label }: Engine, small: boolean): Promise<Row[]> {
  const architecture = small ? tiny : half;
  const contestants = methods.map(({ config, ...method }): Contestant => {
    // A rate so small that the network stays what it is, and gradients what they are.
    const full = parseConfig({ ...config, learningRate: 1e-4, epochs: 1000 });
    const make = (parameters: readonly Parameter[]): Optimizer => makeOptimizer(parameters, full, EPOCH);
    return { ...method, config, network: trainee(architecture, backend, make), phases: [] };
  });
  const tasks = contestants.map(({ name, cycle, network, phases }): Task => ({
    name,
    f: async () => {
      const start = performance.now();
      for (let step = 0; step < cycle; step++) {
        await network.step();
        phases.push(network.optimizer.phases);
      }
      return (performance.now() - start) / cycle;
    },
  }));
  const times = await interleaved(tasks, small ? 1 : 5, 1);
  for (const { network } of contestants) network.dispose();

  const what = `${small ? "tiny" : "half"} float32 batch ${architecture.batch} ${label}`;
  const epoch = (name: string): number => EPOCH * (times.get(name) as number);
  const forwardBackward = medianOf(contestants[0] as Contestant, ({ forward, backward }) => forward + backward);
  return contestants.flatMap((contestant, i): Row[] => {
    const { name } = contestant;
    const others = i < 2 ? {} : { sgd: epoch("sgd"), adam: epoch("adam") };
    const whole: Row = { case: `${name} epoch ${what}`, metric: "ms", kfacet: epoch(name), peers: others };
    if (i < 2) return [whole];
    const events = (["factorUpdate", "inversion", "precondition"] as const).map((phase): Row => ({
      case: `${name} ${PHASES[phase]} ${what}`,
      metric: "ms",
      kfacet: medianOf(contestant, (phases) => phases[phase], phase === "precondition" ? undefined : phase),
      peers: { "forward-backward": forwardBackward },
    }));
    return [whole, ...events];
  });
}

const PHASES = { factorUpdate: "factor update", inversion: "inversion", precondition: "precondition" } as const;

/** Milliseconds, of the steps after the first cycle; of an event, of the steps that have it. */
function medianOf({ phases, cycle, name }: Contestant, of: (phases: StepPhases) => number, event?: "factorUpdate" | "inversion"): number {
  const every = name === "seng" ? SENG_EVERY : event === "factorUpdate" ? UPDATE_EVERY : INVERT_EVERY;
  const own = phases.filter((_, step) => step >= cycle && (event === undefined || step % every === 0));
  return 1000 * median(own.map(of));
}
