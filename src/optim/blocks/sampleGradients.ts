import { Tensor } from "../../tensor/index.ts";

/**
 * How a layer keeps the gradients U [n, d] of a batch's samples over √n, whose row i is Σ_t g_it a_itᵀ:
 * - `thin`: one position a sample, so the factors themselves; inner products cost n²(dOut + dA);
 * - `explicit`: entry by entry;
 * - `implicit`: the factors of all positions, for layers so large that Uᵀ is too much.
 *
 * The inner products of the last two may be sketched: by some of the entries, or by some rows of each factor.
 */
export const sampleForms = ["thin", "explicit", "implicit"] as const;
export type SampleForm = (typeof sampleForms)[number];

/**
 * - `unbiased`: sketched inner products are right on average;
 * - `paper`: both sides of an inner product are scaled by what the average needs once (SENG's code).
 */
export type SketchScaling = "unbiased" | "paper";
export const sketchScalings: readonly SketchScaling[] = ["unbiased", "paper"];

/**
 * Tensors by name. `explicit`: `seen` [n, c], the entries of U that inner products see, `entries` [c] which ones these are if they are
 * not all, and Uᵀ as `u` [d, n], or `a` and `g` where samples have one position. Else: `a` [n, T, dA] and `g` [n, T, dOut] (over √n),
 * with `rowsOfA` and `rowsOfG` for a sketch.
 */
export type SampleTensors = ReadonlyMap<string, Tensor>;

export interface SampleGradients {
  readonly form: SampleForm;
  readonly scaling: SketchScaling;
  readonly tensors: SampleTensors;
}

/** The form `explicit` of a [n, T, dA] and g [n, T, dOut], whose inner products see all entries, or only some. */
export function explicitTensors(a: Tensor, g: Tensor, entries: Int32Array | null): Record<string, Tensor> {
  const [n = 0, positions = 0, dA = 0] = a.shape;
  const dOut = g.shape[2] as number;
  const picked = entries && Tensor.from(entries, { backend: a.backend });
  if (positions === 1 && picked) {
    // Entry e of g aᵀ is that of row ⌊e/dA⌋ of g times that of e mod dA of a: the others are never formed.
    const rowsOf = (factor: Tensor, width: number, rows: Int32Array): Tensor =>
      factor
        .reshape([n, width])
        .transpose()
        .gather(Tensor.from(rows, { backend: a.backend }));
    const outputs = rowsOf(
      g,
      dOut,
      entries.map((e) => Math.floor(e / dA)),
    );
    const inputs = rowsOf(
      a,
      dA,
      entries.map((e) => e % dA),
    );
    return { a, g, seen: outputs.multiply(inputs).transpose(), entries: picked };
  }
  const u = g.matmul(a, { transposeA: true }).reshape([n, dOut * dA]);
  if (positions === 1) return { a, g, seen: u };
  const columns = u.transpose();
  return { u: columns, ...(picked ? { seen: columns.gather(picked).transpose(), entries: picked } : { seen: u }) };
}

/** UUᵀ [n, n]. */
export function innerProducts({ form, scaling, tensors }: SampleGradients): Tensor {
  if (form === "explicit") {
    const seen = take(tensors, "seen");
    const products = seen.matmul(seen, { transposeB: true });
    return tensors.has("entries") ? products.multiply(weight(scaling, entriesOf(tensors), seen.shape[1] as number)) : products;
  }
  const { a, g, scale } = sketched(scaling, tensors);
  const [n, positions] = [a.shape[0] as number, a.shape[1] as number];
  const [p, q] = [a, g].map((factor) => factor.reshape([n * positions, -1])) as [Tensor, Tensor];
  const products = p.matmul(p, { transposeB: true }).multiply(q.matmul(q, { transposeB: true }));
  const sums = positions === 1 ? products : products.reshape([n, positions, n, positions]).sum([1, 3]);
  return scale === 1 ? sums : sums.multiply(scale);
}

