import { frozen, onesLike, record, requireScalar } from "../../autograd/index.ts";
import { eighHost, frobeniusNormHost, kronHost } from "../../linalg/index.ts";
import type { Module, Parameter } from "../../nn/index.ts";
import { Generator, unscoped, UsageError, type Tensor } from "../../tensor/index.ts";
import type { CurvatureBlock } from "./block.ts";
import { denseBlock, jacobianOf, lossCurvature, type CallShape, type Jacobian } from "./dense.ts";
import { drawsOf } from "./fisher.ts";
import { Precondition, type CurvatureOptions } from "./precondition.ts";
import type { CurvatureView } from "./view.ts";

/** The two factors of a layer's curvature, [dA, dA] and [dOut, dOut]. */
export interface FactorPair {
  readonly input: Tensor;
  readonly output: Tensor;
}

export interface VerifyCurvatureOptions extends Omit<CurvatureOptions, "scaleShift"> {
  /** The largest dense block, as its number of rows dOut · dA: its cost grows with the cube of that. Default 512. */
  readonly largestBlock?: number | undefined;
  /**
   * The factors to be verified, from what was captured: some method's own, say, or a low-rank approximation of them. Runs inside a tidy.
   * Default `inputCovariance` and `outputCovariance`, which all methods start from.
   */
  readonly factors?: ((view: CurvatureView) => FactorPair) | undefined;
}

/** One layer's Γ ⊗ Ω beside its dense block F. */
export interface LayerVerification {
  /** The weight's name. */
  readonly layer: string;
  /** Rows of the block, dOut · dA. */
  readonly rows: number;
  /** ‖Γ ⊗ Ω − F‖_F / ‖F‖_F; 0 if both are 0, and Infinity if F alone is. */
  readonly distance: number;
  /**
   * The smallest and the largest vᵀ(Γ ⊗ Ω)v / vᵀFv of all directions v in the range of F: by how much curvature is under- and overestimated.
   * The range is spanned by the eigenvectors whose eigenvalues are not rounding, above √(rows · ε) of the largest. NaN if F is 0.
   */
  readonly ratios: { readonly smallest: number; readonly largest: number };
  readonly traces: { readonly dense: number; readonly kronecker: number };
  /** The theorem by which the two are equal: see `verifyCurvature`. Null if none says so. */
  readonly expected: "one datum" | "linear to the prediction" | null;
  /** Whether they are equal: a distance of at most 1e-10, or 1e-4 if a parameter is float32. */
  readonly exact: boolean;
}

export interface CurvatureVerification {
  readonly layers: readonly LayerVerification[];
  /** Parameters that were not verified, and why. */
  readonly refused: readonly { readonly parameter: string; readonly reason: string }[];
  /** Layers that theory says are exact and that are not: something is wrong with the capture, or with the factors given. */
  readonly faults: readonly string[];
  /** All of this as text. */
  readonly table: string;
}

/** What was captured of a layer. */
interface CapturedLayer {
  readonly weight: Parameter;
  readonly bias: Parameter | null;
  readonly n: number;
  readonly positions: number;
  readonly factors: { readonly [Side in keyof FactorPair]: Float64Array };
}

/**
 * Compares the Kronecker factors that the capture yields with the dense curvature, layer by layer, on one batch of a network small enough.
 * The dense block is computed in float64 from its definition, with a reverse pass for each number of the prediction: the generalised
 * Gauss–Newton matrix for `fisher: "type-2"`, the samples' own gradients' outer products for `empirical`, and for `mc` those of the same
 * draws. A batch norm in training is differentiated with its statistics, whose effect on other samples the capture leaves out.
 *
 * Γ ⊗ Ω replaces E[aaᵀ ⊗ ggᵀ] by E[aaᵀ] ⊗ E[ggᵀ] (Martens and Grosse 2015, arXiv 1503.05671, section 3), which is the same where
 *
 * - `one datum`: n = 1 and one position, in any network and for every Fisher, since a is then the same in all products;
 * - `linear to the prediction`: type-2, nothing but linear layers after this one, position by position, and a loss whose second
 *   derivative is the same for every sample and position, as the squared error's: g is then the same in all products. In a deep linear
 *   network with squared error that is every layer; with positions, the loss must sum over them (the expand convention; Eschenhagen et
 *   al. 2023, arXiv 2311.00636, section 3).
 *
 * Elsewhere a distance is the approximation's own and nothing is wrong with it.
 *
 * @param inputs [n, …], what `model.forward` takes. Parameters, running statistics and random streams stay as they are.
 * @param loss of a prediction [n, …], one row a sample, as one number: from `crossEntropy` or `meanSquaredError`, if the Fisher is not
 *   empirical. Each sample's part may depend on its own row alone.
 * @throws UsageError if the prediction has no row for each sample, or no layer is left to verify.
 */
