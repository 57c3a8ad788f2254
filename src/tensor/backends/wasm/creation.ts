import type { RandomParams } from "../../primitives.ts";
import { suffixOf, type Engine } from "./engine.ts";
import type { ExportName } from "./generated.ts";
import type { Kernels, Operand } from "./kernel.ts";
import { BLOCK } from "./walk.ts";

const arangeNames = { float32: "arange_f32", float64: "arange_f64", int32: "arange_i32" } as const;

/** An item is four blocks of the Philox stream: sixteen words of 32 bits, of which a float64 takes two. */
function random(engine: Engine, name: ExportName, cost: number, y: Operand, { dtype, key, offset }: RandomParams): void {
  const items = Math.ceil(y.size / (dtype === "float64" ? 8 : 16));
  engine.run(name, items, cost, y.pointer, y.size, offset % 2 ** 32, Math.floor(offset / 2 ** 32), key[0], key[1]);
}

export const creation: Kernels<"fill" | "arange" | "uniform" | "normal"> = {
  fill: (engine, _, { value }, [y]) => {
    const n = y.size;
    engine.run(`fill_${suffixOf(y.dtype)}`, Math.ceil(n / BLOCK), Math.min(n, BLOCK) * 0.2, y.pointer, n, value);
  },
  arange: (engine, _, { start, step }, [y]) => {
    const n = y.size;
    engine.run(arangeNames[y.dtype], Math.ceil(n / BLOCK), Math.min(n, BLOCK), y.pointer, n, start, step);
  },
  uniform: (engine, _, params, [y]) => {
    random(engine, params.dtype === "float64" ? "uniform_f64" : "uniform_f32", 40, y, params);
  },
  normal: (engine, _, params, [y]) => {
    random(engine, params.dtype === "float64" ? "normal_f64" : "normal_f32", 200, y, params);
  },
};
