import {
  eigh,
  frobeniusNorm,
  inversePositiveDefinite,
  lowRankInverse,
  nystrom,
  randomizedEigh,
  randomizedSvd,
  Tensor,
  tidy,
  type Backend,
  type LowRank,
} from "../src/index.ts";
import { Contest } from "./contest.ts";
import { openEngines, type Engine } from "./engines.ts";
import { exponentOf } from "./measure.ts";
import { drifting, driftingBatch, probeOf, sketchPattern, type Randomized } from "./peers/protocol.ts";
import { Peers } from "./peers.ts";
import type { BenchOptions, Row, Suite } from "./report.ts";

type Method = Randomized["method"];

/** Products with the matrix that a method makes. */
const PRODUCTS: Readonly<Record<Method, number>> = { sre: 6, rsvd: 10, nystrom: 1 };
const METHODS = Object.keys(PRODUCTS) as Method[];
const SIZES = [1024, 2304, 4608];
/** Order of the product that says how fast products are. */
const GEMM = 1024;
/** Up to this order the inverse is compared with the exact one. */
const INVERTED = 2304;
/** Relative to the largest eigenvalue. */
const DAMPING = 0.01;
/** Batches from one inverse to the next, and inverses, each from the basis of the one before. */
const [APART, REFRESHES] = [5, 4];

/** Rounds and warm-up rounds. */
function roundsOf(n: number, small: boolean): readonly [rounds: number, warmup: number] {
  if (small) return [3, 1];
  return n > 4000 ? [3, 1] : n > 2000 ? [5, 1] : [9, 2];
}

/**
 * The dominant eigenpairs of K-FAC's factors by its randomized methods, beside all of them by `eigh`, the same methods in numpy, and the
 * time that their products alone take at the rate of `matmul`.
 */
export async function randomized(options: BenchOptions): Promise<Suite> {
  const { small } = options;
  const engines = await openEngines(options);
  const peers = new Peers();
  const rows: Row[] = [];
  const notes: string[] = [];
  let versions: string;
  try {
    for (const n of small ? [64] : SIZES) {
      const sizes = small ? { n, rank: 12, oversampling: 4 } : { n, rank: 220, oversampling: 10 };
      const factors = engines.map(({ backend }) => driftingFactor(n, backend, 0, drifting.batches));
      const all = await timeAll(peers, factors, n, small);
      for (const method of METHODS) {
        const made = await timeMethod(peers, engines, factors, { kind: "randomized", method, ...sizes }, small);
        rows.push(...made.map((row, i) => (i === 0 ? { ...row, peers: { ...row.peers, eigh: all } } : row)));
      }
      if (n <= INVERTED) rows.push(await compareInverses(factors[0] as Tensor, sizes));
      for (const factor of factors) factor.dispose();
    }
    versions = peers.versions();
  } finally {
    peers.close();
    for (const engine of engines) engine.close();
  }
  notes.push(
    `Peers: ${versions}. float32, rank 220 and 10 vectors besides, from one test matrix for all: sre is six products with the matrix, rsvd ten, nystrom one from a basis that was computed before.`,
    "Medians of 9, 5 or 3 interleaved rounds by size; eigh of the largest matrix once.",
    `products: the products with the matrix alone, at the rate of a product of order ${GEMM} in the same rounds; its ratio is the share of the time that they would take.`,
    `inverse error: of (X + λI)⁻¹, λ = ${DAMPING} of the largest eigenvalue, from nystrom's pairs and the mean of the tail, relative to the exact one in the Frobenius norm, after ${REFRESHES} refreshes ${APART} batches apart; beside it that from rsvd's pairs of the same matrix.`,
    ...METHODS.flatMap((method) => exponentNote(method, rows)),
  );
  return { rows, absent: peers.absences, notes };
}

/** The average that K-FAC would hold after batch number `to`, from one after batch `from` or from nothing. */
function driftingFactor(n: number, backend: Backend, from: number, to: number, start?: Tensor): Tensor {
  const { decay, batch } = drifting;
  let factor = start;
  for (let t = from; t < to; t++) {
    const next = tidy(() => {
      const gram = Tensor.from(driftingBatch(n, t), { shape: [batch, n], backend }).gram(1 / batch);
      return factor ? factor.multiply(decay).add(gram.multiply(1 - decay)) : gram;
    });
    if (factor !== start) factor?.dispose();
    factor = next;
  }
  return factor as Tensor;
}

/** Milliseconds of all eigenpairs on one thread. */
async function timeAll(peers: Peers, [factor]: readonly Tensor[], n: number, small: boolean): Promise<number> {
  const contest = new Contest(peers, `eigh float32 ${n}`);
  contest.add("eigh", async () => dispose(await eigh(factor as Tensor)));
  const [rounds, warmup] = n > 4000 ? [1, 0] : roundsOf(n, small);
  await contest.run(Math.min(3, rounds), Math.min(1, warmup));
  return contest.row("eigh", "eigh", {}).kfacet;
}

