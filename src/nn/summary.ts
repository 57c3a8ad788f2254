import { frozen, untracked } from "../autograd/index.ts";
import { defaultBackend, formatShape, Tensor, tidy, type Backend, type DType, type Shape } from "../tensor/index.ts";
import { enterEvaluation, observeForward, type Module, type Parameter } from "./module.ts";

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

export interface SummaryOptions {
  /** Number type of the input. Default: that of the model's parameters, or `float32` if it has none. */
  readonly dtype?: DType | undefined;
  /** Where the input lives. Default: with the model's parameters, or `defaultBackend()`. */
  readonly backend?: Backend | undefined;
}

/** Layers, output shapes and parameter counts, seen by one forward pass of zeros that changes no state. */
export function summarize(model: Module, inputShape: Shape, options: SummaryOptions = {}): Summary {
  const [parameter] = model.namedParameters().values();
  const dtype = options.dtype ?? parameter?.dtype ?? "float32";
  const backend = options.backend ?? parameter?.value.backend ?? defaultBackend();
  const paths = new Map([...model.namedModules()].map(([path, module]) => [module, path]));
  const rows: SummaryRow[] = [];
  const restoreModes = enterEvaluation(model);
  try {
    observeForward(
      (module, output) => {
        if (inside(module).length > 0) return;
        const parameters = count(ownParameters(module));
        rows.push({ path: paths.get(module) ?? "", layer: module.constructor.name, outputShape: output.shape, parameters });
      },
      () => {
        tidy(() => {
          frozen(() => untracked(() => model.forward(Tensor.zeros(inputShape, { dtype, backend }))));
        });
      },
    );
  } finally {
    restoreModes();
  }

  const parameters = count(model.namedParameters().values());
  return { rows, parameters, toString: () => format(rows, parameters) };
}

/** The modules that a module is made of: its children but for those that lead back to it, which it is a part of. */
function inside(module: Module): Module[] {
  return module
    .children()
    .map(([, child]) => child)
    .filter((child) => ![...child.namedModules().values()].includes(module));
}

/** Parameters of the module itself; `namedParameters` comes to them first, before those of its children. */
function ownParameters(module: Module): Parameter[] {
  const prefixes = module.children().map(([name]) => `${name}.`);
  return [...module.namedParameters()]
    .filter(([path]) => !prefixes.some((prefix) => path.startsWith(prefix)))
    .map(([, parameter]) => parameter);
}

function count(parameters: Iterable<Parameter>): number {
  return [...parameters].reduce((sum, { value }) => sum + value.size, 0);
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
