import type { Kernels } from "./kernel.ts";

export const reduction = {} as Kernels<"sum" | "max" | "argmax">;
