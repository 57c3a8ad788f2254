/**
 * How a bench talks with a process that it times: one line of JSON a request on standard input, one line a reply on standard
 * output, marked, since libraries print there too. The process prepares a piece of work once and then runs it whenever it is
 * asked, so that several processes can be timed in turns. The peers in Python speak the same protocol.
 */
import { createInterface } from "node:readline";

export interface Gemm {
  readonly kind: "gemm";
  readonly n: number;
  readonly dtype: "float32" | "float64";
}

/** A 3 × 3 convolution with padding 1 from `channels` to `channels`. */
export interface Conv {
  readonly kind: "conv";
  readonly pass: "forward" | "input gradient" | "weight gradient";
  readonly batch: number;
  readonly channels: number;
  readonly size: number;
  readonly layout: Layout;
}

/** Convolutions with batch norm and ReLU, max poolings, and fully connected layers with ReLU between. */
export interface Network {
  readonly kind: "network";
  /** Widths of the convolutions; `M` is a pooling. */
  readonly features: readonly (number | "M")[];
  /** Width of the kernels, which are padded to keep the image's size. */
  readonly kernel: 1 | 3;
  readonly fc: readonly number[];
  readonly classes: number;
  readonly channels: number;
  readonly size: number;
  readonly batch: number;
  /** `forward` is evaluation; `step` is a training step of SGD with momentum and weight decay. */
  readonly pass: "forward" | "step";
  readonly layout: Layout;
}

/**
 * A factorization of a square pattern with all of its vectors: `eigh` of its symmetric part, `cholesky` of that plus a multiple of the
 * identity that makes it definite, `qr` and `svd` of the pattern itself. The probe is of the eigenvalues, ascending, of the diagonal of the
 * triangle, without its signs, or of the singular values, descending.
 */
export interface Factorization {
  readonly kind: "eigh" | "svd" | "qr" | "cholesky";
  readonly n: number;
  readonly dtype: "float32" | "float64";
}

/**
 * The dominant eigenpairs of `driftingFactor` by a method of the randomized K-FACs, in float32, from the test matrix of `sketchPattern`:
 * `sre` is six products with the matrix, `rsvd` ten, and `nystrom` one with a basis that was computed before. The probe is of the
 * eigenvalues, ascending.
 */
export interface Randomized {
  readonly kind: "randomized";
  readonly method: "sre" | "rsvd" | "nystrom";
  readonly n: number;
  readonly rank: number;
  readonly oversampling: number;
}

/** How PyTorch stores images; the others have one layout. */
export type Layout = "nchw" | "nhwc";
export type Work = Gemm | Conv | Network | Factorization | Randomized;

export const sgd = { learningRate: 0.01, momentum: 0.9, weightDecay: 5e-4 } as const;

export type Request =
  /** Answers a probe: some elements of the result, or a network's number of parameters, as evidence of the same work. */
  | { readonly do: "prepare"; readonly key: string; readonly work: Work }
  | { readonly do: "sample"; readonly key: string }
  | { readonly do: "release"; readonly key: string }
  | { readonly do: "memory" };

export interface Memory {
  /** Largest and present resident set of the process in bytes. */
  readonly maxRss: number;
  readonly rss: number;
  /** Bytes in a backend's buffers at most since the process began, and now. */
  readonly peakBytes?: number;
  readonly bytes?: number;
}

export interface Reply {
  readonly probe?: readonly number[];
  /** Milliseconds of one call. */
  readonly ms?: number;
  readonly memory?: Memory;
  readonly error?: string;
}

export const MARK = "kfacet-bench: ";

/** Something prepared. */
export interface Prepared {
  readonly probe: readonly number[];
  sample(): Promise<number>;
  release?(): void;
}