/** U J [n, 1] for a gradient J [dOut, dA], sketched like the inner products. */
export function project({ form, scaling, tensors }: SampleGradients, j: Tensor): Tensor {
  if (form === "explicit") {
    const [seen, entries] = [take(tensors, "seen"), tensors.get("entries")];
    const column = j.reshape([-1, 1]);
    if (!entries) return seen.matmul(column);
    return seen.matmul(column.gather(entries)).multiply(weight(scaling, entriesOf(tensors), entries.size));
  }
  const { a, g, scale } = sketched(scaling, tensors);
  const n = a.shape[0] as number;
  const [rowsOfA, rowsOfG] = [tensors.get("rowsOfA"), tensors.get("rowsOfG")];
  const some = rowsOfG ? j.gather(rowsOfG) : j;
  const own = rowsOfA ? some.transpose().gather(rowsOfA).transpose() : some;
  const products = g.reshape([-1, own.shape[0] as number]).matmul(own);
  const sums = products
    .multiply(a.reshape([-1, own.shape[1] as number]))
    .reshape([n, -1])
    .sum(1)
    .reshape([n, 1]);
  return scale === 1 ? sums : sums.multiply(scale);
}

/**
 * U J [n, 1] for J = C_g C_aᵀ of m columns each, by samples of one position: ⟨g aᵀ, C_g C_aᵀ⟩ = (C_gᵀ g)·(C_aᵀ a), which takes
 * 2nm(dOut + dA) operations where J takes 2n·dOut·dA.
 */
export function projectThin({ tensors }: SampleGradients, outputs: Tensor, inputs: Tensor): Tensor {
  const [a, g] = [take(tensors, "a"), take(tensors, "g")];
  const along = (factor: Tensor, columns: Tensor): Tensor => factor.reshape([-1, columns.shape[0] as number]).matmul(columns);
  return along(g, outputs).multiply(along(a, inputs)).sum(1).reshape([-1, 1]);
}

/** Uᵀt [dOut, dA] for t [n, 1]. */
export function combine({ tensors }: SampleGradients, t: Tensor, [dOut, dA]: readonly [number, number]): Tensor {
  const u = tensors.get("u");
  if (u) return u.matmul(t).reshape([dOut, dA]);
  const [a, g] = [take(tensors, "a"), take(tensors, "g")];
  const weighted = g.multiply(t.reshape([-1, 1, 1]));
  return weighted.reshape([-1, dOut]).matmul(a.reshape([-1, dA]), { transposeA: true });
}

/**
 * The authors' approximation of Uᵀt by rank T: (Σ √|tᵢ| gᵢ)(Σ tᵢ aᵢ)ᵀ / Σ √|tᵢ|. Exact for one sample, or if all gᵢ are equal.
 */
export function combineByMeans({ tensors }: SampleGradients, t: Tensor): Tensor {
  const [a, g] = [take(tensors, "a"), take(tensors, "g")];
  const root = t.abs().sqrt().reshape([-1, 1, 1]);
  // Where all of t is 0, so is the result.
  const total = root.sum().maximum(Number.MIN_VALUE ** 0.1);
  return g
    .multiply(root)
    .sum(0)
    .matmul(a.multiply(t.reshape([-1, 1, 1])).sum(0), { transposeA: true })
    .divide(total);
}

/** The factors, or their rows in the sketch, and what inner products of these are to be multiplied by. */
function sketched(scaling: SketchScaling, tensors: SampleTensors): { a: Tensor; g: Tensor; scale: number } {
  const [a, rowsOfA] = rowsOf(take(tensors, "a"), tensors.get("rowsOfA"));
  const [g, rowsOfG] = rowsOf(take(tensors, "g"), tensors.get("rowsOfG"));
  return { a, g, scale: weight(scaling, rowsOfA, a.shape[2] as number) * weight(scaling, rowsOfG, g.shape[2] as number) };
}

/** Some elements of each row of a factor [n, T, d], and d. */
function rowsOf(factor: Tensor, rows: Tensor | undefined): [some: Tensor, width: number] {
  const [n = 0, positions = 0, width = 0] = factor.shape;
  if (!rows) return [factor, width];
  const some = factor.reshape([-1, width]).transpose().gather(rows).transpose();
  return [some.reshape([n, positions, rows.size]), width];
}

/** d, all entries of a sample's gradient. */
function entriesOf(tensors: SampleTensors): number {
  const u = tensors.get("u");
  return u ? (u.shape[0] as number) : (take(tensors, "a").shape[2] as number) * (take(tensors, "g").shape[2] as number);
}

/** What a sum over `count` of `all` products is to be multiplied by. */
function weight(scaling: SketchScaling, all: number, count: number): number {
  const ratio = all / count;
  return scaling === "unbiased" ? ratio : ratio ** 2;
}

function take(tensors: SampleTensors, name: string): Tensor {
  return tensors.get(name) as Tensor;
}
