import {
  brandUpdate,
  eigh,
  inversePositiveDefinite,
  lowRankInverse,
  nystrom,
  randomizedEigh,
  randomizedSvd,
  Tensor,
  tidy,
  unscoped,
  type Backend,
} from "../src/index.ts";
import { combine, innerProducts, projectThin, type SampleGradients } from "../src/optim/blocks/sampleGradients.ts";
import type { Engine } from "./engines.ts";
import { exponentOf, interleaved, sampler, type Task } from "./measure.ts";
import { drifting, driftingBatch, sketchPattern } from "./peers/protocol.ts";
import type { Row } from "./report.ts";

const WIDTHS = [512, 1024, 2048, 4096];
/** What is cubic in the width takes minutes for wider layers. */
const CUBIC_UP_TO = 2048;
const DAMPING = 0.1;
/** Batches in a factor. */
const SEEN = 20;

/** One piece of the work on a dense layer. */
interface Work {
  readonly name: string;
  readonly cubic?: boolean;
  readonly f: () => void | Promise<void>;
}

/** How the work of each method grows with the width of a dense layer, on one thread. */
export async function widths({ backend, label }: Engine, small: boolean): Promise<{ rows: Row[]; notes: string[] }> {
  const [rank, oversampling] = small ? [12, 4] : [220, 10];
  const rows: Row[] = [];
  const points = new Map<string, [width: number, time: number][]>();
  for (const width of small ? [48, 64] : WIDTHS) {
    const { works, dispose } = await layerOf(width, backend, rank, oversampling);
    const sane = works.filter(({ cubic = false }) => !cubic || width <= CUBIC_UP_TO);
    const tasks = sane.map(({ name, f }): Task => ({ name, f: sampler(f, small ? 0 : 50) }));
    for (const [name, time] of await interleaved(tasks, width > 1024 || small ? 3 : 5, 1)) {
      rows.push({ case: `${name} width ${width} float32 ${label}`, metric: "ms", kfacet: time, peers: {} });
      points.set(name, [...(points.get(name) ?? []), [width, time]]);
    }
    dispose();
  }
  const exponents = [...points].map(([name, own]) => `${name} ${exponentOf(own).toFixed(2)}`);
  return {
    rows,
    notes: [
      `width: a dense layer with as many outputs as inputs, batch ${drifting.batch}; its factors are averages of ${SEEN} batches, rank ${rank} + ${oversampling}. Inversion and update: of one factor. Application: of both inverses to a step's gradient; thin: to the factors of the gradient, with or without the product of these at the end.`,
      `Time grows as the width to the power of: ${exponents.join("; ")}.`,
    ],
  };
}

/** A dense layer after some batches, as the pieces of work that each method does for it. */
async function layerOf(
  width: number,
  backend: Backend,
  rank: number,
  oversampling: number,
): Promise<{ works: readonly Work[]; dispose: () => void }> {
  const { batch } = drifting;
  const rowsOf = (t: number): Tensor => Tensor.from(driftingBatch(width, t), { shape: [batch, width], backend });
  const factor = tidy(() => {
    const grams = Array.from({ length: SEEN }, (_, t) => rowsOf(t).gram(1 / (SEEN * batch)));
    return grams.reduce((a, b) => a.add(b));
  });
  const [rows, columns] = [rowsOf(SEEN), tidy(() => rowsOf(SEEN).transpose())];
  const gradient = columns.matmul(rows);
  const size = { n: width, rank, oversampling };
  const testMatrix = Tensor.from(sketchPattern({ kind: "randomized", method: "sre", ...size }), {
    shape: [width, rank + oversampling],
    backend,
  });
  const start = await nystrom(factor, { rank, testMatrix, iterations: 2 });
  const trace = batch; // enough of a tail; only its time counts
  const pairs = { vectors: start.vectors, values: start.values, trace };
  const lowRank = await lowRankInverse(pairs, { damping: DAMPING });
  const damped = tidy(() => factor.add(Tensor.eye(width, { backend }).multiply(DAMPING)));
  const exact = await inversePositiveDefinite(damped);
  const basis = width <= CUBIC_UP_TO ? await eigh(factor) : null;

  const samples: SampleGradients = {
    form: "thin",
    scaling: "unbiased",
    tensors: new Map([
      ["a", rows.reshape([batch, 1, width])],
      ["g", rows.reshape([batch, 1, width])],
    ]),
  };
  const gram = tidy(() => innerProducts(samples).add(Tensor.eye(batch, { backend }).multiply(DAMPING)));
  const system = await inversePositiveDefinite(gram);
  const sengCoefficients = (): Tensor => system.matmul(projectThin(samples, columns, columns));

  const works: Work[] = [
    { name: "kfac inversion by eigh", cubic: true, f: async () => release(await eigh(factor)) },
    { name: "kfac inversion by Cholesky", cubic: true, f: async () => release({ exact: await inversePositiveDefinite(damped) }) },
    { name: "rs-kfac inversion", f: async () => release(await randomizedSvd(factor, { rank, testMatrix, iterations: 4 })) },
    { name: "sre-kfac inversion", f: async () => release(await randomizedEigh(factor, { rank, testMatrix, iterations: 4 })) },
    { name: "nys-kfac inversion", f: async () => release(await nystrom(factor, { rank, testMatrix: start.basis, orthonormal: true })) },
    { name: "b-kfac update", f: async () => release(await brandUpdate(pairs, columns, { decay: 0.95, rank })) },
    {
      name: "kfac application by eigh",
      cubic: true,
      f: () => {
        tidy(() => {
          const q = (basis as { readonly vectors: Tensor }).vectors;
          const inside = q.matmul(gradient, { transposeA: true }).matmul(q).multiply(DAMPING);
          q.matmul(inside).matmul(q, { transposeB: true });
        });
      },
    },
    { name: "kfac application by Cholesky, thin", f: () => thinly((c) => exact.matmul(c), columns, true) },
    { name: "low-rank application", f: () => tidy(() => void lowRank.right(lowRank.left(gradient))) },
    { name: "low-rank application, thin", f: () => thinly((c) => lowRank.left(c), columns, true) },
    { name: "low-rank application, thin, without the product", f: () => thinly((c) => lowRank.left(c), columns, false) },
    { name: "seng solve", f: () => tidy(() => void gradient.subtract(combine(samples, sengCoefficients(), [width, width]))) },
    { name: "seng solve, without the product", f: () => tidy(() => void sengCoefficients()) },
  ];
  const own = [factor, rows, columns, gradient, testMatrix, start.vectors, start.values, start.basis, damped, exact, gram, system];
  const all = [...own, ...samples.tensors.values(), ...(basis ? [basis.vectors, basis.values] : [])];
  return {
    works,
    dispose: () => {
      for (const tensor of all) tensor.dispose();
    },
  };
}

/** P = (Γ⁻¹C)(Ω⁻¹C)ᵀ, or what comes before that product. */
function thinly(inverse: (columns: Tensor) => Tensor, columns: Tensor, product: boolean): void {
  tidy(() => {
    const [left, right] = [inverse(columns), inverse(columns)];
    if (product) left.matmul(right, { transposeB: true });
  });
}

function release(tensors: object): void {
  unscoped(() => {
    for (const tensor of Object.values(tensors)) if (tensor instanceof Tensor) tensor.dispose();
  });
}
