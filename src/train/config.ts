import { z } from "zod";
import { dampingKinds } from "../optim/index.ts";
import { UsageError } from "../tensor/index.ts";

const positive = z.number().positive();
const whole = z.number().int();
/** One value, or one for each epoch, of which the last holds on. */
const perEpoch = <T extends z.ZodNumber>(value: T): z.ZodUnion<[T, z.ZodArray<T>]> => z.union([value, z.array(value).min(1)]);

/**
 * Everything that a training run takes: the keys of a configuration file, and the flags of `kfacet train`. A key that is left
 * out takes the default of what it configures.
 */
const schema = z.strictObject({
  model: z.string().default("vgg_tiny_bn").describe("network: vgg_tiny_bn, vgg_small_bn, vgg11_bn … vgg19_bn, or without _bn"),
  optimizer: z
    .string()
    .default("rs-kfac")
    .describe("optimizer: sgd, adam, adamw, rmsprop, kfac, rs-kfac, sre-kfac, nys-kfac, b-kfac, ek-fac, seng"),
  data: z.string().default("mnist").describe("data set, as name or name:PATH"),
  epochs: whole.min(1).default(2).describe("passes over the training data"),
  batchSize: whole.min(1).default(128).describe("samples a step"),
  seed: whole.min(0).default(0).describe("seed of initial weights, dropout and the order of samples"),
  device: z.string().default("wasm").describe("backend that computes: wasm, reference, gpu"),
  threads: whole.min(1).max(256).optional().describe("wasm: threads; default KFACET_THREADS, or one a core"),
  precision: z.enum(["fast", "exact"]).optional().describe("wasm: fast (Winograd's algorithms, the default) or exact (direct sums)"),
  out: z.string().optional().describe("run folder; default runs/<model>-<optimizer>-<time>"),
  fc: z.array(whole.min(1)).optional().describe("widths of the hidden fully connected layers"),
  init: z.enum(["vgg", "pytorch"]).optional().describe("initial convolution weights"),
  preset: z
    .enum(["paper", "wide"])
    .optional()
    .describe(
      "settings of a curvature method as a whole, which other keys change: paper (the authors' own, not for ek-fac), " +
        "wide (for wide layers, 4 epochs); first-order optimizers take nothing from either",
    ),
  learningRate: perEpoch(positive).optional().describe("initial learning rate, which falls along half a cosine; or one for each epoch"),
  momentum: z.number().min(0).lt(1).optional().describe("heavy-ball momentum"),
  weightDecay: z.number().min(0).optional().describe("weight decay"),
  damping: perEpoch(positive).optional().describe("curvature: λ"),
  dampingKind: z.enum(dampingKinds).optional().describe("K-FAC family: what λ is added to; the randomized ones: relative, factored, pi"),
  adaptDamping: whole
    .min(1)
    .optional()
    .describe("K-FAC family: steps between adaptations of λ by the Levenberg–Marquardt rule; default: none"),
  statDecay: z.number().min(0).lt(1).optional().describe("curvature: decay of the factors' averages"),
  factorUpdateEvery: perEpoch(whole.min(1)).optional().describe("curvature: steps between factor updates"),
  inversionEvery: perEpoch(whole.min(1)).optional().describe("curvature: steps between inversions, or SENG's refreshes"),
  inversionLag: whole
    .min(1)
    .optional()
    .describe("K-FAC family: steps that inversions run on a thread of their own before they are installed; default: none"),
  inverse: z
    .enum(["eigh", "cholesky"])
    .optional()
    .describe("K-FAC: how factors are inverted; default cholesky, but for a damping of their product (relative, absolute)"),
  fisher: z.enum(["empirical", "mc", "type-2"]).optional().describe("curvature: which Fisher matrix"),
  rank: perEpoch(whole.min(1)).optional().describe("randomized K-FAC: eigenpairs of each factor"),
  oversampling: perEpoch(whole.min(0)).optional().describe("randomized K-FAC: vectors besides"),
  exactUpTo: whole
    .min(0)
    .optional()
    .describe("randomized K-FAC: rows up to which factors are decomposed exactly; default: while that is faster"),
  tolerance: perEpoch(positive.lt(1))
    .optional()
    .describe("SRE-KFAC: relative error to which each factor is approximated, by at most rank eigenpairs; default: rank of them always"),
  negligible: perEpoch(z.number().min(0).lt(1))
    .optional()
    .describe("NysKfac: part of the damping beside which eigenvalues need no eigenpair; 0: rank of them always; default .01"),
  iterations: whole.min(1).optional().describe("RS-, SRE- and B-KFAC: power iterations"),
  tail: z.enum(["mean", "smallest", "zero"]).optional().describe("randomized K-FAC: what the other eigenvalues are taken to be"),
  thin: z
    .enum(["on", "off"])
    .optional()
    .describe("precondition the thin factors of dense layers' gradients: randomized K-FAC, K-FAC by Cholesky, SENG"),
  variant: z.enum(["b", "b-r", "b-r-c"]).optional().describe("B-KFAC: updates alone, with fresh decompositions, or corrections, too"),
  truncation: z.enum(["before-update", "at-once"]).optional().describe("B-KFAC: when a factor loses the modes beyond the rank"),
  restartEvery: perEpoch(whole.min(1)).optional().describe("B-KFAC: inversions between fresh decompositions"),
  correctEvery: perEpoch(whole.min(1)).optional().describe("B-KFAC: factor updates between corrections"),
  eigenvalues: z.enum(["running", "intra"]).optional().describe("EK-FAC: where the eigenvalues come from"),
  columns: whole.min(1).optional().describe("SENG: columns of the sketch"),
  skip: z
    .array(z.string().min(1))
    .min(1)
    .optional()
    .describe("curvature: weights that take the plain gradient; * in a name stands for anything"),
  batchNorm: z.enum(["plain", "block"]).optional().describe("K-FAC family: plain gradients for batch norm, or a block of its own"),
  klClip: perEpoch(positive).optional().describe("curvature: KL clip κ"),
  rmsClip: perEpoch(positive).optional().describe("curvature: RMS clip, a limit for each layer, in place of the KL clip"),
  augment: z.enum(["none", "crop-flip"]).default("none").describe("training images: crops from 4 pixels of padding, and mirrored"),
});

