import { Child, type Command } from "./children.ts";
import { compiled } from "./compile.ts";
import { half, tiny, vgg16 } from "./networks.ts";
import { messageOf, type Memory, type Network } from "./peers/protocol.ts";
import { torch } from "./peers.ts";
import type { Absence, BenchOptions, Row, Suite } from "./report.ts";

const EARLY = 20;
const STEPS = 500;
/** Steps of the large network: its memory is that of the first one. */
const FEW = 3;

const MIB = 2 ** 20;

/** Whether memory grows over a long training, and the most that a process takes to train a large network. */
export async function memory(options: BenchOptions): Promise<Suite> {
  const kfacet = await compiled("kfacet.ts", options.backend);
  const long = options.small ? tiny : half;
  const large = options.small ? tiny : vgg16;
  const steps = options.small ? 60 : STEPS;
  const absent: Absence[] = [];

  const [early, late] = (await train(kfacet, long, [EARLY, steps])) as [Memory, Memory];
  const [longName, largeName] = options.small ? ["tiny", "tiny"] : ["half", "vgg16"];
  const what = `${longName} float32 batch ${long.batch} 1 thread`;
  const rows: Row[] = [];
  for (const [name, read] of [
    ["peak of all buffers", ({ peakBytes = NaN }: Memory): number => peakBytes],
    ["buffers in use", ({ bytes = NaN }: Memory): number => bytes],
    ["resident set", ({ rss }: Memory): number => rss],
  ] as const) {
    rows.push({ case: `${what}, ${name} after ${EARLY} steps`, metric: "MiB", kfacet: read(early) / MIB, peers: {} });
    rows.push({ case: `${what}, ${name} after ${steps} steps`, metric: "MiB", kfacet: read(late) / MIB, peers: {} });
  }

  const [own] = (await train(kfacet, large, [FEW])) as [Memory];
  const others: { readonly setting: string; readonly bytes: number }[] = [];
  for (const layout of ["nchw", "nhwc"] as const) {
    for (const tuned of [true, false]) {
      const setting = `${layout === "nhwc" ? "channels_last" : "NCHW"}, ${tuned ? "allocator set for speed" : "default allocator"}`;
      try {
        const [theirs] = (await train(torch(1, { tuned }), large, [FEW], layout)) as [Memory];
        others.push({ setting, bytes: theirs.maxRss });
      } catch (error) {
        absent.push({ peer: "pytorch", where: `${largeName}, ${setting}`, reason: messageOf(error) });
      }
    }
  }
  const least = Math.min(...others.map(({ bytes }) => bytes));
  rows.push({
    case: `${largeName} float32 batch ${large.batch} 1 thread, largest resident set in ${FEW} steps`,
    metric: "MiB",
    kfacet: own.maxRss / MIB,
    peers: others.length > 0 ? { pytorch: least / MIB } : {},
  });
  return {
    rows,
    absent,
    notes: [
      "Each figure is of a process that does nothing else; kfacet's runs compiled JavaScript, as from the npm package.",
      `pytorch: the least of ${others.map(({ setting, bytes }) => `${setting}: ${(bytes / MIB).toFixed(0)} MiB`).join("; ") || "none"}.`,
    ],
  };
}

/** A process's memory after so many training steps each. */
async function train(
  command: Command,
  network: typeof half,
  after: readonly number[],
  layout: Network["layout"] = "nhwc",
): Promise<Memory[]> {
  const child = new Child(command);
  const key = "network";
  try {
    await child.ask({ do: "prepare", key, work: { kind: "network", ...network, pass: "step", layout } });
    const found: Memory[] = [];
    let steps = 0;
    for (const target of after) {
      for (; steps < target; steps++) await child.sample(key);
      found.push(await child.memory());
    }
    return found;
  } finally {
    child.close();
  }
}
