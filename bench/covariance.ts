import { im2col, patchCovariance, Tensor, tidy } from "../src/index.ts";
import { Contest } from "./contest.ts";
import { openEngines } from "./engines.ts";
import { pattern } from "./peers/protocol.ts";
import { Peers } from "./peers.ts";
import type { BenchOptions, Row, Suite } from "./report.ts";

interface Layer {
  readonly channels: number;
  readonly size: number;
  readonly batch: number;
}

/** Input layers, VGG16's, the half network's, and the smallest. */
const LAYERS: readonly Layer[] = [
  { channels: 1, size: 28, batch: 128 },
  { channels: 3, size: 32, batch: 128 },
  { channels: 8, size: 28, batch: 128 },
  { channels: 16, size: 32, batch: 128 },
  { channels: 32, size: 16, batch: 128 },
  { channels: 64, size: 8, batch: 128 },
  { channels: 64, size: 32, batch: 32 },
  { channels: 128, size: 16, batch: 32 },
  { channels: 256, size: 8, batch: 32 },
  { channels: 512, size: 4, batch: 32 },
  { channels: 512, size: 2, batch: 32 },
];

/** K-FAC's input factor of a 3 × 3 convolution: without patches, and as a symmetric product of patches that are written out. */
export async function covariance(options: BenchOptions): Promise<Suite> {
  const [rounds, warmup] = options.small ? [3, 1] : [11, 3];
  const layers = options.small ? [{ channels: 8, size: 6, batch: 2 }] : LAYERS;
  const engines = await openEngines(options);
  const peers = new Peers();
  const rows: Row[] = [];
  try {
    for (const { channels, size, batch } of layers) {
      const what = `patch covariance ${channels}@${size} float32 batch ${batch}`;
      const contest = new Contest(peers, what);
      const inputs: Tensor[] = [];
      for (const { label, backend } of engines) {
        const data = pattern(batch * size * size * channels, 1);
        const x = Tensor.from(data, { shape: [batch, size, size, channels], dtype: "float32", backend });
        inputs.push(x);
        contest.add(label, () => patchCovariance(x, 3, { padding: 1, scale: 1 / batch }).dispose());
        contest.add(`written out ${label}`, () => {
          tidy(() => {
            im2col(x, 3, { padding: 1 })
              .reshape([-1, 9 * channels])
              .gram(1 / batch);
          });
        });
      }
      await contest.run(rounds, warmup);
      for (const tensor of inputs) tensor.dispose();
      const flop = batch * size ** 2 * (9 * channels) ** 2;
      for (const { label } of engines) rows.push(contest.row(`${what} ${label}`, label, { "im2col, gram": `written out ${label}` }, flop));
    }
  } finally {
    peers.close();
    for (const engine of engines) engine.close();
  }
  return {
    rows,
    absent: peers.absences,
    notes: [
      `Medians of ${rounds} interleaved rounds after ${warmup} warm-up rounds. GFLOP/s counts one triangle of the product of all patches.`,
      `im2col, gram: the same matrix by kfacet's own symmetric product of patches that are written to memory.`,
    ],
  };
}
