import { BackendError, DTypeError, ShapeError, UsageError } from "./errors.ts";
import { isWatched } from "./recorder.ts";
import { formatShape, sameShape, type Shape } from "./shape.ts";
import type { DType } from "./dtype.ts";
import type { Tensor } from "./tensor.ts";

/** A named place for a tensor that changes over time: running statistics, optimizer state, parameters. */
export class Variable {
  name: string;
  readonly shape: Shape;
  readonly dtype: DType;
  #value: Tensor;

  /** Takes a handle of its own; the caller's stays the caller's. */
  constructor(name: string, value: Tensor) {
    this.name = name;
    this.shape = value.shape;
    this.dtype = value.dtype;
    this.#value = value.hold({ detached: true });
  }

  /** The present value. The variable owns this handle: use it, do not dispose it; `keep()` to have it outlive an `assign`. */
  get value(): Tensor {
    return this.#value;
  }

  /**
   * Replaces the value; tensors that still hold the old one keep it. The shape and dtype of a variable never change.
   * @throws UsageError while an open tape differentiates with respect to this variable.
   */
  assign(next: Tensor): void {
    if (!sameShape(next.shape, this.shape)) {
      throw new ShapeError(`assign: variable "${this.name}" is ${formatShape(this.shape)} but the new value is ${formatShape(next.shape)}`);
    }
    if (next.dtype !== this.dtype) {
      throw new DTypeError(
        `assign: variable "${this.name}" is ${this.dtype} but the new value is ${next.dtype}; use cast("${this.dtype}")`,
      );
    }
    if (!this.#value.isDisposed && next.backend !== this.#value.backend) {
      throw new BackendError(
        `assign: variable "${this.name}" lives on "${this.#value.backend.name}" but the new value on "${next.backend.name}"; create it there`,
      );
    }
    if (isWatched(this.#value.id)) {
      throw new UsageError(
        `assign: variable "${this.name}" is being differentiated by an open tape; assign after valueAndGrad has returned`,
      );
    }
    const previous = this.#value;
    this.#value = next.hold({ detached: true });
    previous.dispose();
  }

  dispose(): void {
    this.#value.dispose();
  }
}