/** A row for each engine. */
async function timeMethod(
  peers: Peers,
  engines: readonly Engine[],
  factors: readonly Tensor[],
  work: Randomized,
  small: boolean,
): Promise<Row[]> {
  const { method, n } = work;
  const name = `${method} float32 ${n}`;
  const contest = new Contest(peers, name);
  const inputs: Tensor[] = [];
  let probe: number[] = [];
  for (const [i, { backend, label }] of engines.entries()) {
    const x = factors[i] as Tensor;
    const sketch = Tensor.from(sketchPattern(work), { shape: [n, work.rank + work.oversampling], backend });
    const testMatrix = method === "nystrom" ? await basisOf(x, work, sketch) : sketch;
    const square = Tensor.ones([small ? 64 : GEMM, small ? 64 : GEMM], { backend });
    inputs.push(sketch, testMatrix, square);
    const found = await run(method, x, work, testMatrix);
    probe = probeOf(await ascending(found.values));
    dispose(found);
    contest.add(label, async () => dispose(await run(method, x, work, testMatrix)));
    contest.add(`product ${label}`, () => square.matmul(square).dispose());
  }
  for (const { threads } of engines) await contest.invite("numpy", work, { threads, probe });
  await contest.run(...roundsOf(n, small));
  const [{ size: entries }] = inputs.slice(-1) as [Tensor];
  for (const tensor of inputs) tensor.dispose();
  return engines.map(({ threads, label }) => {
    const row = contest.row(`${name} ${label}`, label, { numpy: `numpy ${threads}`, product: `product ${label}` });
    const { product = NaN, ...others } = row.peers;
    const multiplied = (PRODUCTS[method] * n ** 2 * (work.rank + work.oversampling)) / entries ** 1.5;
    return { ...row, peers: { ...others, products: multiplied * product } };
  });
}

interface Pairs extends LowRank {
  /** For a next call; nystrom's. */
  readonly basis?: Tensor;
}

async function run(method: Method, x: Tensor, { rank }: { readonly rank: number }, testMatrix: Tensor): Promise<Pairs> {
  if (method === "sre") return randomizedEigh(x, { rank, testMatrix, iterations: PRODUCTS.sre - 1 });
  if (method === "nystrom") return nystrom(x, { rank, testMatrix, orthonormal: true }); // from `basisOf`
  const { u, values, v } = await randomizedSvd(x, { rank, testMatrix, iterations: PRODUCTS.rsvd / 2 - 1 });
  u.dispose();
  return { values, vectors: v };
}

async function basisOf(x: Tensor, { rank }: { readonly rank: number }, sketch: Tensor): Promise<Tensor> {
  const { basis, vectors, values } = await nystrom(x, { rank, testMatrix: sketch, iterations: 2 });
  for (const tensor of [vectors, values]) tensor.dispose();
  return basis;
}

/** How far the damped inverse from a warm-started Nyström approximation is from the exact one, beside that from a randomized SVD. */
async function compareInverses(start: Tensor, { n, rank, oversampling }: Omit<Randomized, "kind" | "method">): Promise<Row> {
  const { backend } = start;
  const sketch = Tensor.from(sketchPattern({ kind: "randomized", method: "nystrom", n, rank, oversampling }), {
    shape: [n, rank + oversampling],
    backend,
  });
  let x = start.keep();
  let basis = await basisOf(x, { rank }, sketch);
  let pairs: Pairs | undefined;
  for (let refresh = 1; refresh <= REFRESHES; refresh++) {
    const seen = drifting.batches + APART * (refresh - 1);
    const next = driftingFactor(n, backend, seen, seen + APART, x);
    x.dispose();
    x = next;
    if (pairs) dispose({ vectors: pairs.vectors, values: pairs.values });
    pairs = await run("nystrom", x, { rank }, basis);
    basis.dispose();
    basis = pairs.basis as Tensor;
  }
  const warm = pairs as Pairs;
  const svd = await run("rsvd", x, { rank }, sketch);
  const [largest = 0] = await svd.values.data();
  const [error, other] = await inverseErrors(x, DAMPING * largest, [warm, svd]);
  for (const tensor of [x, basis, sketch, warm.values, warm.vectors, svd.values, svd.vectors]) tensor.dispose();
  return { case: `nystrom inverse error ${n}`, metric: "relative", kfacet: error as number, peers: { rsvd: other as number } };
}

async function inverseErrors(x: Tensor, damping: number, approximations: readonly LowRank[]): Promise<number[]> {
  const n = x.shape[0] as number;
  const eye = Tensor.eye(n, { dtype: "float64", backend: x.backend });
  const entries = await x.data();
  const trace = Array.from({ length: n }, (_, i) => entries[i * (n + 1)] as number).reduce((sum, value) => sum + value, 0);
  const damped = tidy(() => x.cast("float64").add(eye.multiply(damping)));
  const exact = await inversePositiveDefinite(damped);
  const norm = await frobeniusNorm(exact);
  const errors: number[] = [];
  for (const { vectors, values } of approximations) {
    const [u, d] = [vectors.cast("float64"), values.cast("float64")];
    const inverse = await lowRankInverse({ vectors: u, values: d, trace }, { damping });
    const difference = tidy(() => inverse.left(eye).subtract(exact));
    errors.push((await frobeniusNorm(difference)) / norm);
    for (const tensor of [u, d, difference]) tensor.dispose();
  }
  for (const tensor of [eye, damped, exact]) tensor.dispose();
  return errors;
}

function dispose(tensors: object): void {
  for (const tensor of Object.values(tensors)) if (tensor instanceof Tensor) tensor.dispose();
}

async function ascending(values: Tensor): Promise<number[]> {
  return Array.from(await values.data()).sort((a, b) => a - b);
}

function exponentNote(method: Method, rows: readonly Row[]): string[] {
  const pattern = new RegExp(`^${method} float32 (\\d+) 1 thread`);
  const fitted = rows.flatMap(({ case: name, kfacet }) => {
    const n = Number(pattern.exec(name)?.[1]);
    return n > 0 ? [[n, kfacet] as const] : [];
  });
  return fitted.length < 2 ? [] : [`${method}: time grows as n to the power of ${exponentOf(fitted).toFixed(2)} (one thread).`];
}