export async function verifyCurvature(
  model: Module,
  inputs: Tensor,
  loss: (prediction: Tensor) => Tensor,
  options: VerifyCurvatureOptions = {},
): Promise<CurvatureVerification> {
  const { fisher = "empirical", fisherSeed = 0, reduction = "mean", largestBlock = 512 } = options;
  const parameters = model.parameters();
  const { layers: captured, refused } = await captureFactors(model, inputs, loss, parameters, options);
  const small = captured.filter((layer) => rowsOf(layer) <= largestBlock);
  for (const layer of captured.filter((layer) => !small.includes(layer))) {
    const rows = rowsOf(layer);
    const reason = `its dense block would be ${rows} × ${rows}, more than largestBlock: ${largestBlock}; raise that, or take a smaller network`;
    refused.push({ parameter: layer.weight.name, reason });
  }
  if (small.length === 0) {
    throw new UsageError(
      `verifyCurvature: no layer can be verified: ${refused.map(({ parameter, reason }) => `"${parameter}": ${reason}`).join("; ")}`,
    );
  }
  const own = new Set(small.flatMap(({ weight, bias }) => (bias ? [weight, bias] : [weight])));
  const jacobian = await jacobianOf(
    model,
    inputs,
    parameters.filter((parameter) => own.has(parameter)),
  );
  try {
    const { shape } = jacobian.prediction;
    if (shape[0] !== inputs.shape[0]) {
      throw new UsageError(`verifyCurvature: the prediction has ${shape[0]} rows for ${inputs.shape[0]} samples; it needs one a sample`);
    }
    const generator = drawsOf(new Generator(fisherSeed), 0, 1);
    const middle = await lossCurvature(jacobian.prediction, loss, { fisher, reduction, generator });
    const wide = parameters.every(({ dtype }) => dtype === "float64");
    const layers = small.map((layer) => {
      const expected = expectation(layer, jacobian, middle, fisher === "type-2");
      return compare(layer, denseBlock(jacobian, middle, layer.weight, layer.bias), expected, wide);
    });
    const faults = layers.flatMap(({ layer, expected, exact, distance }) =>
      expected && !exact ? [`"${layer}" should be exact (${expected}) but is off by ${distance.toExponential(1)}`] : [],
    );
    return { layers, refused, faults, table: tableOf(layers, refused, faults) };
  } finally {
    jacobian.prediction.dispose();
  }
}

const widthsOf = ({ weight, bias }: CapturedLayer): { dOut: number; dA: number } => {
  const dOut = weight.shape[0] as number;
  return { dOut, dA: weight.value.size / dOut + (bias ? 1 : 0) };
};

const rowsOf = (layer: CapturedLayer): number => widthsOf(layer).dOut * widthsOf(layer).dA;

