import type { Backend } from "../src/index.ts";
import { Contest } from "./contest.ts";
import { openEngines, type Engine } from "./engines.ts";
import { half, overhead, tiny, trainee, vgg16 } from "./networks.ts";
import type { Network } from "./peers/protocol.ts";
import { Peers } from "./peers.ts";
import type { BenchOptions, Row, Suite } from "./report.ts";

interface Case {
  readonly name: string;
  readonly network: typeof half;
  readonly rounds: number;
  readonly warmup: number;
}

const CASES: readonly Case[] = [
  { name: "half", network: half, rounds: 11, warmup: 2 },
  { name: "vgg16", network: vgg16, rounds: 5, warmup: 1 },
];

/** Whole training steps and evaluations of two networks, and what a step costs when there is nothing to compute. */
export async function step(options: BenchOptions): Promise<Suite> {
  const cases = options.small ? [{ name: "tiny", network: tiny, rounds: 3, warmup: 1 }] : CASES;
  const engines = await openEngines(options);
  const peers = new Peers();
  const rows: Row[] = [];
  let versions: string;
  let calls: number;
  try {
    for (const one of cases) {
      for (const pass of ["step", "forward"] as const) rows.push(...(await networkRows(one, pass, engines, peers)));
    }
    const small = await overheadRows(engines[0], peers, options.small ? 3 : 25);
    rows.push(...small.rows);
    calls = small.calls;
    versions = peers.versions();
  } finally {
    peers.close();
    for (const engine of engines) engine.close();
  }
  const rounds = cases.map(({ name, rounds, warmup }) => `${rounds} (${name}) after ${warmup}`).join(", ");
  return {
    rows,
    absent: peers.absences,
    notes: [
      `Peers: ${versions}.`,
      `Medians of interleaved rounds: ${rounds} warm-up rounds. A step is forward, cross-entropy, backward and SGD with momentum and weight decay; a forward pass is one in evaluation.`,
      `pytorch: the faster of NCHW and channels_last, row by row. Why tfjs-wasm has no step is its own message.`,
      `overhead: ten 1 × 1 convolutions of width ${overhead.channels} with batch norm and ReLU on ${overhead.batch} images of one pixel; a call is one of the ${calls} kernels that the backend runs in a step, with all that happens between them.`,
    ],
  };
}

async function networkRows(
  { name, network, rounds, warmup }: Case,
  pass: Network["pass"],
  engines: readonly Engine[],
  peers: Peers,
): Promise<Row[]> {
  const what = `${name} ${pass} float32 batch ${network.batch}`;
  const contest = new Contest(peers, what);
  const trainees = engines.map(({ backend }) => trainee(network, backend));
  for (const [i, { label }] of engines.entries()) contest.add(label, () => trainees[i]?.[pass]());
  const probe = [trainees[0]?.parameters ?? 0];
  const work: Network = { kind: "network", ...network, pass, layout: "nhwc" };
  for (const { threads } of engines) await contest.invite("pytorch", work, { threads, layouts: ["nchw", "nhwc"], probe });
  // Its failure to train is the same for every network: shown once.
  if (pass === "forward" || name !== "vgg16") await contest.invite("tfjs-wasm", work, { probe });
  await contest.run(rounds, warmup);
  for (const { dispose } of trainees) dispose();
  return engines.map(({ threads, label }) => {
    const onOne = threads === 1 ? { "tfjs-wasm": "tfjs-wasm 1" } : {};
    return contest.row(`${what} ${label}`, label, { ...onOne, pytorch: `pytorch ${threads}` });
  });
}

async function overheadRows({ backend, label }: Engine, peers: Peers, rounds: number): Promise<{ calls: number; rows: Row[] }> {
  const what = `overhead step float32 batch ${overhead.batch}`;
  const calls = await callsOf(backend);
  const contest = new Contest(peers, what);
  const { step, parameters, dispose } = trainee(overhead, backend);
  contest.add(label, step);
  const work: Network = { kind: "network", ...overhead, pass: "step", layout: "nchw" };
  await contest.invite("pytorch", work, { layouts: ["nchw", "nhwc"], probe: [parameters] });
  await contest.run(rounds, 10);
  dispose();
  const row = contest.row(`${what} ${label}`, label, { pytorch: "pytorch 1" });
  const name = `overhead call float32 batch ${overhead.batch} ${label}`;
  return { calls, rows: [row, { case: name, metric: "µs", kfacet: (1000 * row.kfacet) / calls, peers: {} }] };
}

/** How many kernels one step of the overhead network runs. */
async function callsOf(backend: Backend): Promise<number> {
  let calls = 0;
  const counting: Backend = {
    ...backend,
    run(...call) {
      calls++;
      backend.run(...call);
    },
  };
  const { step, dispose } = trainee(overhead, counting);
  await step(); // the first one starts the momentum
  calls = 0;
  await step();
  dispose();
  return calls;
}
