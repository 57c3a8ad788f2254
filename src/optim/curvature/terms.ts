import { unscoped, Variable, type Tensor } from "../../tensor/index.ts";
import type { BlockState } from "./block.ts";

/** What bounds each of the values that an average has taken in. */
export interface TermBounds {
  /** None has a larger rank. */
  readonly rank: number;
  /** C: none has a larger trace, and so none has a larger norm, all being positive semidefinite. */
  readonly trace: number;
}

/**
 * Follows the largest rank and the largest trace of an average's values. That is what the theorem on the decay of its spectrum needs to know
 * of them (Puiu 2022, arXiv 2206.15397, proposition 3.1), and costs a sum over a diagonal each. The trace stays on the device until it is asked
 * for.
 */
export class Terms {
  #rank = 0;
  #trace: Variable | null = null;

  /** @param trace a tensor of one number. Runs inside a tidy. */
  observe(rank: number, trace: Tensor): void {
    this.#rank = Math.max(this.#rank, rank);
    this.#install(this.#trace?.value.maximum(trace) ?? trace);
  }

  #install(trace: Tensor): void {
    if (this.#trace) this.#trace.assign(trace);
    else this.#trace = unscoped(() => new Variable("largest trace", trace));
  }

  async bounds(): Promise<TermBounds> {
    return { rank: this.#rank, trace: (await this.#trace?.value.item()) ?? 0 };
  }

  /** The tensor's handle is the receiver's. */
  state(): BlockState {
    return { tensors: new Map(this.#trace ? [["trace", this.#trace.value.keep()]] : []), numbers: { rank: this.#rank } };
  }

  load({ tensors, numbers }: BlockState): void {
    this.dispose();
    const trace = tensors.get("trace");
    if (trace) this.#install(trace);
    this.#rank = numbers["rank"] ?? 0;
  }

  dispose(): void {
    this.#trace?.dispose();
    this.#trace = null;
  }
}
