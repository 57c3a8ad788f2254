import type { Kernels } from "./kernel.ts";

export const covariance = {} as Kernels<"patchCovariance">;
