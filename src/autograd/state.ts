import { synchronous, untracked } from "../tensor/index.ts";

/** For each open `frozen`, innermost last, what must be undone as it ends. */
const frozenFrames: (() => void)[][] = [];

/**
 * Runs a change of state that is no part of the differentiated function: running statistics, for example. Unrecorded, and left
 * out inside `frozen`.
 */
export function updateState(f: () => void): void {
  if (frozenFrames.length === 0) untracked(f);
}

/**
 * For state that a function cannot help changing, as a random stream is advanced by each draw: inside `frozen`, `undo` runs when
 * it ends. Draws inside differ as they should, and the next evaluation sees the same ones again.
 */
export function undoAfterFrozen(undo: () => void): void {
  frozenFrames.at(-1)?.push(undo);
}

/** Runs `f` with no lasting change of state, since a loss closure may be evaluated more than once. */
export function frozen<Result>(f: () => Result): Result {
  const undos: (() => void)[] = [];
  frozenFrames.push(undos);
  try {
    return synchronous("frozen", f());
  } finally {
    frozenFrames.pop();
    for (const undo of undos.reverse()) undo();
  }
}
