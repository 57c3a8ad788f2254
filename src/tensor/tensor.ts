import ndarray, { type NdArray } from "ndarray";
import type { Backend } from "./backend.ts";
import { isFloat, typedArray, type DType, type TypedArray } from "./dtype.ts";
import { BackendError, DTypeError, ShapeError, UsageError } from "./errors.ts";
import { convert, readHost, requireInt32, type NestedArray, type NumberArray } from "./host.ts";
import type { Inputs, Outputs, Params, PrimitiveName } from "./primitives.ts";
import { isRecording, tellRecorders } from "./recorder.ts";
import { defaultBackend } from "./registry.ts";
import { Handle, own, tidy } from "./scope.ts";
import { checkShape, formatShape, normalizeAxes, normalizeAxis, sameShape, sizeOf, type Shape } from "./shape.ts";
import { signatures, worksInPlace, type Meta } from "./signatures.ts";
import { Storage, releaseWhenForgotten, rememberNoMore } from "./storage.ts";

export interface TensorOptions {
  /** Number type; default `float32`, or the type of a typed array that is one of the three. */
  readonly dtype?: DType;
  /** Default: `defaultBackend()`. */
  readonly backend?: Backend;
}
export interface ReductionOptions {
  /** Leave an extent of 1 in place of each reduced axis. Default false. */
  readonly keepDims?: boolean;
}

let lastId = 0;

/**
 * An immutable array of numbers on a device, and a counted handle on its storage. `dispose` (or `using`) drops the handle;
 * `tidy` drops all those made inside. Two handles with one `id` are the same value to autograd.
 */
export class Tensor extends Handle {
  readonly id: number;
  readonly shape: Shape;
  readonly dtype: DType;
  #storage: Storage | null;

  /** @internal Tensors come from `Tensor.from` and from operations. */
  constructor(storage: Storage, shape: Shape, id = ++lastId) {
    super();
    this.id = id;
    this.shape = Object.freeze([...shape]); // the caller may change its own
    this.dtype = storage.dtype;
    this.#storage = storage.retain();
  }

  /**
   * A tensor from a number, nested arrays, a typed array (with `shape`, default a vector) or an ndarray of any strides.
   * @throws ShapeError if the nesting is ragged or the number of elements does not fit the shape.
   */
  static from(data: NestedArray | NumberArray | NdArray, options: TensorOptions & { readonly shape?: Shape } = {}): Tensor {
    const { values, shape: natural, dtype: naturalType } = readHost(data);
    const { shape = natural, dtype = naturalType, backend = defaultBackend() } = options;
    checkShape("Tensor.from", shape);
    if (sizeOf(shape) !== values.length) {
      throw new ShapeError(`Tensor.from: shape ${formatShape(shape)} needs ${sizeOf(shape)} elements but the data has ${values.length}`);
    }
    const host = convert(values, dtype);
    const storage = new Storage(backend, dtype, host.length, "Tensor.from");
    const tensor = new Tensor(storage, shape);
    try {
      storage.backend.upload(storage.buffer, host);
    } catch (error) {
      tensor.dispose(); // a device may refuse numbers that it cannot hold
      throw error;
    }
    own(tensor);
    return tensor;
  }

  static full(shape: Shape, value: number, options: TensorOptions = {}): Tensor {
    return apply("fill", [], { shape, dtype: options.dtype ?? "float32", value }, options)[0];
  }
  static zeros(shape: Shape, options?: TensorOptions): Tensor {
    return Tensor.full(shape, 0, options);
  }
  static ones(shape: Shape, options?: TensorOptions): Tensor {
    return Tensor.full(shape, 1, options);
  }
  /** `start, start + step, …`, `length` of them. Defaults: start 0, step 1. */
  static arange(length: number, options: TensorOptions & { readonly start?: number; readonly step?: number } = {}): Tensor {
    const { start = 0, step = 1, dtype = "float32" } = options;
    return apply("arange", [], { start, step, length, dtype }, options)[0];
  }
  /** The identity matrix [n, n]. */
  static eye(n: number, { dtype = "float32", backend }: TensorOptions = {}): Tensor {
    checkShape("Tensor.eye", [n]);
    const data = typedArray(dtype, n * n);
    for (let i = 0; i < n; i++) data[i * n + i] = 1;
    return Tensor.from(data, { shape: [n, n], dtype, ...(backend && { backend }) });
  }

