/**
 * Every error that kfacet throws on purpose. One class per kind of fault, so that a caller can tell a wrong shape from a
 * matrix that is not positive definite. Messages name the operation, the values received, what was expected and what to do.
 */
export class KfacetError extends Error {
  constructor(message: string, options?: ErrorOptions) {
    super(message, options);
    this.name = new.target.name;
  }
}

/** Shapes that do not fit together, an axis out of range, a geometry without output. */
export class ShapeError extends KfacetError {}

/** A number type that the operation does not take, or two that differ: there is no implicit promotion. */
export class DTypeError extends KfacetError {}

/** Data that cannot be used: a missing file, an empty data set, a label out of range. */
export class DataError extends KfacetError {}

/** A computation that cannot give a finite answer: a singular factor, a loss that is not finite, no convergence. */
export class NumericalError extends KfacetError {}

/** A device that cannot do what was asked: a missing kernel, no memory, two devices in one operation. */
export class BackendError extends KfacetError {}

/** A checkpoint that cannot be read or does not belong to this model or optimizer. */
export class CheckpointError extends KfacetError {}

/** A call that breaks an interface's rules: a tensor used after `dispose`, an unknown name, overlapping steps. */
export class UsageError extends KfacetError {}
