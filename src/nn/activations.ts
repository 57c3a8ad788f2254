import { where, type Tensor } from "../tensor/index.ts";
import { Module } from "./module.ts";

/** max(x, 0). */
export class ReLU extends Module {
  protected compute(input: Tensor): Tensor {
    return input.relu();
  }
}

/** 1 / (1 + e⁻ˣ). */
export class Sigmoid extends Module {
  protected compute(input: Tensor): Tensor {
    return input.sigmoid();
  }
}

/** Hyperbolic tangent. */
export class Tanh extends Module {
  protected compute(input: Tensor): Tensor {
    return input.tanh();
  }
}

/** log(1 + eˣ). */
export class Softplus extends Module {
  protected compute(input: Tensor): Tensor {
    return input.softplus();
  }
}

/** x · sigmoid(x) (arXiv 1702.03118), also called swish. */
export class SiLU extends Module {
  protected compute(input: Tensor): Tensor {
    return input.multiply(input.sigmoid());
  }
}

/** x Φ(x) with the normal distribution function Φ, exactly (arXiv 1606.08415). */
export class GELU extends Module {
  protected compute(input: Tensor): Tensor {
    return input.multiply(input.multiply(Math.SQRT1_2).erf().add(1)).multiply(0.5);
  }
}

/** x where positive, slope · x elsewhere. */
export class LeakyReLU extends Module {
  readonly slope: number;
  /** @param slope default 0.01. */
  constructor(slope = 0.01) {
    super();
    this.slope = slope;
  }
  protected compute(input: Tensor): Tensor {
    return where(input.greater(0), input, input.multiply(this.slope));
  }
}

/** x where positive, α (eˣ − 1) elsewhere (arXiv 1511.07289). */
export class ELU extends Module {
  readonly alpha: number;
  /** @param alpha default 1. */
  constructor(alpha = 1) {
    super();
    this.alpha = alpha;
  }
  protected compute(input: Tensor): Tensor {
    // exp of the negative part only: its overflow would make 0 · ∞ in the derivative.
    return where(input.greater(0), input, input.minimum(0).exp().subtract(1).multiply(this.alpha));
  }
}
