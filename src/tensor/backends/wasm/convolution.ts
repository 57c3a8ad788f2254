import type { Kernels } from "./kernel.ts";

export const convolution = {} as Kernels<"conv2d" | "conv2dInputGradient" | "conv2dWeightGradient" | "im2col" | "col2im">;
