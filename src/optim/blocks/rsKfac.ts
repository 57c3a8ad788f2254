import type { Parameter } from "../../nn/index.ts";
import type { Search } from "./dominant.ts";
import { LowRankKfac, type LowRankOptions } from "./lowRank.ts";

export interface RsKfacOptions extends LowRankOptions {
  /** Power iterations, of two products each. Default 4. */
  readonly iterations?: number | undefined;
}

/**
 * RS-KFAC (Puiu 2022, "Randomized K-FACs", arXiv 2206.15397): K-FAC whose factors are inverted by their dominant singular triplets, from a
 * randomized SVD. The factors are exponential averages, so their spectrum decays: quadratic cost in a layer's width instead of cubic.
 * Of the singular vectors the right ones are taken, which come from one product more.
 */
export class RsKfac extends LowRankKfac {
  constructor(parameters: readonly Parameter[], options: RsKfacOptions) {
    super(parameters, "rs-kfac", randomizedSearch(options.iterations), options);
  }
}

/** The right singular vectors of a randomized SVD. */
export function randomizedSearch(iterations = 4): Search {
  return {
    crossover: 4,
    async find(matrix, { rank, oversampling, condition, generator, linalg }) {
      const { u, values, v } = await linalg.randomizedSvd(matrix, { rank, oversampling, iterations, condition, generator });
      u.dispose();
      return { vectors: v, values };
    },
  };
}
