import { cholesky, eigh as decompose, qr, svd, Tensor } from "../src/index.ts";
import { Contest } from "./contest.ts";
import { openEngines } from "./engines.ts";
import { exponentOf } from "./measure.ts";
import { operandOf, probeOf, type Factorization } from "./peers/protocol.ts";
import { Peers } from "./peers.ts";
import type { BenchOptions, Row, Suite } from "./report.ts";

type Kind = Factorization["kind"];

const KINDS: readonly Kind[] = ["eigh", "svd", "qr", "cholesky"];
const SIZES = {
  float64: [256, 512, 1024, 2304],
  float32: [256, 512, 1024],
} as const;
/** Sizes up to which an eigendecomposition takes them seconds at most. */
const ML_MATRIX_SIZE = 512;
const JAX_SIZE = 256;
/** A decomposition of a larger matrix takes seconds: fewer rounds. */
const LARGE = 2000;
/** The exponent of cost against n is fitted from here on. */
const FIT_FROM = 1024;

/** All eigenvalues and eigenvectors of symmetric matrices, and the other factorizations, beside LAPACK and the peers in JavaScript. */
export async function eigh(options: BenchOptions): Promise<Suite> {
  const works = KINDS.flatMap((kind) =>
    (["float64", "float32"] as const).flatMap((dtype) =>
      (options.small ? [40] : SIZES[dtype]).map((n): Factorization => ({ kind, n, dtype })),
    ),
  );
  const engines = await openEngines(options);
  const peers = new Peers();
  const rows: Row[] = [];
  let versions: string;
  try {
    for (const work of works) {
      const { kind, n, dtype } = work;
      const name = `${kind} ${dtype} ${n}`;
      const contest = new Contest(peers, name);
      const numbers = operandOf(work);
      const inputs: Tensor[] = [];
      let probe: number[] = [];
      for (const { backend, label } of engines) {
        const a = Tensor.from(numbers, { shape: [n, n], dtype, backend });
        inputs.push(a);
        probe = probeOf(await factorize[kind](a));
        contest.add(label, () => factorize[kind](a).then(() => undefined));
      }
      for (const { threads } of engines) await contest.invite("numpy", work, { threads, probe });
      if (kind === "eigh" && dtype === "float64" && n <= ML_MATRIX_SIZE) await contest.invite("ml-matrix", work, { probe });
      if (kind === "eigh" && dtype === "float32" && n <= JAX_SIZE) await contest.invite("jax-js", work, { probe });
      const [rounds, warmup] = options.small ? [3, 1] : n > LARGE ? [3, 1] : [9, 2];
      await contest.run(rounds, warmup);
      for (const tensor of inputs) tensor.dispose();
      for (const { threads, label } of engines) {
        const others = threads === 1 ? { "ml-matrix": "ml-matrix 1", "jax-js": "jax-js 1" } : { "1 thread": "1 thread" };
        rows.push(contest.row(`${name} ${label}`, label, { numpy: `numpy ${threads}`, ...others }));
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
      `Peers: ${versions}. Random matrices, of which divide and conquer can leave out little; all vectors.`,
      "Medians of 9 interleaved rounds after 2 warm-up rounds, 3 after 1 for the largest.",
      ...KINDS.flatMap((kind) => exponentNote(kind, rows)),
    ],
  };
}

/** Factorizes, and gives the numbers of which a probe is taken. */
const factorize: Readonly<Record<Kind, (a: Tensor) => Promise<ArrayLike<number>>>> = {
  async eigh(a) {
    const { values, vectors } = await decompose(a);
    return taken(values, [values, vectors]);
  },
  async svd(a) {
    const { u, values, v } = await svd(a);
    return taken(values, [u, values, v]);
  },
  async qr(a) {
    const { q, r } = await qr(a);
    return diagonalOf(await taken(r, [q, r]), a);
  },
  async cholesky(a) {
    const l = await cholesky(a);
    return diagonalOf(await taken(l, [l]), a);
  },
};

async function taken(wanted: Tensor, all: readonly Tensor[]): Promise<ArrayLike<number>> {
  const numbers = await wanted.data();
  for (const tensor of all) tensor.dispose();
  return numbers;
}

function diagonalOf(numbers: ArrayLike<number>, { shape: [n = 0] }: Tensor): number[] {
  return Array.from({ length: n }, (_, i) => numbers[i * (n + 1)] as number);
}

function exponentNote(kind: Kind, rows: readonly Row[]): string[] {
  const pattern = new RegExp(`^${kind} float64 (\\d+) 1 thread`);
  const fitted = rows.flatMap(({ case: name, kfacet }) => {
    const n = Number(pattern.exec(name)?.[1]);
    return n >= FIT_FROM ? [[n, kfacet] as const] : [];
  });
  if (fitted.length < 2) return [];
  return [`${kind}: time grows as n to the power of ${exponentOf(fitted).toFixed(2)} (float64, one thread, from ${FIT_FROM} on).`];
}
