import type { Parameter } from "../../nn/index.ts";
import type { Search } from "./dominant.ts";
import { LowRankKfac, type LowRankOptions } from "./lowRank.ts";

export interface NysKfacOptions extends LowRankOptions {
  /** Refreshes that take one product more, while the factors still gain rank. Default 3. */
  readonly settling?: number | undefined;
}

/**
 * K-FAC whose factors are inverted by their dominant eigenpairs, from a Nyström approximation that starts at the basis of the last
 * refresh: the factors are exponential averages, so that their dominant subspace moves slowly, and one product follows it where a
 * randomized decomposition from scratch needs ten. The first refresh starts from random vectors and two products; so do the vectors by which
 * the basis widens where rank or oversampling rise.
 *
 * Related: NysAct (arXiv 2506.08360) approximates the activations' covariance alone, SOAP (2409.11321) warm-starts a power step on both
 * of Shampoo's factors. Both Kronecker factors, a warm start and a tail mean are together here.
 */
export class NysKfac extends LowRankKfac {
  constructor(parameters: readonly Parameter[], options: NysKfacOptions) {
    const { settling = 3 } = options;
    const search: Search = {
      crossover: 1.5,
      find(matrix, { rank, oversampling, generator, basis, refreshes, linalg }) {
        const size = { rank, oversampling, generator };
        if (!basis) return linalg.nystrom(matrix, size);
        // With the generator: where rank or oversampling have changed since the last refresh, the basis is widened or narrowed to them.
        return linalg.nystrom(matrix, { ...size, testMatrix: basis, orthonormal: true, iterations: refreshes < settling ? 1 : 0 });
      },
    };
    super(parameters, "nys-kfac", search, options);
  }
}
