import { eigh as decompose, Tensor } from "../src/index.ts";
import { Contest } from "./contest.ts";
import { openEngines } from "./engines.ts";
import { exponentOf } from "./measure.ts";
import { probeOf, symmetricPattern, type Eigh } from "./peers/protocol.ts";
import { Peers } from "./peers.ts";
import type { BenchOptions, Row, Suite } from "./report.ts";

const SIZES: readonly Omit<Eigh, "kind">[] = [
  { n: 256, dtype: "float64" },
  { n: 512, dtype: "float64" },
  { n: 1024, dtype: "float64" },
  { n: 2304, dtype: "float64" },
  { n: 256, dtype: "float32" },
  { n: 512, dtype: "float32" },
  { n: 1024, dtype: "float32" },
];
/** Sizes up to which a decomposition takes them seconds at most. */
const ML_MATRIX_SIZE = 512;
const JAX_SIZE = 256;
/** A decomposition of a larger matrix takes seconds: fewer rounds. */
const LARGE = 2000;
/** The exponent of cost against n is fitted from here on. */
const FIT_FROM = 512;

/** All eigenvalues and eigenvectors of random symmetric matrices, beside LAPACK and the peers in JavaScript. */
export async function eigh(options: BenchOptions): Promise<Suite> {
  const sizes: typeof SIZES = options.small
    ? [
        { n: 40, dtype: "float64" },
        { n: 40, dtype: "float32" },
      ]
    : SIZES;
  const engines = await openEngines(options);
  const peers = new Peers();
  const rows: Row[] = [];
  let versions: string;
  try {
    for (const { n, dtype } of sizes) {
      const contest = new Contest(peers, `eigh ${dtype} ${n}`);
      const numbers = symmetricPattern(n);
      const inputs: Tensor[] = [];
      let probe: number[] = [];
      const run = async (a: Tensor): Promise<number[]> => {
        const { values, vectors } = await decompose(a);
        const found = probeOf(values.dataSync());
        values.dispose();
        vectors.dispose();
        return found;
      };
      for (const { backend, label } of engines) {
        const a = Tensor.from(numbers, { shape: [n, n], dtype, backend });
        inputs.push(a);
        probe = await run(a);
        contest.add(label, () => run(a).then(() => undefined));
      }
      const work: Eigh = { kind: "eigh", n, dtype };
      for (const { threads } of engines) await contest.invite("numpy", work, { threads, probe });
      if (dtype === "float64" && n <= ML_MATRIX_SIZE) await contest.invite("ml-matrix", work, { probe });
      if (dtype === "float32" && n <= JAX_SIZE) await contest.invite("jax-js", work, { probe });
      const [rounds, warmup] = options.small ? [3, 1] : n > LARGE ? [3, 1] : [9, 2];
      await contest.run(rounds, warmup);
      for (const tensor of inputs) tensor.dispose();
      for (const { threads, label } of engines) {
        const others = threads === 1 ? { "ml-matrix": "ml-matrix 1", "jax-js": "jax-js 1" } : { "1 thread": "1 thread" };
        rows.push(contest.row(`eigh ${dtype} ${n} ${label}`, label, { numpy: `numpy ${threads}`, ...others }));
      }
    }
    versions = peers.versions();
  } finally {
    peers.close();
    for (const engine of engines) engine.close();
  }
  const fitted = rows.flatMap(({ case: name, kfacet }) => {
    const n = Number(/eigh float64 (\d+) 1 thread/.exec(name)?.[1]);
    return n >= FIT_FROM ? [[n, kfacet] as const] : [];
  });
  return {
    rows,
    absent: peers.absences,
    notes: [
      `Peers: ${versions}. Random symmetric matrices, of which divide and conquer can leave out little.`,
      "Medians of 9 interleaved rounds after 2 warm-up rounds, 3 after 1 for the largest.",
      ...(fitted.length > 1
        ? [`Time grows as n to the power of ${exponentOf(fitted).toFixed(2)} (float64, one thread, from ${FIT_FROM} on).`]
        : []),
    ],
  };
}
