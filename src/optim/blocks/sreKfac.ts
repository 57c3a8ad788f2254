import type { Parameter } from "../../nn/index.ts";
import { LowRankKfac, type LowRankOptions, type Search } from "./lowRank.ts";

export interface SreKfacOptions extends LowRankOptions {
  /** Products with a factor before the last one. Default 4. */
  readonly iterations?: number | undefined;
}

/**
 * SRE-KFAC (Puiu 2022, "Randomized K-FACs", arXiv 2206.15397): K-FAC whose factors are inverted by their dominant eigenpairs, from a
 * randomized eigendecomposition. The factors are exponential averages, so their spectrum decays: quadratic cost in a layer's width
 * instead of cubic. There is an orthonormal basis after each product, where the paper's code has one after the last only.
 */
export class SreKfac extends LowRankKfac {
  constructor(parameters: readonly Parameter[], options: SreKfacOptions) {
    const { iterations = 4 } = options;
    const search: Search = {
      crossover: 3,
      find: (matrix, { rank, oversampling, generator, linalg }) =>
        linalg.randomizedEigh(matrix, { rank, oversampling, iterations, generator }),
    };
    super(parameters, "sre-kfac", search, options);
  }
}
