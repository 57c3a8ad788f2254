import type { Kernels } from "./kernel.ts";
import { BLOCK } from "./walk.ts";

/** What optimizers do to parameters and averages: each in one pass, in place where the tensor is given up. */
export const update: Kernels<"linearCombination" | "divideByRoot"> = {
  linearCombination: (engine, [x, y], { a, b }, [z]) => {
    const name = z.dtype === "float64" ? "linearCombination_f64" : "linearCombination_f32";
    engine.run(name, Math.ceil(z.size / BLOCK), Math.min(z.size, BLOCK) * 0.4, x.pointer, y.pointer, z.pointer, z.size, a, b);
  },
  divideByRoot: (engine, [x, square], { scale, rootScale, epsilon }, [y]) => {
    const name = y.dtype === "float64" ? "divideByRoot_f64" : "divideByRoot_f32";
    const n = y.size;
    engine.run(name, Math.ceil(n / BLOCK), Math.min(n, BLOCK), x.pointer, square.pointer, y.pointer, n, scale, rootScale, epsilon);
  },
};
