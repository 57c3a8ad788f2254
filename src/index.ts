/**
 * kfacet: second-order deep learning in pure TypeScript. Everything public, in reading order.
 */
export * from "./tensor/index.ts";
export * from "./linalg/index.ts";
export * from "./autograd/index.ts";
export * from "./nn/index.ts";
export * from "./optim/index.ts";
export * from "./data/index.ts";
