import type { Kernels } from "./kernel.ts";

export const elementwise = {} as Kernels<never>;
