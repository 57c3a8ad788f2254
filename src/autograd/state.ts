import { untracked } from "../tensor/index.ts";

let frozenDepth = 0;

/**
 * Runs a change of state that is no part of the differentiated function: running statistics, random counters. Unrecorded, and
 * left out inside `frozen`.
 */
export function updateState(f: () => void): void {
  if (frozenDepth === 0) untracked(f);
}

/** Whether `updateState` does nothing at the moment. */
export function isFrozen(): boolean {
  return frozenDepth > 0;
}

/** Runs `f` with all state updates left out, since a loss closure may be evaluated more than once a step. */
export function frozen<Result>(f: () => Result): Result {
  frozenDepth++;
  try {
    return f();
  } finally {
    frozenDepth--;
  }
}
