import type { LinalgWorker } from "../../linalg/index.ts";
import type { Tensor } from "../../tensor/index.ts";
import type { CurvatureView } from "./view.ts";

/** What a step must record for a block. Both false: nothing is observed, and the step costs what it costs without curvature. */
export interface CaptureNeeds {
  /** The passes that make up the Fisher: for covariances. */
  readonly curvature: boolean;
  /** The training pass's own factors of the gradient: for thin application and per-sample methods. */
  readonly gradient: boolean;
}

export const NO_NEEDS: CaptureNeeds = { curvature: false, gradient: false };

export interface BlockState {
  readonly tensors: ReadonlyMap<string, Tensor>;
  readonly numbers: Readonly<Record<string, number>>;
}

/** The state of what has seen nothing. */
export const NOTHING: BlockState = { tensors: new Map(), numbers: {} };

/** States under names of their own, as one: `partOf` takes it apart again. Their handles pass to it. */
export function joined(parts: Readonly<Record<string, BlockState>>): BlockState {
  const entries = <T>(of: (state: BlockState) => Iterable<readonly [string, T]>): [string, T][] =>
    Object.entries(parts).flatMap(([name, state]) => [...of(state)].map(([key, value]): [string, T] => [`${name}.${key}`, value]));
  return {
    tensors: new Map(entries(({ tensors }) => tensors)),
    numbers: Object.fromEntries(entries(({ numbers }) => Object.entries(numbers))),
  };
}

/** What a joined state has under a name. */
export function partOf({ tensors, numbers }: BlockState, name: string): BlockState {
  const own = <T>(entries: Iterable<readonly [string, T]>): [string, T][] =>
    [...entries].flatMap(([key, value]) => (key.startsWith(`${name}.`) ? [[key.slice(name.length + 1), value]] : []));
  return { tensors: new Map(own(tensors)), numbers: Object.fromEntries(own(Object.entries(numbers))) };
}

/** For a report. */
export function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}

/** What a block has to tell about a refresh. */
export interface BlockReport {
  /**
   * By name: `bytes` kept (a block tells of those that its state does not have); of each factor `input.largest`, `input.rank`,
   * `input.truncation` (the part of the trace left out), and what bounds the decay of its spectrum: `FactorTerms`.
   */
  readonly figures: Readonly<Record<string, number>>;
  /** The eigenvalues that are known of each factor, descending. */
  readonly spectra: Readonly<Record<string, readonly number[]>>;
  /** What failed, and what was done instead, in words. */
  readonly problems: readonly string[];
  /** What a setting came to that does not fit the layer or the batch, in words: each is said once. */
  readonly remarks: readonly string[];
}

/**
 * The curvature of one weight (and its bias) by one method. In a step: `needs`, then `observe` if something was recorded, then
 * `refresh`, then `precondition`.
 */
export interface CurvatureBlock {
  /** The method, as the registration table shows it. */
  readonly method: string;
  needs(step: number): CaptureNeeds;
  /** Takes in the step's records; what must outlive the step is kept. Runs inside a tidy. */
  observe(view: CurvatureView, step: number): void;
  /** Recomputes what `precondition` uses, if it is time, and installs it all at once. What need not be done in this step may run on `worker`. */
  refresh(step: number, worker: LinalgWorker): Promise<void>;
  /** From the gradient [dOut, dA], bias last, to the step's direction of the same shape. Runs inside a tidy. */
  precondition(gradient: Tensor, context: { readonly step: number; readonly view: CurvatureView | null }): Tensor;
  /** What happened since it was last asked; null if nothing did. */
  report?(): BlockReport | null;
  /** The tensors' handles are the receiver's. */
  state(): BlockState;
  /** @throws CheckpointError if the state does not fit the layer; the block is then as it was. */
  load(state: BlockState): void;
  dispose(): void;
}

/**
 * Makes the block of a weight when it is first met, or says why it has none. `saved` is the state that the block is going to load, if there
 * is one, for a factory that decides by the first batch what the block looks like: the batch of a resumed run is another one.
 */
export type BlockFactory = (view: CurvatureView, saved: BlockState | null) => CurvatureBlock | { readonly none: string };
