import { describe, expect, it } from "vitest";
import { Tensor } from "../../src/tensor/index.ts";
import { record, valueAndGrad } from "../../src/autograd/index.ts";
import { crossEntropy, Parameter } from "../../src/nn/index.ts";
import {
  Adam,
  AdamW,
  Capture,
  Kfac,
  RecordedView,
  releaseRecords,
  NysKfac,
  RmsProp,
  RsKfac,
  Seng,
  Sgd,
  SreKfac,
  type KfacOptions,
  type LayerRecord,
  type Optimizer,
} from "../../src/optim/index.ts";
import { channelsLast, golden, goldenTensor, patchOrder, read, reordered, tensorOf, type GoldenArray, type Precision } from "../golden.ts";
import { direction, goldenLayer, valuesOf, type GoldenLayer } from "./goldenLayer.ts";
import { imported, loadParameters, smallVgg, type SmallVgg } from "./smallVgg.ts";

/* Optimizers and curvature against vectors of PyTorch's and numpy's, on whichever backend is the default one while the tests run. */

// ── first-order optimizers ──

interface OptimGolden {
  params0: GoldenArray[];
  grads: GoldenArray[][];
  runs: { name: string; hyper: Record<string, number | boolean | number[]>; params_after_step: GoldenArray[][] }[];
}

function optimizerFor(name: string, parameters: Parameter[], h: Record<string, number | boolean | number[]>): Optimizer {
  const learningRate = h["lr"] as number;
  const decay = h["weight_decay"] as number;
  if (name.startsWith("sgd")) {
    return new Sgd(parameters, {
      learningRate,
      weightDecay: decay,
      momentum: h["momentum"] as number,
      dampening: h["dampening"] as number,
      nesterov: h["nesterov"] as boolean,
    });
  }
  if (name === "rmsprop") {
    return new RmsProp(parameters, {
      learningRate,
      weightDecay: decay,
      momentum: h["momentum"] as number,
      decay: h["alpha"] as number,
      epsilon: h["eps"] as number,
      centered: h["centered"] as boolean,
    });
  }
  const options = {
    learningRate,
    weightDecay: decay,
    betas: h["betas"] as [number, number],
    epsilon: h["eps"] as number,
    amsgrad: (h["amsgrad"] as boolean | undefined) ?? false,
  };
  return name === "adamw" ? new AdamW(parameters, options) : new Adam(parameters, options);
}

/** Parameters after each of ten steps. */
export function firstOrderFollowsPyTorch(precisions: readonly Precision[]): void {
  describe("first-order optimizers follow PyTorch's trajectories", () => {
    const data = golden("optim") as OptimGolden;
    for (const [dtype, tolerance] of precisions) {
      it.each(data.runs.map((run) => [run.name, run] as const))(`%s in ${dtype}`, async (name, run) => {
        const parameters = data.params0.map((array, i) => new Parameter(`p${i}`, tensorOf(array, dtype)));
        const optimizer = optimizerFor(name, parameters, run.hyper);
        for (const [step, gradients] of data.grads.entries()) {
          // ⟨p, g⟩ has the gradient g.
          await optimizer.minimize(() =>
            parameters.map((p, i) => p.value.multiply(tensorOf(gradients[i] as GoldenArray, dtype)).sum()).reduce((a, b) => a.add(b)),
          );
          const actual = await valuesOf(parameters);
          expect(actual).toBeAllclose(
            (run.params_after_step[step] as GoldenArray[]).flatMap((array) => array.data),
            { relative: tolerance },
          );
        }
      });
    }
  });
}

// ── single layers ──

interface KfacLayer extends GoldenLayer {
  grad_mat: GoldenArray;
  A: GoldenArray;
  G: GoldenArray;
  A_kfc: GoldenArray;
  G_kfc: GoldenArray;
  lambda_: number;
  pre_fixed: GoldenArray;
  pre_maxeig: GoldenArray;
  pre_tikhonov_pi: GoldenArray;
  pre_rs_fullrank: GoldenArray;
  pre_rs_rank3: GoldenArray;
  clip: number;
  pre_maxeig_rmsclip: GoldenArray;
  klclip_kappa: number;
  klclip_lr: number;
  pre_maxeig_klclip: GoldenArray;
}

