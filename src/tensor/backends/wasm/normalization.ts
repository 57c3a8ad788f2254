import type { Kernels } from "./kernel.ts";

export const normalization = {} as Kernels<"batchNorm" | "batchNormGradient">;
