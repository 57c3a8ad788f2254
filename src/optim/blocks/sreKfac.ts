import type { Parameter } from "../../nn/index.ts";
import type { Schedule } from "../schedules.ts";
import type { Search } from "./dominant.ts";
import { LowRankKfac, type LowRankOptions } from "./lowRank.ts";

export interface SreKfacOptions extends LowRankOptions {
  /** Products with a factor before the last one. Default 4; with a tolerance 2, with each basis that is tried. */
  readonly iterations?: number | undefined;
  /**
   * In (0, 1): each factor F is approximated to ‖F − U diag(D) Uᵀ‖_F ≤ tolerance · ‖F‖_F by as few eigenpairs as that takes at a refresh, and
   * by `rank` eigenpairs if these are not enough. Default: by `rank` eigenpairs always.
   */
  readonly tolerance?: Schedule | undefined;
}

/**
 * SRE-KFAC (Puiu 2022, "Randomized K-FACs", arXiv 2206.15397): K-FAC whose factors are inverted by their dominant eigenpairs, from a
 * randomized eigendecomposition. The factors are exponential averages, so their spectrum decays: quadratic cost in a layer's width
 * instead of cubic. There is an orthonormal basis after each product, where the paper's code has one after the last only.
 *
 * With a tolerance the rank follows the spectrum: from the eigenvectors of the last refresh and some random ones the basis grows until the
 * error, which is measured (`adaptiveEigh`), is small enough. The author's later code moves the rank by fixed steps between refreshes.
 */
export class SreKfac extends LowRankKfac {
  constructor(parameters: readonly Parameter[], options: SreKfacOptions) {
    const { iterations } = options;
    const search: Search = {
      crossover: 3,
      tolerance: options.tolerance,
      async find(matrix, { rank, tolerance, oversampling, condition, generator, basis, linalg }) {
        if (tolerance === null)
          return linalg.randomizedEigh(matrix, { rank, oversampling, iterations: iterations ?? 4, condition, generator });
        const size = { tolerance, maxRank: rank, oversampling, iterations: iterations ?? 2, generator };
        const { values, vectors } = await linalg.adaptiveEigh(matrix, { ...size, ...(basis && { testMatrix: basis }) });
        return { values, vectors, basis: vectors.hold() };
      },
    };
    super(parameters, "sre-kfac", search, options);
  }
}