/** Serves requests until standard input ends. */
export async function serve(prepare: (work: Work) => Promise<Prepared>, buffers?: () => Partial<Memory>): Promise<void> {
  const works = new Map<string, Prepared>();
  const answer = async (request: Request): Promise<Reply> => {
    if (request.do === "memory") {
      const { rss } = process.memoryUsage();
      return { memory: { maxRss: 1024 * process.resourceUsage().maxRSS, rss, ...buffers?.() } };
    }
    if (request.do === "prepare") {
      const prepared = await prepare(request.work);
      works.set(request.key, prepared);
      return { probe: prepared.probe };
    }
    const work = works.get(request.key);
    if (!work) throw new Error(`nothing is prepared as "${request.key}"`);
    if (request.do === "sample") return { ms: await work.sample() };
    work.release?.();
    works.delete(request.key);
    return {};
  };
  for await (const line of createInterface({ input: process.stdin })) {
    const reply = await answer(JSON.parse(line) as Request).catch((error: unknown): Reply => ({ error: messageOf(error) }));
    process.stdout.write(`${MARK}${JSON.stringify(reply)}\n`);
  }
}

export function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}

/** Numbers on [−1, 1) that every peer can make for itself: a hash of the position. protocol.py has the same. */
export function pattern(size: number, seed: number): Float32Array {
  return Float32Array.from({ length: size }, (_, i) => {
    const mixed = Math.imul(i + 1, 0x9e3779b1) ^ Math.imul(seed, 0x85ebca6b);
    const word = Math.imul(mixed ^ (mixed >>> 15), 0xc2b2ae35);
    return ((word ^ (word >>> 13)) >>> 8) / 2 ** 23 - 1;
  });
}

/** (P + Pᵀ)/2 for a square pattern P. */
export function symmetricPattern(n: number): Float64Array {
  const square = pattern(n * n, 1);
  return Float64Array.from(square, (value, at) => (value + (square[(at % n) * n + Math.floor(at / n)] as number)) / 2);
}

/** What is factorized. */
export function operandOf({ kind, n }: Factorization): Float64Array {
  if (kind === "qr" || kind === "svd") return Float64Array.from(pattern(n * n, 1));
  const symmetric = symmetricPattern(n);
  // Its eigenvalues are about 1.2 √n at most.
  if (kind === "cholesky") for (let i = 0; i < n; i++) symmetric[i * (n + 1)] = (symmetric[i * (n + 1)] as number) + n;
  return symmetric;
}

/** An exponential average of Gram matrices, as K-FAC's factors are: the weight of what was, batches that it has seen, and their size. */
export const drifting = { decay: 0.95, batches: 40, batch: 128 } as const;

/**
 * Rows of batch number `t` [batch, n]: independent, with standard deviations ∝ (k + 1)^−¾ in coordinates of which k and k + n/2 turn by 0.02 from
 * one batch to the next. lapack.py has the same.
 */
export function driftingBatch(n: number, t: number): Float32Array {
  const { batch } = drifting;
  const rows = pattern(batch * n, t + 1);
  const half = n / 2;
  const [cosine, sine] = [Math.cos(0.02 * t), Math.sin(0.02 * t)];
  for (let i = 0; i < batch; i++) {
    for (let k = 0; k < half; k++) {
      const [x, y] = [(rows[i * n + k] as number) * (k + 1) ** -0.75, (rows[i * n + half + k] as number) * (half + k + 1) ** -0.75];
      rows[i * n + k] = cosine * x - sine * y;
      rows[i * n + half + k] = sine * x + cosine * y;
    }
  }
  return rows;
}

/** The test matrix [n, s] of all methods. */
export function sketchPattern({ n, rank, oversampling }: Randomized): Float32Array {
  return pattern(n * (rank + oversampling), 1000);
}

/** Eight elements of a result, spread over it. */
export function probeOf(values: ArrayLike<number>): number[] {
  return Array.from({ length: 8 }, (_, i) => values[Math.floor(((i + 0.5) * values.length) / 8)] as number);
}
