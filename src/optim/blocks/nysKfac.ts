import type { Parameter } from "../../nn/index.ts";
import { unscoped } from "../../tensor/index.ts";
import { LowRankKfac, type LowRankOptions, type Search } from "./lowRank.ts";

export interface NysKfacOptions extends LowRankOptions {
  /** Refreshes that take one product more, while the factors still gain rank. Default 3. */
  readonly settling?: number | undefined;
}

/**
 * K-FAC whose factors are inverted by their dominant eigenpairs, from a Nyström approximation that starts at the basis of the last
 * refresh: the factors are exponential averages, so that their dominant subspace moves slowly, and one product follows it where a
 * randomized decomposition from scratch needs ten. The first refresh starts from random vectors and two products.
 *
 * Related: NysAct (arXiv 2506.08360) approximates the activations' covariance alone, SOAP (2409.11321) warm-starts a power step on both
 * of Shampoo's factors. Both Kronecker factors, a warm start and a tail mean are together here.
 */
export class NysKfac extends LowRankKfac {
  constructor(parameters: readonly Parameter[], options: NysKfacOptions) {
    const { settling = 3 } = options;
    const search: Search = {
      crossover: 1.5,
      async find(matrix, { rank, oversampling, generator, basis, refreshes, linalg }) {
        if (!basis) return linalg.nystrom(matrix, { rank, oversampling, generator, iterations: 2 });
        using testMatrix = unscoped(() => basis.cast(matrix.dtype));
        return await linalg.nystrom(matrix, { rank, testMatrix, iterations: refreshes < settling ? 1 : 0 });
      },
    };
    super(parameters, "nys-kfac", search, options);
  }
}
