/**
 * Reverse-mode differentiation: a table of derivative rules, a tape that records primitives, and derivatives as functions of
 * functions. May import tensor alone; knows no layer, loss or optimizer. Curvature capture hangs on the generic observer of a
 * reverse pass, not on anything here.
 *
 * Reading order: rules → tape → derivatives → state → gradcheck.
 */
export { untracked } from "../tensor/index.ts";
export { hvp, onesLike, requireScalar, valueAndGrad, vjp, type ValueAndGradOptions } from "./derivatives.ts";
export { gradcheck, type Differentiable, type GradcheckOptions } from "./gradcheck.ts";
export { rules, type OutputGradients, type Recorded, type RecordedCall, type Rule, type Thunks } from "./rules.ts";
export { frozen, undoAfterFrozen, updateState } from "./state.ts";
export { record, Recording, type AnyCall, type Observer, type ReverseOptions } from "./tape.ts";