/** Factors, and directions under every kind of damping and clipping. */
export function kfacLayersEqualDenseSolves(precisions: readonly Precision[]): void {
  describe("K-FAC of single layers", () => {
    for (const [dtype, tolerance] of precisions) {
      for (const layer of (golden("kfac_layers") as { layers: KfacLayer[] }).layers) {
        const order = patchOrder(layer.weight.shape, layer.bias !== null);

        it(`${layer.name}, ${dtype}: factors equal the explicit sums`, async () => {
          const { weight, parameters, loss } = goldenLayer(layer, dtype);
          const records: LayerRecord[] = [];
          const capture = new Capture([weight], parameters, "mean");
          valueAndGrad(loss, parameters, { observe: capture.observer(records) });
          const view = new RecordedView([{ training: records, fisher: [records], share: 1 }]);
          expect(await view.inputCovariance().data()).toBeAllclose(reordered(layer.A_kfc, order, true), { relative: tolerance });
          expect(await view.outputCovariance().data()).toBeAllclose(layer.G_kfc.data, { relative: tolerance });
          const square = view.positions ** 2;
          expect(await read(view.inputCovariance().multiply(1 / square))).toBeAllclose(reordered(layer.A, order, true), {
            relative: tolerance,
          });
          expect(await read(view.outputCovariance().multiply(square))).toBeAllclose(layer.G.data, { relative: tolerance });
          view.dispose();
          releaseRecords(records);
        });

        const cases: [name: string, options: Partial<KfacOptions> & { learningRate?: number }, expected: GoldenArray][] = [
          ["absolute damping on the product", { dampingKind: "absolute" }, layer.pre_fixed],
          ["damping relative to the largest eigenvalues' product", { dampingKind: "relative" }, layer.pre_maxeig],
          ["π-corrected damping by eigh", { inverse: "eigh", dampingKind: "pi" }, layer.pre_tikhonov_pi],
          ["π-corrected damping by Cholesky", { inverse: "cholesky", dampingKind: "pi" }, layer.pre_tikhonov_pi],
          ["the defaults, which damp as the randomized methods do", {}, layer.pre_rs_fullrank],
          ["RMS clip", { dampingKind: "relative", clip: { rms: layer.clip } }, layer.pre_maxeig_rmsclip],
          [
            "KL clip",
            { dampingKind: "relative", clip: { kl: layer.klclip_kappa }, learningRate: layer.klclip_lr },
            layer.pre_maxeig_klclip,
          ],
        ];
        for (const factorScaling of ["kfc", "paper"] as const) {
          it.each([
            ["full rank", 1000, layer.pre_rs_fullrank],
            ["rank 3", 3, layer.pre_rs_rank3],
          ] as const)(`${layer.name}, ${dtype}, ${factorScaling} factors: low-rank inverses of %s`, async (_, rank, expected) => {
            const options = { damping: layer.lambda_, factorScaling, rank, oversampling: 1000, tail: "zero" } as const;
            const actual = await direction(layer, dtype, (own) => new RsKfac(own, { learningRate: 1, clip: false, ...options }));
            expect(actual).toBeAllclose(reordered(expected, order), { relative: tolerance });
          });
          it.each(cases)(`${layer.name}, ${dtype}, ${factorScaling} factors: %s`, async (_, options, expected) => {
            const rate = options.learningRate ?? 1;
            const whole = { clip: false, damping: layer.lambda_, factorScaling, ...options, learningRate: rate } as const;
            const actual = await direction(layer, dtype, (own) => new Kfac(own, whole), rate);
            expect(actual).toBeAllclose(reordered(expected, order), { relative: tolerance });
          });
        }
      }
    }
  });
}

// ── a small VGG with batch norm ──

/** Where the columns of a layer's [W b] stand in the file. The first dense layer's are a flattened image. */
function columnsOf({ params0 }: SmallVgg, layer: string): number[] {
  return patchOrder(layer === "15" ? [8, 6, 2, 2] : (params0[`${layer}.weight`] as GoldenArray).shape, true);
}

