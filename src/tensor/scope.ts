import { UsageError } from "./errors.ts";

/** Something that holds memory until it is disposed. A `Tensor` is one; a scope needs to know no more of it. */
export abstract class Handle {
  abstract dispose(): void;
  /** Called when no scope owns the handle any more. */
  protected abstract leaveScopes(): void;
  abstract readonly isDisposed: boolean;

  /** @internal */
  static leave(handle: Handle): void {
    handle.leaveScopes();
  }
}

/** One list of owned handles for each open `tidy`, innermost last. */
const scopes: Handle[][] = [];

/** Gives a new handle to the innermost open scope, or to nobody. @internal */
export function own(handle: Handle): void {
  const scope = scopes.at(-1);
  if (scope) scope.push(handle);
  else Handle.leave(handle);
}

/**
 * Runs `f` and disposes every handle made inside, except those in what it returns (a tensor, or arrays, maps and plain
 * objects of them), which pass to the scope around it. Handles made elsewhere, variables and tapes are not touched.
 *
 * @throws UsageError if `f` returns a Promise: nothing may be awaited while a scope is open.
 */
export function tidy<Result>(f: () => Result): Result {
  const scope: Handle[] = [];
  scopes.push(scope);
  let kept: Set<Handle>;
  let result: Result;
  try {
    result = f();
    if (isThenable(result)) {
      throw new UsageError("tidy: the function returned a Promise; tidy is synchronous, so own tensors with `using` or dispose() there");
    }
    kept = handlesIn(result);
  } catch (error) {
    for (const handle of scope) handle.dispose();
    throw error;
  } finally {
    scopes.pop();
  }
  for (const handle of scope) {
    if (!kept.has(handle)) handle.dispose();
    else if (!handle.isDisposed) own(handle);
  }
  return result;
}

/**
 * The handle itself if the innermost scope owns it, else another one that it owns: so that a function that returned somebody
 * else's handle (its argument, a variable's value) does not give it away to be disposed. @internal
 */
export function owned<H extends Handle & { keep(): H }>(handle: H): H {
  return scopes.at(-1)?.includes(handle) ? handle : handle.keep();
}

/** Runs `f` outside of all scopes: what it makes is owned by nobody and must be disposed by whoever asked. @internal */
export function unscoped<Result>(f: () => Result): Result {
  const hidden = scopes.splice(0);
  try {
    return f();
  } finally {
    scopes.push(...hidden);
  }
}

/** The value, unless it is a Promise. @throws UsageError for one. @internal */
export function synchronous<Value>(operation: string, value: Value): Value {
  if (isThenable(value)) {
    throw new UsageError(`${operation}: the function returned a Promise but must be synchronous; await the data before, not inside`);
  }
  return value;
}

function isThenable(value: unknown): boolean {
  return typeof value === "object" && value !== null && "then" in value && typeof value.then === "function";
}

/** The handles in arrays, maps, sets and plain objects, each of which is entered once. */
function handlesIn(value: unknown, found = new Set<Handle>(), entered = new Set<object>()): Set<Handle> {
  if (value instanceof Handle) found.add(value);
  if (typeof value !== "object" || value === null || entered.has(value)) return found;
  entered.add(value);
  for (const item of itemsOf(value)) handlesIn(item, found, entered);
  return found;
}

function itemsOf(value: object): Iterable<unknown> {
  if (value instanceof Map) return value.values();
  if (value instanceof Set || Array.isArray(value)) return value as Iterable<unknown>;
  return isPlain(value) ? Object.values(value as Record<string, unknown>) : [];
}

function isPlain(value: object): boolean {
  const prototype: unknown = Object.getPrototypeOf(value);
  return prototype === Object.prototype || prototype === null;
}
