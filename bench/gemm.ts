import { Tensor } from "../src/index.ts";
import { Contest } from "./contest.ts";
import { openEngines } from "./engines.ts";
import { registerPeak } from "./peak.ts";
import { pattern, probeOf, type Gemm } from "./peers/protocol.ts";
import { Peers } from "./peers.ts";
import { plainMatmul } from "./plain.ts";
import type { BenchOptions, Row, Suite } from "./report.ts";

const SIZES: readonly Omit<Gemm, "kind">[] = [
  { n: 256, dtype: "float32" },
  { n: 512, dtype: "float32" },
  { n: 1024, dtype: "float32" },
  { n: 512, dtype: "float64" },
];
/** tfjs-cpu takes a quarter of a second here, and eight times that for twice the size. */
const TFJS_CPU_SIZE = 512;

/** Products of square matrices, and XᵀX, beside the peers' and beside the fastest that registers alone allow. */
export async function gemm(options: BenchOptions): Promise<Suite> {
  const [rounds, warmup] = options.small ? [3, 1] : [15, 3];
  const sizes: typeof SIZES = options.small
    ? [
        { n: 64, dtype: "float32" },
        { n: 64, dtype: "float64" },
      ]
    : SIZES;
  const engines = await openEngines(options);
  const peers = new Peers();
  const rows: Row[] = [];
  let versions: string;
  const loops = new Set<string>();
  try {
    for (const { n, dtype } of sizes) {
      const flop = 2 * n ** 3;
      const [a, b] = [pattern(n * n, 1), pattern(n * n, 2)];
      const contest = new Contest(peers, `${dtype} ${n}`);
      const inputs: Tensor[] = [];
      let probe: number[] = [];
      for (const { backend, label } of engines) {
        const [x, y] = [a, b].map((data) => Tensor.from(data, { shape: [n, n], dtype, backend })) as [Tensor, Tensor];
        using product = x.matmul(y);
        probe = probeOf(await product.data());
        contest.add(`matmul ${label}`, () => x.matmul(y).dispose());
        contest.add(`gram ${label}`, () => x.gram().dispose());
        inputs.push(x, y);
      }
      const peak = registerPeak(dtype);
      loops.add(peak.name);
      contest.add("register-only", () => peak.run(flop));
      if (dtype === "float32") {
        const [plain, c] = [plainMatmul(n), new Float32Array(n * n)];
        contest.add("plain-js", () => plain(a, b, c));
      }
      const work: Gemm = { kind: "gemm", n, dtype };
      if (dtype === "float32") {
        if (n <= TFJS_CPU_SIZE) await contest.invite("tfjs-cpu", work, { probe });
        await contest.invite("tfjs-wasm", work, { probe });
        await contest.invite("jax-js", work, { probe });
      }
      for (const { threads } of engines) await contest.invite("pytorch", work, { threads, probe });
      await contest.run(rounds, warmup);
      for (const tensor of inputs) tensor.dispose();

      for (const { threads, label } of engines) {
        const alone = ["register-only", "plain-js"].map((name) => [name, name]);
        const others = ["tfjs-cpu", "tfjs-wasm", "jax-js"].map((name) => [name, `${name} 1`]);
        const single = threads === 1 ? (Object.fromEntries([...alone, ...others]) as Record<string, string>) : {};
        rows.push(
          contest.row(`${dtype} ${n} ${label}`, `matmul ${label}`, { ...single, pytorch: `pytorch ${threads}` }, flop),
          contest.row(`gram ${dtype} ${n} ${label}`, `gram ${label}`, { matmul: `matmul ${label}` }),
        );
      }
    }
    versions = peers.versions();
  } finally {
    peers.close();
    for (const engine of engines) engine.close();
  }
  return {
    rows,
    absent: peers.absences,
    notes: [
      `Peers: ${versions}.`,
      `Medians of ${rounds} interleaved rounds after ${warmup} warm-up rounds; a sample is as many calls as take 50 ms. The peers' processes run one at a time.`,
      `register-only: the same multiplications and additions on one thread by a loop that touches no memory (${[...loops].join("; ")}); its ratio is kfacet's share of that rate.`,
      `gram: XᵀX of the same size, of which one triangle is computed; the ratio of matmul says what that saves (2 at best).`,
    ],
  };
}
