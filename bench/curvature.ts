import type { Optimizer, Parameter, StepPhases } from "../src/index.ts";
import { makeOptimizer, parseConfig, type TrainConfig } from "../src/train/index.ts";
import { openEngines, type Engine } from "./engines.ts";
import { median } from "./measure.ts";
import { half, tiny, trainee, type Trainee } from "./networks.ts";
import type { BenchOptions, Row, Suite } from "./report.ts";
import { widths } from "./widths.ts";

/** Steps of an epoch of 10,000 images in batches of 128. */
const EPOCH = 79;
const [UPDATE_EVERY, INVERT_EVERY, SENG_EVERY] = [10, 30, 50];
/** Cycles that are timed. */
const ROUNDS = 5;

interface Method {
  readonly name: string;
  readonly config: Partial<TrainConfig>;
  /** Steps after which its events repeat. */
  readonly cycle: number;
  /** Whether a thread of its own goes on with its work after a step, so that no other's step may come in between. */
  readonly beside?: boolean;
}

const ofFactors = (name: string, config: Partial<TrainConfig>): Method => ({
  name,
  config: { preset: "paper", factorUpdateEvery: UPDATE_EVERY, inversionEvery: INVERT_EVERY, ...config },
  cycle: INVERT_EVERY,
});

const methods: readonly Method[] = [
  { name: "sgd", config: { optimizer: "sgd" }, cycle: INVERT_EVERY },
  { name: "adam", config: { optimizer: "adam" }, cycle: INVERT_EVERY },
  ofFactors("kfac", { optimizer: "kfac", inverse: "cholesky", dampingKind: "factor-relative" }),
  ...["rs-kfac", "sre-kfac", "nys-kfac"].map((optimizer) => ofFactors(optimizer, { optimizer })),
  ofFactors("kfac by eigh", { optimizer: "kfac", inverse: "eigh" }),
  { ...ofFactors("kfac by eigh beside", { optimizer: "kfac", inverse: "eigh", inversionLag: INVERT_EVERY / 2 }), beside: true },
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
      `epoch: ${EPOCH} steps at the mean of a cycle of events (factor updates every ${UPDATE_EVERY} steps, inversions every ${INVERT_EVERY}, SENG's refreshes every ${SENG_EVERY}), preset paper. Of each step of a cycle the median of ${ROUNDS} cycles after one to warm up; the methods take turns step by step.`,
      `kfac: by Cholesky, each factor damped, thin application, as it is without a preset; by eigh: as in the paper. Beside: inversions on a thread of their own, installed ${INVERT_EVERY / 2} steps later; in cycles that take turns with SGD's.`,
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
  const rounds = small ? 1 : ROUNDS;
  const [sgd, others] = [contestants.filter(({ name }) => name === "sgd"), contestants.filter(({ beside }) => !beside)];
  const times = await timeSteps(others, rounds, 1);
  const what = `${small ? "tiny" : "half"} float32 batch ${architecture.batch} ${label}`;
  const besides = contestants.filter(({ beside }) => beside);
  const longest = Math.max(...besides.map(({ cycle }) => cycle));
  const timesBeside = await timeSteps([...sgd, ...besides], rounds, longest);
  for (const { network } of contestants) network.dispose();

  const forwardBackward = medianOf(contestants[0] as Contestant, ({ forward, backward }) => forward + backward);
  return contestants.flatMap((contestant, i): Row[] => {
    const { name, beside } = contestant;
    const epoch = (of: string): number => EPOCH * ((beside ? timesBeside : times).get(of) as number);
    const peers: Record<string, number> = i < 2 ? {} : beside ? { sgd: epoch("sgd") } : { sgd: epoch("sgd"), adam: epoch("adam") };
    const whole: Row = { case: `${name} epoch ${what}`, metric: "ms", kfacet: epoch(name), peers };
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

/**
 * Milliseconds of a step at the mean of a cycle. Of each step of a cycle the median is taken, since a slow moment of the machine may be as
 * long as a cycle; and contestants take turns, since it may be longer.
 * @param turn steps until the next one's turn.
 */
async function timeSteps(contestants: readonly Contestant[], rounds: number, turn: number): Promise<Map<string, number>> {
  const samples = new Map(contestants.map(({ name, cycle }) => [name, Array.from({ length: cycle }, (): number[] => [])]));
  const longest = Math.max(...contestants.map(({ cycle }) => cycle));
  for (let round = 0; round <= rounds; round++) {
    for (let from = 0; from < longest; from += turn) {
      for (const { name, cycle, network, phases } of contestants) {
        for (let step = from; step < Math.min(cycle, from + turn); step++) {
          const start = performance.now();
          await network.step();
          if (round > 0) samples.get(name)?.[step]?.push(performance.now() - start);
          phases.push(network.optimizer.phases);
        }
      }
    }
  }
  const mean = (steps: readonly number[][]): number => steps.reduce((sum, own) => sum + median(own), 0) / steps.length;
  return new Map([...samples].map(([name, steps]) => [name, mean(steps)]));
}

const PHASES = { factorUpdate: "factor update", inversion: "inversion", precondition: "precondition" } as const;

/** Milliseconds, of the steps after the first cycle; of an event, of the steps that have it. */
function medianOf({ phases, cycle, name }: Contestant, of: (phases: StepPhases) => number, event?: "factorUpdate" | "inversion"): number {
  const every = name === "seng" ? SENG_EVERY : event === "factorUpdate" ? UPDATE_EVERY : INVERT_EVERY;
  const own = phases.filter((_, step) => step >= cycle && (event === undefined || step % every === 0));
  return 1000 * median(own.map(of));
}
