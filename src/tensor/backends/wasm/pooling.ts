import type { Kernels } from "./kernel.ts";

export const pooling = {} as Kernels<"maxPool2d" | "maxPool2dScatter" | "maxPool2dGather" | "averagePool2d" | "averagePool2dGradient">;
