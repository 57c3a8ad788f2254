/** ml-matrix as a peer, for eigenvalues. */
import { createRequire } from "node:module";
import { sampler } from "../measure.ts";
import { probeOf, serve, symmetricPattern, type Prepared, type Work } from "./protocol.ts";

interface MlMatrix {
  readonly Matrix: new (rows: number[][]) => object;
  readonly EigenvalueDecomposition: new (matrix: object, options: { assumeSymmetric: boolean }) => { readonly realEigenvalues: number[] };
}

const { Matrix, EigenvalueDecomposition } = createRequire(import.meta.url)("ml-matrix") as MlMatrix;

function prepare(work: Work): Promise<Prepared> {
  if (work.kind !== "eigh" || work.dtype !== "float64") throw new Error("only eigenvalues in float64 are timed");
  const { n } = work;
  const numbers = symmetricPattern(n);
  const matrix = new Matrix(Array.from({ length: n }, (_, i) => [...numbers.subarray(i * n, i * n + n)]));
  const values = [...new EigenvalueDecomposition(matrix, { assumeSymmetric: true }).realEigenvalues].sort((a, b) => a - b);
  const sample = sampler(() => {
    new EigenvalueDecomposition(matrix, { assumeSymmetric: true });
  });
  return Promise.resolve({ probe: probeOf(values), sample });
}

await serve(prepare);