  get size(): number {
    return sizeOf(this.shape);
  }
  get rank(): number {
    return this.shape.length;
  }
  get backend(): Backend {
    return this.storage.backend;
  }
  override get isDisposed(): boolean {
    return this.#storage === null;
  }
  /** @internal @throws UsageError after dispose. */
  get storage(): Storage {
    if (!this.#storage) {
      throw new UsageError(disposedMessage("reading", this));
    }
    return this.#storage;
  }

  // ── memory ──────────────────────────────────────────────────────────────────────────────────────────────────────────
  /** Drops this handle; the memory is reused when the last one is gone. A second call does nothing. */
  override dispose(): void {
    if (!this.#storage) return;
    rememberNoMore(this);
    this.#storage.release();
    this.#storage = null;
  }
  [Symbol.dispose](): void {
    this.dispose();
  }
  /** Another handle of the same value, owned by the scope it is made in. */
  keep(): Tensor {
    const handle = new Tensor(this.storage, this.shape, this.id);
    own(handle);
    return handle;
  }
  /** The same numbers as a new constant: tapes see no connection to this tensor. Free. */
  detach(): Tensor {
    const handle = new Tensor(this.storage, this.shape);
    own(handle);
    return handle;
  }
  /**
   * Another handle of the same value that no scope owns: for code that keeps tensors over time, and disposes them itself.
   * `detached` gives it an identity of its own.
   */
  hold(options: { detached?: boolean } = {}): Tensor {
    const handle = options.detached ? new Tensor(this.storage, this.shape) : new Tensor(this.storage, this.shape, this.id);
    releaseWhenForgotten(handle, handle.storage, false);
    return handle;
  }
  protected override leaveScopes(): void {
    releaseWhenForgotten(this, this.storage, true);
  }

  // ── reading ─────────────────────────────────────────────────────────────────────────────────────────────────────────
  /** A copy of the elements on the host, row-major. */
  async data(): Promise<TypedArray> {
    const storage = this.storage.retain();
    try {
      return await storage.backend.download(storage.buffer);
    } finally {
      storage.release();
    }
  }
  /** The same without waiting. @throws BackendError on a device that can only be read asynchronously. */
  dataSync(): TypedArray {
    const { backend, buffer } = this.storage;
    if (!backend.downloadSync) throw new BackendError(`dataSync: the ${backend.name} backend reads asynchronously; use await t.data()`);
    return backend.downloadSync(buffer);
  }
  /** The only element. @throws ShapeError unless there is exactly one. */
  async item(): Promise<number> {
    if (this.size !== 1) throw new ShapeError(`item: needs exactly one element but the shape is ${formatShape(this.shape)}`);
    return (await this.data())[0] as number;
  }
  /** A copy as an ndarray, for strided slicing, picking and stepping on the host. */
  async toNdarray(): Promise<NdArray<TypedArray>> {
    return ndarray(await this.data(), [...this.shape]);
  }
  override toString(): string {
    return `Tensor(${this.dtype} ${formatShape(this.shape)}${this.isDisposed ? ", disposed" : ""})`;
  }
  [Symbol.for("nodejs.util.inspect.custom")](): string {
    return this.toString();
  }

  // ── movement ────────────────────────────────────────────────────────────────────────────────────────────────────────
  /** The same elements in another shape; one extent may be −1 and is then worked out. Free. */
  reshape(shape: Shape): Tensor {
    return apply("reshape", [this], { shape: inferExtent(this.shape, shape) })[0];
  }
  cast(dtype: DType): Tensor {
    return dtype === this.dtype ? this.keep() : apply("cast", [this], { dtype })[0];
  }
  permute(axes: readonly number[]): Tensor {
    return apply("permute", [this], { axes: axes.map((axis) => normalizeAxis("permute", axis, this.rank)) })[0];
  }
  /** Swaps the last two axes. Prefer `matmul`'s flags: this copies. */
  transpose(): Tensor {
    if (this.rank < 2) throw new ShapeError(`transpose: needs rank 2 or more but the shape is ${formatShape(this.shape)}`);
    const axes = this.shape.map((_, axis) => axis);
    return this.permute([...axes.slice(0, -2), this.rank - 1, this.rank - 2]);
  }
  broadcastTo(shape: Shape): Tensor {
    return apply("broadcastTo", [this], { shape })[0];
  }
  /** `size` elements an axis from `start`, every `step`-th (default 1). */
  slice(start: readonly number[], size: readonly number[], step: readonly number[] = start.map(() => 1)): Tensor {
    return apply("slice", [this], { start, size, step })[0];
  }
  /** Zeros before and after each axis, and between neighbours (default none). */
  pad(before: readonly number[], after: readonly number[], between: readonly number[] = before.map(() => 0)): Tensor {
    return apply("pad", [this], { before, after, between })[0];
  }
  /** Rows picked by an int32 vector. */
  gather(indices: Tensor): Tensor {
    return apply("gather", [this, indices], {})[0];
  }
  /** Adds row `i` to row `indices[i]` of zeros [rows, …]. */
  scatterAdd(indices: Tensor, rows: number): Tensor {
    return apply("scatterAdd", [this, indices], { rows })[0];
  }

  // ── elementwise ─────────────────────────────────────────────────────────────────────────────────────────────────────
  negative(): Tensor {
    return apply("negative", [this], {})[0];
  }
  abs(): Tensor {
    return apply("abs", [this], {})[0];
  }
  sign(): Tensor {
    return apply("sign", [this], {})[0];
  }
  reciprocal(): Tensor {
    return apply("reciprocal", [this], {})[0];
  }
  sqrt(): Tensor {
    return apply("sqrt", [this], {})[0];
  }
  square(): Tensor {
    return apply("multiply", [this, this], {})[0];
  }
  exp(): Tensor {
    return apply("exp", [this], {})[0];
  }
  log(): Tensor {
    return apply("log", [this], {})[0];
  }
  sin(): Tensor {
    return apply("sin", [this], {})[0];
  }
  cos(): Tensor {
    return apply("cos", [this], {})[0];
  }
  tanh(): Tensor {
    return apply("tanh", [this], {})[0];
  }
  sigmoid(): Tensor {
    return apply("sigmoid", [this], {})[0];
  }
  softplus(): Tensor {
    return apply("softplus", [this], {})[0];
  }
  erf(): Tensor {
    return apply("erf", [this], {})[0];
  }
  relu(): Tensor {
    return apply("relu", [this], {})[0];
  }
  add(other: Tensor | number): Tensor {
    return binary("add", this, other);
  }
  subtract(other: Tensor | number): Tensor {
    return binary("subtract", this, other);
  }
  multiply(other: Tensor | number): Tensor {
    return binary("multiply", this, other);
  }
  divide(other: Tensor | number): Tensor {
    return binary("divide", this, other);
  }
  maximum(other: Tensor | number): Tensor {
    return binary("maximum", this, other);
  }
  minimum(other: Tensor | number): Tensor {
    return binary("minimum", this, other);
  }
  power(other: Tensor | number): Tensor {
    return binary("power", this, other);
  }
  /** int32 1 where equal, 0 elsewhere; likewise the four below. */
  equal(other: Tensor | number): Tensor {
    return binary("equal", this, other);
  }
  less(other: Tensor | number): Tensor {
    return binary("less", this, other);
  }
  lessEqual(other: Tensor | number): Tensor {
    return binary("lessEqual", this, other);
  }
  greater(other: Tensor | number): Tensor {
    return withOperand("greater", this, other, (b) => apply("less", [b, this], {})[0]);
  }
  greaterEqual(other: Tensor | number): Tensor {
    return withOperand("greaterEqual", this, other, (b) => apply("lessEqual", [b, this], {})[0]);
  }

  // ── reductions ──────────────────────────────────────────────────────────────────────────────────────────────────────
  /** Sum over `axes`; over all when left out. Accumulates in float64 on the reference backend. */
  sum(axes?: number | readonly number[], { keepDims = false }: ReductionOptions = {}): Tensor {
    return apply("sum", [this], { axes: normalizeAxes("sum", axes, this.rank), keepDims })[0];
  }
  mean(axes?: number | readonly number[], options: ReductionOptions = {}): Tensor {
    if (!isFloat(this.dtype)) throw new DTypeError(`mean: needs a floating tensor but got ${this.dtype}; use cast("float32") first`);
    const reduced = normalizeAxes("mean", axes, this.rank);
    const count = reduced.reduce((product, axis) => product * (this.shape[axis] as number), 1);
    if (count === 0) throw new ShapeError(`mean: ${formatShape(this.shape)} has no elements along those axes`);
    return tidy(() => this.sum(reduced, options).divide(count));
  }
  max(axes?: number | readonly number[], { keepDims = false }: ReductionOptions = {}): Tensor {
    return apply("max", [this], { axes: normalizeAxes("max", axes, this.rank), keepDims })[0];
  }
  /** int32 positions of the largest elements along `axis` (default the last). */
  argmax(axis = -1): Tensor {
    return apply("argmax", [this], { axis: normalizeAxis("argmax", axis, this.rank) })[0];
  }
  /** x − log Σ exp(x) along the last axis. */
  logSoftmax(): Tensor {
    return apply("logSoftmax", [this], {})[0];
  }
  softmax(): Tensor {
    return tidy(() => this.logSoftmax().exp());
  }

  // ── products ────────────────────────────────────────────────────────────────────────────────────────────────────────
  /** Matrix product over the last two axes; leading axes broadcast. The flags transpose an operand without a copy. */
  matmul(other: Tensor, { transposeA = false, transposeB = false }: { transposeA?: boolean; transposeB?: boolean } = {}): Tensor {
    return apply("matmul", [this, other], { transposeA, transposeB })[0];
  }
  /** `scale` · XᵀX of a matrix [rows, d]. Default scale 1. */
  gram(scale = 1): Tensor {
    return apply("gram", [this], { scale })[0];
  }
}

export interface ApplyOptions {
  /** Positions of inputs whose handle is given up: if nobody else holds the storage, the result may be written over it. */
  readonly donate?: readonly number[];
  /** Where to create; only for primitives without inputs. Default: `defaultBackend()`. */
  readonly backend?: Backend;
}

/**
 * The one way to compute: checks by signature, allocates outputs, runs the kernel, and tells whoever records.
 *
 * @throws ShapeError | DTypeError from the signature, BackendError if the operands live on two backends or there is no kernel.
 */
export function apply<K extends PrimitiveName>(
  name: K,
  inputs: Inputs<K, Tensor>,
  params: Params<K>,
  options: ApplyOptions = {},
): Outputs<K, Tensor> {
  if (!Object.hasOwn(signatures, name)) throw new UsageError(`apply: there is no primitive "${name}"; src/tensor/primitives.ts lists them`);
  // A tuple type that depends on K is opaque to the checker; to the loops here it is a list of tensors.
  const operands: readonly Tensor[] = inputs;
  const disposed = operands.find((operand) => operand.isDisposed);
  if (disposed) throw new UsageError(disposedMessage(name, disposed));
  const storages = operands.map((input) => input.storage);
  const backend = storages[0]?.backend ?? options.backend ?? defaultBackend();
  const stranger = storages.find((storage) => storage.backend !== backend);
  if (stranger)
    throw new BackendError(
      `${name}: operands live on "${backend.name}" and ${stranger.backend.name === backend.name ? "another " : ""}"${stranger.backend.name}"; create both with the same backend option`,
    );

  const signature = signatures[name] as (inputs: readonly Meta[], params: Params<K>) => readonly Meta[];
  const results = signature(operands, params);
  const donated = options.donate ?? [];
  const outputs: Tensor[] = [];
  try {
    for (const result of results) {
      const reused = reusable(name, operands, donated, result);
      outputs.push(new Tensor(reused ?? new Storage(backend, result.dtype, sizeOf(result.shape), name), result.shape));
    }
    if (name !== "reshape") {
      backend.run<Exclude<K, "reshape">>(
        name as Exclude<K, "reshape">,
        operands.map((operand) => operand.storage.view(operand.shape)),
        params,
        outputs.map((output) => output.storage.view(output.shape)) as unknown as Outputs<Exclude<K, "reshape">, never>,
      );
    }
  } catch (error) {
    for (const output of outputs) output.dispose();
    throw error;
  }

  tellRecorders({ name, inputs: operands, params, outputs });
  for (const output of outputs) own(output);
  for (const position of donated) operands[position]?.dispose();
  return outputs as unknown as Outputs<K, Tensor>;
}

function disposedMessage(operation: string, { shape, dtype }: Tensor): string {
  return (
    `${operation}: a tensor ${formatShape(shape)} of ${dtype} was used after dispose(); keep() a handle before it is disposed, ` +
    `or return the tensor from tidy(…)`
  );
}

/**
 * The storage that an output may take over: of `reshape`'s input always, else of a donated input that nobody else holds. A
 * recorder takes its handles after the kernel has run, so while one listens nothing is written over.
 */
function reusable(name: PrimitiveName, operands: readonly Tensor[], donated: readonly number[], result: Meta): Storage | undefined {
  if (name === "reshape") return operands[0]?.storage;
  if (!worksInPlace.has(name) || isRecording()) return undefined;
  const position = donated.find((p) => {
    const operand = operands[p];
    return operand && operand.storage.references === 1 && operand.dtype === result.dtype && sameShape(operand.shape, result.shape);
  });
  return position === undefined ? undefined : operands[position]?.storage;
}

type BinaryName = "add" | "subtract" | "multiply" | "divide" | "maximum" | "minimum" | "power" | "equal" | "less" | "lessEqual";

function binary(name: BinaryName, a: Tensor, b: Tensor | number): Tensor {
  return withOperand(name, a, b, (operand) => apply(name, [a, operand], {})[0]);
}

/** A number becomes a scalar of the other operand's type and backend for the duration of `f`. */
function withOperand(name: string, like: Tensor, operand: Tensor | number, f: (operand: Tensor) => Tensor): Tensor {
  if (operand instanceof Tensor) return f(operand);
  if (like.isDisposed) throw new UsageError(disposedMessage(name, like));
  if (like.dtype === "int32") requireInt32(name, operand);
  const scalar = apply("fill", [], { shape: [], dtype: like.dtype, value: operand }, { backend: like.backend })[0];
  try {
    return f(scalar);
  } finally {
    scalar.dispose();
  }
}

function inferExtent(from: Shape, to: Shape): Shape {
  const open = to.indexOf(-1);
  if (open < 0) return to;
  const known = to.reduce((product, extent, axis) => (axis === open ? product : product * extent), 1);
  const extent = sizeOf(from) / known;
  if (!Number.isInteger(extent) || to.indexOf(-1, open + 1) >= 0) {
    throw new ShapeError(`reshape: ${formatShape(from)} does not fit into ${formatShape(to)}; at most one extent may be -1`);
  }
  return to.map((value, axis) => (axis === open ? extent : value));
}
