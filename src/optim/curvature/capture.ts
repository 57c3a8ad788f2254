import type { AnyCall, Observer, Recorded } from "../../autograd/index.ts";
import type { Parameter } from "../../nn/index.ts";
import {
  apply,
  tidy,
  untracked,
  windowOutput,
  type Conv2dParams,
  type Shape,
  type Tensor,
  type WindowGeometry,
} from "../../tensor/index.ts";

/** The shape of a layer's work in one call. */
export interface LayerGeometry {
  /** Samples. */
  readonly n: number;
  /** Positions a sample at which the weight is applied: output pixels of a convolution, 1 for a plain dense layer. */
  readonly positions: number;
  /** Width of an input row: in · kernel area; without the homogeneous coordinate. */
  readonly dIn: number;
  readonly dOut: number;
  /** How a convolution's window moves; null for a dense layer. */
  readonly window: WindowGeometry | null;
  readonly groups: number;
}

/** How the loss combines its samples: what autograd's gradient must be multiplied by to be that of one sample. */
export type LossReduction = "mean" | "sum";

/** `scaleShift` is the end of a batch normalisation: its weight is the scale γ, its bias the shift β, each of them one number a channel. */
export type LayerKind = "linear" | "conv2d" | "scaleShift";

/** One call of a watched weight in one reverse pass: all that the curvature methods need of a layer. */
export interface LayerRecord {
  readonly weight: Parameter;
  readonly bias: Parameter | null;
  readonly kind: LayerKind;
  readonly geometry: LayerGeometry;
  /** The layer's input as it came; patches are never materialised. For `scaleShift` the samples' gradients of the scale, [n, channels]. */
  readonly input: Tensor;
  /** ∂ loss / ∂ pre-activation, as autograd gives it. For `scaleShift` the samples' gradients of the shift, [n, channels]. */
  readonly outputGradient: Tensor;
  readonly lossReduction: LossReduction;
}

/**
 * Builds records from what a reverse pass goes by. Layers know nothing of it: it recognises `linear`, `conv2d` and batch norm calls by
 * the identity of their weight, so modules, functions and shared weights are captured alike.
 */
export class Capture {
  readonly #weights: ReadonlyMap<number, Parameter>;
  readonly #parameters: ReadonlyMap<number, Parameter>;
  readonly #reduction: LossReduction;
  readonly #problems = new Map<Parameter, string>();
  readonly #usedElsewhere = new Set<Parameter>();

  /**
   * @param weights those to watch.
   * @param parameters all of the optimizer's, among them the biases.
   */
  constructor(weights: Iterable<Parameter>, parameters: Iterable<Parameter>, reduction: LossReduction) {
    this.#weights = byId(weights);
    this.#parameters = byId(parameters);
    this.#reduction = reduction;
  }

  /** Why a weight that was met cannot have a block. */
  get problems(): ReadonlyMap<Parameter, string> {
    return this.#problems;
  }

  /** Parameters that some other call used, too, as a penalty does, or a layer that is not watched: the records do not make up their whole gradient. */
  get usedElsewhere(): ReadonlySet<Parameter> {
    return this.#usedElsewhere;
  }

  /** An observer that appends the records of one pass to `records`; they own their handles. */
  observer(records: LayerRecord[]): Observer {
    return (call, [gradient]) => {
      const kind = KINDS.get(call.name);
      const watched = kind !== undefined && this.#weights.has(call.inputs[1]?.id ?? NaN);
      for (const [position, input] of call.inputs.entries()) {
        const parameter = this.#parameters.get(input.id);
        if (parameter && !(watched && position > 0)) this.#usedElsewhere.add(parameter);
        const weight = this.#weights.get(input.id);
        if (!weight) continue;
        if (kind && position === 1) {
          if (gradient)
            records.push(kind === "scaleShift" ? this.#scaleShift(weight, call, gradient) : this.#record(weight, kind, call, gradient));
        } else if (LAYER_LIKE.has(call.name)) {
          this.#problems.set(weight, `also used by ${call.name}`);
        }
      }
    };
  }

  #record(weight: Parameter, kind: "linear" | "conv2d", call: AnyCall, gradient: Tensor): LayerRecord {
    const [x, w, b] = call.inputs as [Recorded, Recorded, Recorded | undefined];
    const bias = (b && this.#parameters.get(b.id)) ?? null;
    return {
      weight,
      bias,
      kind,
      geometry: geometryOf(call, x.shape, w.shape),
      input: x.value.hold(),
      outputGradient: gradient.hold(),
      lossReduction: this.#reduction,
    };
  }

  /** y = γ x̂ + β: a sample's gradients are Σ_t x̂ g and Σ_t g, channel by channel. */
  #scaleShift(weight: Parameter, call: AnyCall, gradient: Tensor): LayerRecord {
    const [x, , shift] = call.inputs as [Recorded, Recorded, Recorded];
    const [y, mean, rstd] = call.outputs as [Recorded, Recorded, Recorded];
    const [n, channels] = [x.shape[0] as number, x.shape.at(-1) as number];
    const [input, outputGradient] = tidy(() => {
      const own = call.name === "batchNormRelu" ? apply("reluGradient", [y.value, gradient], {})[0] : gradient;
      const sums = (values: Tensor): Tensor => values.reshape([n, -1, channels]).sum(1).hold();
      return [sums(own.multiply(x.value.subtract(mean.value).multiply(rstd.value))), sums(own)];
    });
    const geometry = { n, positions: 1, dIn: 1, dOut: channels, window: null, groups: 1 };
    const bias = this.#parameters.get(shift.id) ?? null;
    return { weight, bias, kind: "scaleShift", geometry, input, outputGradient, lossReduction: this.#reduction };
  }
}

const KINDS: ReadonlyMap<string, LayerKind> = new Map<string, LayerKind>([
  ["linear", "linear"],
  ["conv2d", "conv2d"],
  ["batchNorm", "scaleShift"],
  ["batchNormRelu", "scaleShift"],
]);

/** Uses of a weight, besides its layer, that make it another matrix in another place. A penalty (multiply, sum) does not. */
const LAYER_LIKE: ReadonlySet<string> = new Set(["linear", "conv2d", "matmul", "gather", "permute", "reshape", "slice"]);

function byId(parameters: Iterable<Parameter>): Map<number, Parameter> {
  return new Map([...parameters].map((parameter) => [parameter.value.id, parameter]));
}

function geometryOf(call: AnyCall, input: Shape, weight: Shape): LayerGeometry {
  const n = input[0] as number;
  const dOut = weight[0] as number;
  const dIn = weight.slice(1).reduce((product, extent) => product * extent, 1);
  if (call.name === "linear") {
    const positions = input.slice(1, -1).reduce((product, extent) => product * extent, 1);
    return { n, positions, dIn, dOut, window: null, groups: 1 };
  }
  const { groups, ...params } = call.params as Conv2dParams;
  const window: WindowGeometry = { ...params, kernel: [weight[1] as number, weight[2] as number] };
  const [height, width] = windowOutput("capture", [input[1] as number, input[2] as number], window);
  return { n, positions: height * width, dIn, dOut, window, groups };
}

export function releaseRecords(records: Iterable<LayerRecord>): void {
  untracked(() => {
    for (const record of records) {
      record.input.dispose();
      record.outputGradient.dispose();
    }
  });
}
