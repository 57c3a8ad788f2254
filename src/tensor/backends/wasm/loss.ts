import type { Kernels } from "./kernel.ts";

export const loss = {} as Kernels<"logSoftmax" | "softmaxCrossEntropy" | "softmaxCrossEntropyGradient" | "squaredError">;