/** One step's capture, exactly as a training step makes it, and the factors of each layer. */
async function captureFactors(
  model: Module,
  inputs: Tensor,
  loss: (prediction: Tensor) => Tensor,
  parameters: readonly Parameter[],
  { fisher, fisherSeed, reduction, factors }: VerifyCurvatureOptions,
): Promise<{ layers: CapturedLayer[]; refused: { parameter: string; reason: string }[] }> {
  const pairs = new Map<CurvatureView, FactorPair>();
  const take = factors ?? ((view) => ({ input: view.inputCovariance(), output: view.outputCovariance() }));
  const look = (): CurvatureBlock => ({
    method: "verification",
    needs: () => ({ curvature: true, gradient: true }),
    observe: (view) => {
      const { input, output } = take(view);
      pairs.set(view, { input: input.hold(), output: output.hold() });
    },
    refresh: () => Promise.resolve(),
    precondition: (gradient) => gradient,
    state: () => ({ tensors: new Map(), numbers: {} }),
    load: () => undefined,
    dispose: () => undefined,
  });
  const precondition = new Precondition(parameters, "verification", look, { fisher, fisherSeed, reduction });
  try {
    unscoped(() => {
      const capture = precondition.capture(0);
      using recording = frozen(() => record(() => loss(model.forward(inputs)), parameters));
      using value = recording.value;
      requireScalar("verifyCurvature", value);
      using seed = onesLike(value);
      const gradients = recording.reverse([[value, seed]], { observe: capture?.begin(), again: capture?.extraPasses ?? false });
      for (const gradient of gradients) gradient?.dispose();
      if (capture?.extraPasses) capture.runExtraPasses(recording);
      precondition.collect(0);
    });
    const layers: CapturedLayer[] = [];
    for (const [{ weight, bias, n, positions }, { input, output }] of pairs) {
      const host = { input: Float64Array.from(await input.data()), output: Float64Array.from(await output.data()) };
      layers.push({ weight, bias, n, positions, factors: host });
    }
    const refused = precondition.registration().flatMap(({ parameter, block, reason }) => (block === null ? [{ parameter, reason }] : []));
    return { layers, refused };
  } finally {
    for (const { input, output } of pairs.values()) for (const tensor of [input, output]) tensor.dispose();
    precondition.dispose();
  }
}

/** Which theorem makes the layer's block exact, if one does. */
function expectation(
  layer: CapturedLayer,
  { calls, prediction }: Jacobian,
  middle: Float64Array,
  type2: boolean,
): LayerVerification["expected"] {
  const { n, positions } = layer;
  if (n === 1 && positions === 1) return "one datum";
  if (!type2 || !isLinearAfter(calls, layer) || prediction.size % (n * positions) !== 0) return null;
  return hasEqualBlocks(middle, prediction.size, n * positions) ? "linear to the prediction" : null;
}

/** Whether the weight is called once, and the prediction depends on that call's output by linear layers, position by position. */
function isLinearAfter(calls: readonly CallShape[], { weight, n, positions }: CapturedLayer): boolean {
  const own = calls.filter(({ inputs }) => inputs.some(({ id }) => id === weight.value.id));
  const [call] = own;
  if (!call || own.length > 1) return false;
  const reached = new Set(call.outputs.map(({ id }) => id));
  return calls.slice(calls.indexOf(call) + 1).every(({ name, inputs, outputs }) => {
    const places = inputs.flatMap(({ id }, place) => (reached.has(id) ? [place] : []));
    if (places.length === 0) return true;
    for (const { id } of outputs) reached.add(id);
    const reshaped = name === "reshape" && positions === 1 && outputs[0]?.shape[0] === n;
    return reshaped || (name === "linear" && places.every((place) => place === 0));
  });
}

/** Whether a matrix is zero but for `count` equal blocks on its diagonal. */
function hasEqualBlocks(matrix: Float64Array, size: number, count: number): boolean {
  const width = size / count;
  const tolerance = 1e-6 * matrix.reduce((largest, value) => Math.max(largest, Math.abs(value)), 0);
  return matrix.every((value, at) => {
    const [i, j] = [Math.floor(at / size), at % size];
    const first = matrix[(i % width) * size + (j % width)] as number;
    return Math.abs(value - (Math.floor(i / width) === Math.floor(j / width) ? first : 0)) <= tolerance;
  });
}