/** One training step, backward, and the factors of every layer. */
export function smallVggEqualsPyTorch(precisions: readonly Precision[]): void {
  describe("a small VGG with batch norm", () => {
    const data = golden("small_vgg_bn") as SmallVgg;
    for (const [dtype, tolerance] of precisions) {
      it(`${dtype}: loss, logits, gradients, running statistics and factors equal PyTorch's`, async () => {
        const model = smallVgg(dtype);
        loadParameters(model, data.params0, dtype);
        const parameters = model.parameters();
        const [x, labels] = [tensorOf(data.x, dtype), goldenTensor(data.target)];
        const records: LayerRecord[] = [];
        const observe = new Capture(
          parameters.filter((p) => p.shape.length > 1),
          parameters,
          "mean",
        ).observer(records);
        const recording = record(() => {
          const logits = model.forward(x);
          return { logits, loss: crossEntropy(logits, labels) };
        }, parameters);
        const { logits, loss } = recording.value;
        const gradients = recording.reverse([[loss, Tensor.ones([], { dtype })]], { observe });
        expect(await read(loss)).toBeAllclose([data.loss], { relative: tolerance });
        expect(await read(logits)).toBeAllclose(data.logits.data, { relative: tolerance });

        // Weight and bias of a layer together: the gradient of a bias before batch norm is rounding noise.
        const byLayer = new Map<string, { actual: number[]; expected: number[] }>();
        for (const [i, parameter] of parameters.entries()) {
          const layer = parameter.name.slice(0, parameter.name.indexOf("."));
          const pair = byLayer.get(layer) ?? { actual: [], expected: [] };
          pair.actual.push(...(await read(gradients[i] as Tensor)));
          pair.expected.push(...channelsLast(imported(parameter.name, data.grads[parameter.name] as GoldenArray)).data);
          byLayer.set(layer, pair);
        }
        for (const { actual, expected } of byLayer.values()) expect(actual).toBeAllclose(expected, { relative: tolerance });

        for (const [name, buffer] of model.namedBuffers()) {
          const torchName = name.replace("runningMean", "running_mean").replace("runningVariance", "running_var");
          expect(await buffer.value.data()).toBeAllclose((data.running_after_1_train_forward[torchName] as GoldenArray).data, {
            relative: tolerance,
          });
        }
        model.eval();
        expect(await read(model.forward(x))).toBeAllclose(data.logits_eval_after.data, { relative: tolerance });

        for (const [index, layer] of Object.entries(data.layers)) {
          const own = records.filter((r) => r.weight.name === `${index}.weight`);
          const view = new RecordedView([{ training: own, fisher: [own], share: 1 }]);
          const square = view.positions ** 2;
          const a = await read(view.inputCovariance().multiply(1 / square));
          const d = view.dA;
          expect(await read(view.outputCovariance().multiply(square))).toBeAllclose(layer.G.data, { relative: tolerance });
          const order = columnsOf(data, index);
          if (layer.A_is_diag_only) {
            const diagonal = order.map((j) => layer.A.data[j] as number);
            expect(Float64Array.from({ length: d }, (_, i) => a[i * d + i] as number)).toBeAllclose(diagonal, { relative: tolerance });
            expect([Math.hypot(...a)]).toBeAllclose([layer.A_fro], { relative: tolerance });
          } else {
            expect(a).toBeAllclose(reordered(layer.A, order, true), { relative: tolerance });
          }
          view.dispose();
        }
        releaseRecords(records);
      });
    }
  });
}

/** What the first step of each method subtracts from every layer at rate 1. */
export function smallVggDirectionsEqualDenseSolves(precisions: readonly Precision[]): void {
  describe("the first step on a small VGG with batch norm", () => {
    const data = golden("small_vgg_bn") as SmallVgg;
    const kfac = { learningRate: 1, clip: false, damping: 0.1 } as const;
    const directions: [
      name: string,
      make: (own: Parameter[]) => Optimizer,
      expected: "pre_maxeig" | "pre_rs_fullrank" | "seng_damping2",
    ][] = [
      ["K-FAC by eigenpairs", (own) => new Kfac(own, { ...kfac, inverse: "eigh" }), "pre_maxeig"],
      ["K-FAC by its defaults", (own) => new Kfac(own, kfac), "pre_rs_fullrank"],
      ["RS-KFAC of full rank", (own) => new RsKfac(own, { ...kfac, rank: 1000 }), "pre_rs_fullrank"],
      ["SENG without a sketch", (own) => new Seng(own, { learningRate: 1, momentum: 0, damping: 2, columns: Infinity }), "seng_damping2"],
    ];
    for (const [dtype, tolerance] of precisions) {
      it.each(directions)(`${dtype}: the layers' directions of %s equal dense solves`, async (_, make, expected) => {
        const model = smallVgg(dtype);
        loadParameters(model, data.params0, dtype);
        const parameters = new Map(model.namedParameters());
        const before = new Map<string, number[]>();
        for (const [name, parameter] of parameters) before.set(name, await valuesOf([parameter]));
        const optimizer = make([...parameters.values()]);
        const [x, labels] = [tensorOf(data.x, dtype), goldenTensor(data.target)];
        await optimizer.minimize(() => crossEntropy(model.forward(x), labels));
        optimizer.dispose();

        for (const [layer, values] of Object.entries(data.layers)) {
          const subtracted = async (name: string): Promise<number[]> => {
            const after = await valuesOf([parameters.get(name) as Parameter]);
            return (before.get(name) as number[]).map((value, i) => value - (after[i] as number));
          };
          const [weight, bias] = [await subtracted(`${layer}.weight`), await subtracted(`${layer}.bias`)];
          const columns = weight.length / bias.length;
          const actual = bias.flatMap((shift, o) => [...weight.slice(o * columns, (o + 1) * columns), shift]);
          expect(actual).toBeAllclose(reordered(values[expected], columnsOf(data, layer)), { relative: tolerance });
        }
      });
    }
  });
}