export type TrainConfig = z.output<typeof schema>;

export interface ConfigKey {
  readonly key: keyof TrainConfig;
  readonly description: string;
  readonly default: unknown;
  /** Values to choose from, if the key has only those. */
  readonly choices: readonly string[] | null;
  readonly kind: "string" | "number" | "list" | "names" | "number or list";
}

/** The keys with what a command line needs to offer them. */
export const configKeys: readonly ConfigKey[] = keysOf(schema);

/** The keys of a schema with what a command line needs to offer them. */
export function keysOf<Shape extends z.ZodRawShape>({
  shape,
}: z.ZodObject<Shape>): (Omit<ConfigKey, "key"> & { readonly key: keyof Shape })[] {
  return Object.entries(shape).map(([key, type]) => {
    let inner: z.ZodType = type as z.ZodType;
    let fallback: unknown;
    while (inner instanceof z.ZodOptional || inner instanceof z.ZodDefault) {
      if (inner instanceof z.ZodDefault) fallback = inner.def.defaultValue;
      inner = inner.unwrap() as z.ZodType;
    }
    return {
      key,
      description: (type as z.ZodType).description ?? "",
      default: fallback,
      choices: inner instanceof z.ZodEnum ? (inner.options as string[]) : null,
      kind: kindOf(inner),
    };
  });
}

function kindOf(type: z.ZodType): ConfigKey["kind"] {
  if (type instanceof z.ZodUnion) return "number or list";
  if (type instanceof z.ZodNumber) return "number";
  if (type instanceof z.ZodArray) return type.element instanceof z.ZodString ? "names" : "list";
  return "string";
}

/** Checks a configuration and fills in defaults. @throws UsageError listing every fault. */
export function parseConfig(input: unknown, source = "the configuration"): TrainConfig {
  return checked(schema, input, source);
}

/** What a schema makes of an input. @throws UsageError listing every fault, and where the input came from. */
export function checked<Schema extends z.ZodType>(schema: Schema, input: unknown, source: string): z.output<Schema> {
  const result = schema.safeParse(input);
  if (result.success) return result.data;
  const faults = result.error.issues.map(({ path, message }) => (path.length > 0 ? `${path.join(".")}: ${message}` : message));
  throw new UsageError(`${source} is not valid: ${faults.join("; ")}`);
}
