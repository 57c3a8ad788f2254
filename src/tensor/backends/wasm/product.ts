import type { Kernels } from "./kernel.ts";

export const product = {} as Kernels<"matmul" | "gram" | "linear">;
