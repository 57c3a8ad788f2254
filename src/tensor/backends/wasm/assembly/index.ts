export { scratch } from "./scratch";
export * from "./convolution";
export * from "./covariance";
export * from "./creation";
export * from "./dense";
export * from "./depthwise";
export * from "./elementwise";
export * from "./gemm";
export * from "./gram";
export * from "./loss";
export * from "./matvec";
export * from "./movement";
export * from "./normalization";
export * from "./pack";
export * from "./patches";
export * from "./pooling";
export * from "./reduction";
export * from "./reflect";
export * from "./secular";
export * from "./update";
export * from "./winograd";

/** First byte behind the module's own data. */
export function heapBase(): usize {
  return __heap_base;
}
