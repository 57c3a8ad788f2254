import type { Kernels } from "./kernel.ts";

export const creation = {} as Kernels<"fill" | "arange" | "uniform" | "normal">;
