import type { Kernels } from "./kernel.ts";

export const movement = {} as Kernels<"permute" | "broadcastTo" | "slice" | "pad" | "concat" | "gather" | "scatterAdd">;
