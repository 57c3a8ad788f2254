import { synchronous } from "./scope.ts";
import type { Params, PrimitiveName } from "./primitives.ts";
import type { Tensor } from "./tensor.ts";

/** One applied primitive, as `apply` tells it to whoever records. Handles are the caller's: a recorder takes its own. */
export interface AppliedCall {
  readonly name: PrimitiveName;
  readonly inputs: readonly Tensor[];
  readonly params: Params<PrimitiveName>;
  readonly outputs: readonly Tensor[];
}

/** Something that wants to hear of every primitive: a tape. Tensors know nothing more of gradients than this. */
export interface Recorder {
  record(call: AppliedCall): void;
  /** Whether the value with this id is one that the recorder differentiates with respect to. */
  watches(id: number): boolean;
}

/** Innermost last; `null` hides all before it. */
const stack: (Recorder | null)[] = [];

/** @internal */
export function withRecorder<Result>(recorder: Recorder | null, f: () => Result): Result {
  stack.push(recorder);
  try {
    return f();
  } finally {
    stack.pop();
  }
}

/** Runs `f` with nobody recording. */
export function untracked<Result>(f: () => Result): Result {
  return withRecorder(null, () => synchronous("untracked", f()));
}

/** Whether anybody would be told of a call made now, and may keep the values of its inputs. @internal */
export function isRecording(): boolean {
  return Boolean(stack.at(-1));
}

/** @internal */
export function tellRecorders(call: AppliedCall): void {
  for (let i = stack.length - 1; i >= 0; i--) {
    const recorder = stack[i];
    if (!recorder) return;
    recorder.record(call);
  }
}

/** Whether any open tape, hidden or not, differentiates with respect to this value. @internal */
export function isWatched(id: number): boolean {
  return stack.some((recorder) => recorder?.watches(id));
}
