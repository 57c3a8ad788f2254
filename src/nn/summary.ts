import { frozen, untracked } from "../autograd/index.ts";
import { formatShape, Tensor, tidy, type DType, type Shape } from "../tensor/index.ts";
import { enterEvaluation, observeForward, type Module } from "./module.ts";

export interface SummaryRow {
  readonly path: string;
  /** The module's class. */
  readonly layer: string;
  readonly outputShape: Shape;
  /** Trainable numbers. */
  readonly parameters: number;
}

export interface Summary {
  readonly rows: readonly SummaryRow[];
  readonly parameters: number;
  /** The table as text. */
  toString(): string;
}

/** Layers, output shapes and parameter counts, seen by one forward pass of zeros that changes no state. */
export function summarize(model: Module, inputShape: Shape, { dtype = "float32" }: { readonly dtype?: DType } = {}): Summary {
  const paths = new Map([...model.namedModules()].map(([path, module]) => [module, path]));
  const count = (module: Module): number => [...module.namedParameters().values()].reduce((sum, p) => sum + p.value.size, 0);
  const rows: SummaryRow[] = [];
  const restoreModes = enterEvaluation(model);
  try {
    observeForward(
      (module, output) => {
        if (module.children().length > 0) return;
        rows.push({ path: paths.get(module) ?? "", layer: module.constructor.name, outputShape: output.shape, parameters: count(module) });
      },
      () => {
        tidy(() => {
          frozen(() => untracked(() => model.forward(Tensor.zeros(inputShape, { dtype }))));
        });
      },
    );
  } finally {
    restoreModes();
  }

  const parameters = count(model);
  return { rows, parameters, toString: () => format(rows, parameters) };
}

function format(rows: readonly SummaryRow[], total: number): string {
  const cells = [
    ["", "layer", "output", "parameters"],
    ...rows.map((row) => [row.path, row.layer, formatShape(row.outputShape), row.parameters.toLocaleString("en")]),
    ["", "total", "", total.toLocaleString("en")],
  ];
  const widths = [0, 1, 2, 3].map((column) => Math.max(...cells.map((row) => (row[column] as string).length)));
  return cells
    .map((row) =>
      row
        .map((cell, i) => (i === 3 ? cell.padStart(widths[i] as number) : cell.padEnd(widths[i] as number)))
        .join("  ")
        .trimEnd(),
    )
    .join("\n");
}
