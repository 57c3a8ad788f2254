import type { Nystrom, NystromOptions } from "../../linalg/index.ts";
import type { Parameter } from "../../nn/index.ts";
import { UsageError, type Tensor } from "../../tensor/index.ts";
import type { Schedule } from "../schedules.ts";
import type { Search } from "./dominant.ts";
import { LowRankKfac, type LowRankOptions } from "./lowRank.ts";

export interface NysKfacOptions extends LowRankOptions {
  /** Refreshes that take one product more and look for more eigenpairs, while the factors still gain rank. Default 3. */
  readonly settling?: number | undefined;
  /**
   * In [0, 1): at a refresh, eigenvalues that are negligible beside what their factor is damped by, at most this part of it, are left to the
   * tail, and `rank` is a bound. Where that is large enough, the damped inverse is then within this part of itself in every direction, but for
   * errors of the search, and as long as the damping does not fall. Only for the tail `mean`. 0: always `rank` eigenpairs. Default .01.
   */
  readonly negligible?: Schedule | undefined;
}

/**
 * K-FAC whose factors are inverted by their dominant eigenpairs, from a Nyström approximation that starts at the basis of the last
 * refresh: the factors are exponential averages, so that their dominant subspace moves slowly, and one product follows it where a
 * randomized decomposition from scratch needs ten. The first refresh starts from random vectors and two products; so do the vectors by which
 * the basis widens.
 *
 * The rank follows the damping: eigenvalues that are negligible beside it need no eigenvectors, and a factor whose largest eigenvalues are
 * few is cheap to decompose and to apply.
 *
 * Related: NysAct (arXiv 2506.08360) approximates the activations' covariance alone, SOAP (2409.11321) warm-starts a power step on both
 * of Shampoo's factors. Both Kronecker factors, a warm start and a tail mean are together here.
 *
 * @throws UsageError for a `negligible` above 0 with another tail than the mean.
 */
export class NysKfac extends LowRankKfac {
  constructor(parameters: readonly Parameter[], options: NysKfacOptions) {
    const { settling = 3, negligible = 0.01, tail = "mean" } = options;
    if (tail !== "mean" && (options.negligible ?? 0) !== 0)
      throw new UsageError(
        `NysKfac: what is negligible is known for the tail "mean" alone, but the tail is "${tail}"; leave negligible out, or give 0`,
      );
    const search: Search = {
      crossover: 1.5,
      negligible,
      expected: (kept, refreshes) => Math.ceil((refreshes < settling ? 2 : 1.25) * kept),
      async find(matrix, { rank, expected, cutoff, oversampling, generator, basis, refreshes, linalg }) {
        const look = async (sought: number, start: Pick<NystromOptions, "testMatrix" | "iterations">): Promise<Nystrom> => {
          // With the generator: a basis that is too small or too large by now is widened or narrowed.
          const found = await linalg.nystrom(matrix, { rank: sought, oversampling, generator, orthonormal: true, ...start });
          if (!cutoff || sought >= rank || (await reaches(found.values, cutoff))) return found;
          // Not even the smallest is negligible: there may be others.
          try {
            return await look(Math.min(rank, 2 * sought), { testMatrix: found.basis });
          } finally {
            for (const tensor of [found.vectors, found.values, found.basis]) tensor.dispose();
          }
        };
        return await look(expected, basis ? { testMatrix: basis, iterations: refreshes < settling ? 1 : 0 } : {});
      },
    };
    super(parameters, "nys-kfac", search, options);
  }
}

/** Whether the smallest of ascending eigenvalues is negligible. */
async function reaches(values: Tensor, cutoff: (largest: number) => number): Promise<boolean> {
  const ascending = await values.data();
  return ascending.length > 0 && (ascending[0] as number) <= cutoff(ascending.at(-1) as number);
}