function compare(layer: CapturedLayer, dense: Float64Array, expected: LayerVerification["expected"], wide: boolean): LayerVerification {
  const { dOut, dA } = widthsOf(layer);
  const rows = dOut * dA;
  const kronecker = kronHost(layer.factors.output, [dOut, dOut], layer.factors.input, [dA, dA]);
  const [norm, gap] = [frobeniusNormHost(dense), frobeniusNormHost(kronecker.map((value, at) => value - (dense[at] as number)))];
  const distance = gap === 0 ? 0 : gap / norm;
  return {
    layer: layer.weight.name,
    rows,
    distance,
    ratios: ratiosOf(dense, kronecker, rows, wide ? 2 ** -52 : 2 ** -23),
    traces: { dense: traceOf(dense, rows), kronecker: traceOf(kronecker, rows) },
    expected,
    exact: distance <= (wide ? 1e-10 : 1e-4),
  };
}

/** The extreme eigenvalues of Λ^(−½) VᵀKV Λ^(−½) for the part VΛVᵀ of the dense block that is not rounding. */
function ratiosOf(dense: Float64Array, kronecker: Float64Array, rows: number, epsilon: number): LayerVerification["ratios"] {
  const { values, vectors } = eighHost(dense, rows);
  const floor = Math.sqrt(rows * epsilon) * (values.at(-1) ?? 0);
  const range = Array.from(values, (_, k) => k).filter((k) => (values[k] as number) > floor);
  if (range.length === 0) return { smallest: NaN, largest: NaN };
  const r = range.length;
  // V Λ^(−½), and K times it.
  const basis = Float64Array.from({ length: rows * r }, (_, at) => {
    const k = range[at % r] as number;
    return (vectors[Math.floor(at / r) * rows + k] as number) / Math.sqrt(values[k] as number);
  });
  const product = multiply(kronecker, basis, rows, rows, r);
  const transposed = Float64Array.from({ length: r * rows }, (_, at) => basis[(at % rows) * r + Math.floor(at / rows)] as number);
  const ratios = eighHost(multiply(transposed, product, r, rows, r), r).values;
  return { smallest: ratios[0] ?? NaN, largest: ratios.at(-1) ?? NaN };
}

/** [m, k] times [k, n]. */
function multiply(a: Float64Array, b: Float64Array, m: number, k: number, n: number): Float64Array {
  const product = new Float64Array(m * n);
  for (let i = 0; i < m; i++) {
    for (let l = 0; l < k; l++) {
      const factor = a[i * k + l] as number;
      for (let j = 0; j < n; j++) product[i * n + j] = (product[i * n + j] as number) + factor * (b[l * n + j] as number);
    }
  }
  return product;
}

function traceOf(matrix: Float64Array, rows: number): number {
  let sum = 0;
  for (let i = 0; i < rows; i++) sum += matrix[i * (rows + 1)] as number;
  return sum;
}

function tableOf(layers: readonly LayerVerification[], refused: CurvatureVerification["refused"], faults: readonly string[]): string {
  const figure = (value: number): string => (Number.isFinite(value) ? value.toPrecision(4) : String(value));
  const header = ["layer", "rows", "distance", "ratios", "trace, dense", "trace, Kronecker", "expected exact", "exact"];
  const lines = layers.map(({ layer, rows, distance, ratios, traces, expected, exact }) => [
    layer,
    String(rows),
    distance.toExponential(1),
    `${figure(ratios.smallest)} … ${figure(ratios.largest)}`,
    figure(traces.dense),
    figure(traces.kronecker),
    expected ?? "no",
    exact ? "yes" : "no",
  ]);
  const widths = header.map((title, column) => Math.max(title.length, ...lines.map((cells) => (cells[column] as string).length)));
  const line = (cells: readonly string[]): string =>
    cells
      .map((cell, column) => cell.padEnd(widths[column] as number))
      .join("  ")
      .trimEnd();
  return [
    line(header),
    ...lines.map(line),
    ...refused.map(({ parameter, reason }) => `"${parameter}" was not verified: ${reason}`),
    ...faults.map((fault) => `FAULT: ${fault}`),
  ].join("\n");
}