// ── trajectories of the paper's code ──

interface TrajectoryRun {
  mode: string;
  TCov: number;
  TInv: number;
  update_freq: number;
  stat_decay: number;
  damping: number;
  clip: number;
  lr: number;
  momentum: number;
  weight_decay: number;
  rank: number | null;
  steps: { loss: number; params: Record<string, GoldenArray> }[];
}

interface Trajectory {
  batches: { x: GoldenArray; target: GoldenArray }[];
  runs: TrajectoryRun[];
}

const trajectory = golden("traj") as Trajectory;
/** What the runs of the K-FAC family have in common: the identity at first, the paper's split of scales, and its clip. */
const paperOptions = (run: TrajectoryRun) =>
  ({
    learningRate: run.lr,
    damping: run.damping,
    statDecay: run.stat_decay,
    averageForm: "identity",
    factorScaling: "paper",
    factorUpdateEvery: run.TCov,
    inversionEvery: run.TInv,
    clip: { rms: run.clip },
  }) as const;
type TrajectoryCase = [name: string, make: (run: TrajectoryRun, parameters: Parameter[]) => Optimizer, run: number];
const trajectories: TrajectoryCase[] = [
  ["K-FAC", (run, parameters) => new Kfac(parameters, { ...paperOptions(run), inverse: "eigh" }), 0],
  ...([RsKfac, SreKfac, NysKfac] as const).map((Method): TrajectoryCase => [
    `${Method.name} of full rank`,
    (run, parameters) => new Method(parameters, { ...paperOptions(run), rank: 1000, tail: "zero" }),
    1,
  ]),
  [
    "RsKfac of rank 3, exactly truncated",
    (run, parameters) => new RsKfac(parameters, { ...paperOptions(run), rank: 3, oversampling: 1000, tail: "zero" }),
    2,
  ],
  [
    "SENG",
    (run, parameters) =>
      new Seng(parameters, {
        learningRate: run.lr,
        damping: run.damping,
        refreshEvery: run.update_freq,
        columns: Infinity,
        momentum: run.momentum,
        weightDecay: run.weight_decay,
      }),
    3,
  ],
];

/**
 * Of rank 3 with 5 vectors besides. Randomised results tend to the exact truncation as the iterations grow: the golden file's own RS-KFAC
 * is within 1.4e-7 of it after 200 iterations, of two products each.
 */
const iteratedTrajectories = (
  [
    [RsKfac, 200],
    [SreKfac, 400],
  ] as const
).map(([Method, iterations]): TrajectoryCase => [
  `${Method.name} of rank 3, after 400 products`,
  (run, parameters) => new Method(parameters, { ...paperOptions(run), rank: 3, oversampling: 5, exactUpTo: 0, iterations, tail: "zero" }),
  2,
]);

/** Loss and parameters after each step, where each step computes what the paper's code computes. */
export function trajectoriesEqualPaperCode(precisions: readonly Precision[]): void {
  trajectoriesEqual(trajectories, precisions);
}

/** The same where randomised iterations tend to it, to 1e-6 at best. */
export function iteratedTrajectoriesEqualPaperCode(precisions: readonly Precision[]): void {
  trajectoriesEqual(
    iteratedTrajectories,
    precisions.map(([dtype, relative]) => [dtype, Math.max(relative, 1e-6)]),
  );
}

function trajectoriesEqual(cases: readonly TrajectoryCase[], precisions: readonly Precision[]): void {
  describe.each(cases)("the trajectory of %s equals that of the paper's code", (_, make, index) => {
    const params0 = (golden("small_vgg_bn") as SmallVgg).params0;
    const run = trajectory.runs[index] as TrajectoryRun;
    it.each(precisions)("in %s", async (dtype, tolerance) => {
      const model = smallVgg(dtype);
      loadParameters(model, params0, dtype);
      const optimizer = make(run, model.parameters());
      for (const [i, { loss: expected, params }] of run.steps.entries()) {
        const batch = trajectory.batches[i] as Trajectory["batches"][number];
        const [x, labels] = [tensorOf(batch.x, dtype), goldenTensor(batch.target)];
        const loss = await optimizer.minimize(() => crossEntropy(model.forward(x), labels));
        expect(await read(loss)).toBeAllclose([expected], { relative: tolerance });
        const parameters = [...model.namedParameters()];
        expect(await valuesOf(parameters.map(([, parameter]) => parameter))).toBeAllclose(
          parameters.flatMap(([name]) => channelsLast(imported(name, params[name] as GoldenArray)).data),
          { relative: tolerance },
        );
      }
    });
  });
}
