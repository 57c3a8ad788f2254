/**
 * Tensors: numbers on a device. Shapes, number types, the table of primitives and their signatures, counted storage, scopes,
 * variables, random streams, and the backends that compute. Every other folder may import this one; it imports none of them
 * and knows nothing of gradients (a tape is a `Recorder` to it), layers or optimizers.
 *
 * Reading order: shape → primitives → signatures → backend, registry → storage, scope → tensor (`apply`) → operations → backends/reference → backends/wasm → backends/gpu.
 */
export type { Backend, KernelName, MemoryStatistics, View } from "./backend.ts";
export type { MatrixArithmetic, MatrixBlock, ProductOptions, SecularEquation, VectorBlock } from "./matrices.ts";
export { bytesPerElement, dtypeOf, isFloat, machineEpsilon, requireFloat, typedArray } from "./dtype.ts";
export type { DType, FloatArray, FloatDType, TypedArray } from "./dtype.ts";
export * from "./errors.ts";
export type { NestedArray, NumberArray } from "./host.ts";
export * from "./operations.ts";
export type * from "./primitives.ts";
export { normalQuantile, philoxBlock, type Key } from "./philox.ts";
export { Generator, type GeneratorState, type RandomOptions } from "./random.ts";
export { isWatched, untracked, withRecorder, type AppliedCall, type Recorder } from "./recorder.ts";
export { owned, synchronous, tidy, unscoped } from "./scope.ts";
export type { GpuOptions } from "./backends/gpu/index.ts";
export type { WasmOptions } from "./backends/wasm/index.ts";
export { backendNames, defaultBackend, openBackend, setDefaultBackend, type BackendName, type BackendOptions } from "./registry.ts";
export { formatShape, sameShape, sizeOf, stretchedAxes, stridesOf, windowOutput } from "./shape.ts";
export type { Padding, Shape, WindowGeometry } from "./shape.ts";
export { signatures, worksInPlace, type Meta, type Signature } from "./signatures.ts";
export { apply, Tensor } from "./tensor.ts";
export type { ApplyOptions, ReductionOptions, TensorOptions } from "./tensor.ts";
export { Variable } from "./variable.ts";
