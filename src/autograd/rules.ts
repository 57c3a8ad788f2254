import {
  apply,
  concat,
  im2col,
  isFloat,
  sizeOf,
  stretchedAxes,
  Tensor,
  where,
  type DType,
  type Inputs,
  type LabelSmoothing,
  type Outputs,
  type Params,
  type PrimitiveName,
  type Shape,
} from "../tensor/index.ts";

/** An operand or result of a recorded call, as a derivative rule sees it. */
export interface Recorded {
  /** Identity of the value: equal for all handles on it. */
  readonly id: number;
  readonly shape: Shape;
  readonly dtype: DType;
  /** The numbers. Throws unless the rule's `saves` names this operand: then the tape has not kept them. */
  readonly value: Tensor;
}

/** A primitive call on a tape. */
export interface RecordedCall<K extends PrimitiveName = PrimitiveName> {
  readonly name: K;
  readonly params: Params<K>;
  readonly inputs: Inputs<K, Recorded>;
  readonly outputs: Outputs<K, Recorded>;
}

/** One gradient an output. With several outputs, those that nobody used have none. */
export type OutputGradients<K extends PrimitiveName> =
  Outputs<K, unknown> extends [unknown] ? Outputs<K, Tensor> : Outputs<K, Tensor | null>;

/** For each input, how to compute its gradient; `null` where the derivative is zero or the input is not a real number. */
export type Thunks<K extends PrimitiveName> = Inputs<K, (() => Tensor) | null>;

/**
 * The derivative of one primitive. Either a vector-Jacobian product of its own, where `saves` names the operands whose values
 * it reads and the tape runs only the thunks that someone needs; or a definition in smaller primitives, to be differentiated
 * in its place.
 */
export type Rule<K extends PrimitiveName> =
  | {
      readonly saves: { readonly inputs?: readonly number[]; readonly outputs?: readonly number[] };
      vjp(call: RecordedCall<K>, gradients: OutputGradients<K>): Thunks<K>;
    }
  | { definition(inputs: Inputs<K, Tensor>, params: Params<K>): Outputs<K, Tensor> };

const nothing = {};

/** Sums a gradient over the axes along which an operand was stretched. */
function unbroadcast(gradient: Tensor, shape: Shape): Tensor {
  const axes = stretchedAxes(shape, gradient.shape);
  return axes.length === 0 ? gradient : gradient.sum(axes, { keepDims: true }).reshape(shape);
}

/** Axes 0 … rank − 2: all but the channels. */
const leadingAxes = (shape: Shape): number[] => shape.slice(1).map((_, axis) => axis);

/** [n] → [n, 1, …, 1] with the rank of `like`. */
const perRow = (values: Tensor, like: Shape): Tensor => values.reshape(like.map((extent, axis) => (axis === 0 ? extent : 1)));

const rows = (x: Tensor): Tensor => x.reshape([sizeOf(x.shape.slice(0, -1)), x.shape.at(-1) as number]);

/** a + b, where `a` may be missing: for gradients that arrive from several outputs, not all of which were used. */
const plus = (a: Tensor | null, b: Tensor): Tensor => (a ? a.add(b) : b);

/** A rule without derivative: creation, comparison, and steps. */
const none = { saves: nothing, vjp: (): [] => [] } as const;
const flat1 = { saves: nothing, vjp: (): [null] => [null] } as const;
const flat2 = { saves: nothing, vjp: (): [null, null] => [null, null] } as const;

const softmaxMinusTarget = (probabilities: Tensor, labels: Tensor, gradient: Tensor, smoothing: LabelSmoothing): Tensor =>
  apply("softmaxCrossEntropyGradient", [probabilities, labels, gradient], smoothing)[0];

/**
 * The one table of derivatives. In a row, `g` is the gradient of the output, and the comment gives the derivative where the
 * code does not already say it.
 */
export const rules: { readonly [K in PrimitiveName]: Rule<K> } = {
  // ── creation ──
  fill: none,
  arange: none,
  uniform: none,
  normal: none,

  // ── movement: linear, so each is the transpose of another ──
  reshape: { saves: nothing, vjp: ({ inputs: [x] }, [g]) => [() => g.reshape(x.shape)] },
  cast: {
    saves: nothing,
    vjp: ({ inputs: [x], params }, [g]) => [isFloat(x.dtype) && isFloat(params.dtype) ? () => g.cast(x.dtype) : null],
  },
  permute: {
    saves: nothing,
    vjp: ({ params: { axes } }, [g]) => [() => g.permute(axes.map((_, axis) => axes.indexOf(axis)))],
  },
  broadcastTo: { saves: nothing, vjp: ({ inputs: [x] }, [g]) => [() => unbroadcast(g, x.shape)] },
  slice: {
    saves: nothing,
    vjp: ({ inputs: [x], params: { start, size, step } }, [g]) => [
      () => {
        const spread = size.map((n, axis) => Math.max(0, n - 1) * (step[axis] as number) + Math.min(n, 1));
        const after = x.shape.map((extent, axis) => extent - (start[axis] as number) - (spread[axis] as number));
        return g.pad(
          start,
          after,
          step.map((s) => s - 1),
        );
      },
    ],
  },
  pad: {
    saves: nothing,
    vjp: ({ inputs: [x], params: { before, between } }, [g]) => [
      () =>
        g.slice(
          before,
          x.shape,
          between.map((b) => b + 1),
        ),
    ],
  },
  concat: {
    saves: nothing,
    vjp: ({ inputs, params: { axis } }, [g]) => {
      let end = 0;
      return inputs.map((x) => {
        const start = g.shape.map((_, i) => (i === axis ? end : 0));
        end += x.shape[axis] as number;
        return () => g.slice(start, x.shape);
      });
    },
  },
  gather: {
    saves: { inputs: [1] },
    vjp: ({ inputs: [x, indices] }, [g]) => [() => g.scatterAdd(indices.value, x.shape[0] as number), null],
  },
  scatterAdd: { saves: { inputs: [1] }, vjp: ({ inputs: [, indices] }, [g]) => [() => g.gather(indices.value), null] },

  // ── elementwise, one operand ──
  negative: { saves: nothing, vjp: (_, [g]) => [() => g.negative()] },
  abs: { saves: { inputs: [0] }, vjp: ({ inputs: [x] }, [g]) => [() => g.multiply(x.value.sign())] },
  sign: flat1,
  reciprocal: { saves: { outputs: [0] }, vjp: ({ outputs: [y] }, [g]) => [() => g.multiply(y.value.square()).negative()] },
  sqrt: { saves: { outputs: [0] }, vjp: ({ outputs: [y] }, [g]) => [() => g.divide(y.value).multiply(0.5)] },
  exp: { saves: { outputs: [0] }, vjp: ({ outputs: [y] }, [g]) => [() => g.multiply(y.value)] },
  log: { saves: { inputs: [0] }, vjp: ({ inputs: [x] }, [g]) => [() => g.divide(x.value)] },
  sin: { saves: { inputs: [0] }, vjp: ({ inputs: [x] }, [g]) => [() => g.multiply(x.value.cos())] },
  cos: { saves: { inputs: [0] }, vjp: ({ inputs: [x] }, [g]) => [() => g.multiply(x.value.sin()).negative()] },
  tanh: { saves: { outputs: [0] }, vjp: ({ outputs: [y] }, [g]) => [() => g.subtract(g.multiply(y.value.square()))] },
  sigmoid: {
    saves: { outputs: [0] },
    vjp: ({ outputs: [y] }, [g]) => [() => g.multiply(y.value.subtract(y.value.square()))],
  },
  softplus: { saves: { inputs: [0] }, vjp: ({ inputs: [x] }, [g]) => [() => g.multiply(x.value.sigmoid())] },
  erf: {
    saves: { inputs: [0] },
    vjp: ({ inputs: [x] }, [g]) => [() => g.multiply(x.value.square().negative().exp()).multiply(2 / Math.sqrt(Math.PI))],
  },
  relu: { saves: { outputs: [0] }, vjp: ({ outputs: [y] }, [g]) => [() => apply("reluGradient", [y.value, g], {})[0]] },
  reluGradient: {
    saves: { inputs: [0] },
    vjp: ({ inputs: [y] }, [g]) => [null, () => apply("reluGradient", [y.value, g], {})[0]],
  },

  // ── elementwise, two operands ──
  add: {
    saves: nothing,
    vjp: ({ inputs: [a, b] }, [g]) => [() => unbroadcast(g, a.shape), () => unbroadcast(g, b.shape)],
  },
  subtract: {
    saves: nothing,
    vjp: ({ inputs: [a, b] }, [g]) => [() => unbroadcast(g, a.shape), () => unbroadcast(g, b.shape).negative()],
  },
  multiply: {
    saves: { inputs: [0, 1] },
    vjp: ({ inputs: [a, b] }, [g]) => [() => unbroadcast(g.multiply(b.value), a.shape), () => unbroadcast(g.multiply(a.value), b.shape)],
  },
  divide: {
    saves: { inputs: [1], outputs: [0] },
    vjp: ({ inputs: [a, b], outputs: [y] }, [g]) => [
      () => unbroadcast(g.divide(b.value), a.shape),
      () => unbroadcast(g.multiply(y.value).divide(b.value).negative(), b.shape),
    ],
  },
  // Where the operands are equal, the first one takes the gradient.
  maximum: {
    saves: { inputs: [0, 1] },
    vjp: ({ inputs: [a, b] }, [g]) => [
      () => unbroadcast(g.multiply(a.value.greaterEqual(b.value).cast(g.dtype)), a.shape),
      () => unbroadcast(g.multiply(a.value.less(b.value).cast(g.dtype)), b.shape),
    ],
  },
  minimum: {
    saves: { inputs: [0, 1] },
    vjp: ({ inputs: [a, b] }, [g]) => [
      () => unbroadcast(g.multiply(a.value.lessEqual(b.value).cast(g.dtype)), a.shape),
      () => unbroadcast(g.multiply(a.value.greater(b.value).cast(g.dtype)), b.shape),
    ],
  },
  // ∂a = b aᵇ⁻¹,  ∂b = aᵇ log a; by convention (PyTorch's) ∂a = 0 where a = b = 0, and ∂b = 0 where a = 0 and b ≥ 0, instead of
  // 0 · ∞. The base is replaced, not the product: so derivatives of these are finite too.
  power: {
    saves: { inputs: [0, 1], outputs: [0] },
    vjp: ({ inputs: [a, b], outputs: [y] }, [g]) => [
      () => {
        const base = oneAtZero(a.value, b.value.equal(0));
        return unbroadcast(g.multiply(b.value).multiply(base.power(b.value.subtract(1))), a.shape);
      },
      () => unbroadcast(g.multiply(y.value).multiply(oneAtZero(a.value, b.value.greaterEqual(0)).log()), b.shape),
    ],
  },
  equal: flat2,
  less: flat2,
  lessEqual: flat2,
  where: {
    saves: { inputs: [0] },
    vjp: ({ inputs: [condition, a, b] }, [g]) => {
      const zero = (): Tensor => Tensor.zeros([], { dtype: g.dtype, backend: g.backend });
      return [
        null,
        () => unbroadcast(where(condition.value, g, zero()), a.shape),
        () => unbroadcast(where(condition.value, zero(), g), b.shape),
      ];
    },
  },

  linearCombination: {
    saves: nothing,
    vjp: ({ params: { a, b } }, [g]) => [() => g.multiply(a), () => g.multiply(b)],
  },
  divideByRoot: {
    definition: ([x, square], { scale, rootScale, epsilon }) => [x.multiply(scale).divide(square.sqrt().multiply(rootScale).add(epsilon))],
  },

  // ── reductions ──
  sum: {
    saves: nothing,
    vjp: ({ inputs: [x], params: { axes } }, [g]) => [() => restoreAxes(g, x.shape, axes).broadcastTo(x.shape)],
  },
  // Equal largest elements share the gradient evenly.
  max: {
    saves: { inputs: [0], outputs: [0] },
    vjp: ({ inputs: [x], outputs: [y], params: { axes } }, [g]) => [
      () => {
        const winners = x.value.equal(restoreAxes(y.value, x.shape, axes)).cast(g.dtype);
        return winners.multiply(restoreAxes(g, x.shape, axes)).divide(winners.sum(axes, { keepDims: true }));
      },
    ],
  },
  argmax: flat1,

  // ── products ──
  // C = op(A) op(B):  ∂op(A) = g op(B)ᵀ,  ∂op(B) = op(A)ᵀ g
  matmul: {
    saves: { inputs: [0, 1] },
    vjp: ({ inputs: [a, b], params: { transposeA, transposeB } }, [g]) => [
      () => {
        const gradient = transposeA
          ? b.value.matmul(g, { transposeA: transposeB, transposeB: true })
          : g.matmul(b.value, { transposeB: !transposeB });
        return unbroadcast(gradient, a.shape);
      },
      () => {
        const gradient = transposeB
          ? g.matmul(a.value, { transposeA: true, transposeB: transposeA })
          : a.value.matmul(g, { transposeA: !transposeA });
        return unbroadcast(gradient, b.shape);
      },
    ],
  },
  // C = s XᵀX:  ∂X = s X (g + gᵀ)
  gram: {
    saves: { inputs: [0] },
    vjp: ({ inputs: [x], params: { scale } }, [g]) => [() => x.value.matmul(g.add(g.transpose())).multiply(scale)],
  },
  linear: {
    saves: { inputs: [0, 1] },
    vjp: ({ inputs: [x, weight, bias] }, [g]) => {
      const gx = (): Tensor => rows(g).matmul(weight.value).reshape(x.shape);
      const gw = (): Tensor => rows(g).matmul(rows(x.value), { transposeA: true });
      return bias ? [gx, gw, () => g.sum(leadingAxes(g.shape))] : [gx, gw];
    },
  },

  // ── convolution: bilinear, and the three are closed under differentiation ──
  conv2d: {
    saves: { inputs: [0, 1] },
    vjp: ({ inputs: [x, weight, bias], params }, [g]) => {
      const gx = (): Tensor => apply("conv2dInputGradient", [g, weight.value], { ...params, inputSize: size2d(x.shape) })[0];
      const gw = (): Tensor => apply("conv2dWeightGradient", [x.value, g], { ...params, kernel: size2d(weight.shape) })[0];
      return bias ? [gx, gw, () => g.sum(leadingAxes(g.shape))] : [gx, gw];
    },
  },
  conv2dInputGradient: {
    saves: { inputs: [0, 1] },
    vjp: ({ inputs: [gradient, weight], params: { inputSize: _, ...params } }, [g]) => [
      () => apply("conv2d", [g, weight.value], params)[0],
      () => apply("conv2dWeightGradient", [g, gradient.value], { ...params, kernel: size2d(weight.shape) })[0],
    ],
  },
  conv2dWeightGradient: {
    saves: { inputs: [0, 1] },
    vjp: ({ inputs: [x, gradient], params: { kernel: _, ...params } }, [g]) => [
      () => apply("conv2dInputGradient", [gradient.value, g], { ...params, inputSize: size2d(x.shape) })[0],
      () => apply("conv2d", [x.value, g], params)[0],
    ],
  },
  im2col: {
    saves: nothing,
    vjp: ({ inputs: [x], params }, [g]) => [() => apply("col2im", [g], { ...params, inputSize: size2d(x.shape) })[0]],
  },
  col2im: {
    saves: nothing,
    vjp: ({ params: { inputSize: _, ...geometry } }, [g]) => [() => apply("im2col", [g], geometry)[0]],
  },
  patchCovariance: {
    definition: ([x], { bias, scale, kernel, ...window }) => {
      const patches = rows(im2col(x, kernel, window));
      if (!bias) return [patches.gram(scale)];
      const ones = Tensor.ones([patches.shape[0] as number, 1], { dtype: x.dtype, backend: x.backend });
      return [concat([patches, ones], 1).gram(scale)];
    },
  },

  // ── pooling: linear once the indices are fixed ──
  maxPool2d: {
    saves: { outputs: [1] },
    vjp: ({ inputs: [x], outputs: [, indices] }, [g]) => [
      g && (() => apply("maxPool2dScatter", [g, indices.value], { inputSize: size2d(x.shape) })[0]),
    ],
  },
  maxPool2dScatter: {
    saves: { inputs: [1] },
    vjp: ({ inputs: [, indices] }, [g]) => [() => apply("maxPool2dGather", [g, indices.value], {})[0], null],
  },
  maxPool2dGather: {
    saves: { inputs: [1] },
    vjp: ({ inputs: [x, indices] }, [g]) => [() => apply("maxPool2dScatter", [g, indices.value], { inputSize: size2d(x.shape) })[0], null],
  },
  averagePool2d: {
    saves: nothing,
    vjp: ({ inputs: [x], params }, [g]) => [() => apply("averagePool2dGradient", [g], { ...params, inputSize: size2d(x.shape) })[0]],
  },
  averagePool2dGradient: {
    saves: nothing,
    vjp: ({ params: { inputSize: _, ...params } }, [g]) => [() => apply("averagePool2d", [g], params)[0]],
  },

  // ── normalisation ──
  // The statistics are outputs with gradients of their own: ∂mean/∂x = 1/count, ∂rstd/∂x = −rstd² x̂ / count with
  // x̂ = (x − mean) rstd. Treating them as constants would make second derivatives wrong.
  batchNorm: {
    saves: { inputs: [0, 1], outputs: [1, 2] },
    vjp: ({ inputs: [x, scale], outputs: [y, mean, rstd] }, gradients) =>
      batchNormThunks(x, y, mean, rstd, gradients, (g) =>
        apply("batchNormGradient", [x.value, scale.value, mean.value, rstd.value, g], {}),
      ),
  },
  normalize: {
    definition: ([x, mean, gain, shift], { relu }) => {
      const y = x.subtract(mean).multiply(gain).add(shift);
      return [relu ? y.relu() : y];
    },
  },
  batchNormRelu: {
    saves: { inputs: [0, 1], outputs: [0, 1, 2] },
    vjp: ({ inputs: [x, scale], outputs: [y, mean, rstd] }, gradients) =>
      batchNormThunks(x, y, mean, rstd, gradients, (g) =>
        apply("batchNormReluGradient", [x.value, scale.value, mean.value, rstd.value, y.value, g], {}),
      ),
  },
  batchNormGradient: {
    definition: ([x, scale, mean, rstd, g]) => {
      const axes = leadingAxes(x.shape);
      const count = x.shape.slice(0, -1).reduce((product, extent) => product * extent, 1);
      const normal = x.subtract(mean).multiply(rstd);
      const dots = g.multiply(normal).sum(axes);
      const sums = g.sum(axes);
      const centred = g.subtract(sums.multiply(1 / count)).subtract(normal.multiply(dots.multiply(1 / count)));
      return [centred.multiply(scale.multiply(rstd)), dots, sums];
    },
  },
  batchNormReluGradient: {
    definition: ([x, scale, mean, rstd, output, g]) =>
      apply("batchNormGradient", [x, scale, mean, rstd, apply("reluGradient", [output, g], {})[0]], {}),
  },

  // ── losses ──
  // ∂x = g − softmax(x) Σ g
  logSoftmax: {
    saves: { outputs: [0] },
    vjp: ({ outputs: [y] }, [g]) => [() => g.subtract(y.value.exp().multiply(g.sum(-1, { keepDims: true })))],
  },
  // ∂loss/∂logits = p − q,  ∂p/∂logits = diag(p) − p pᵀ
  softmaxCrossEntropy: {
    saves: { inputs: [1], outputs: [1] },
    vjp: ({ inputs: [logits, labels], outputs: [, probabilities], params }, [gloss, gp]) => [
      () => {
        const p = probabilities.value;
        const fromLoss = gloss && softmaxMinusTarget(p, labels.value, gloss, params);
        if (!gp) return fromLoss ?? Tensor.zeros(logits.shape, { dtype: p.dtype, backend: p.backend });
        const weighted = p.multiply(gp);
        return plus(fromLoss, weighted.subtract(p.multiply(weighted.sum(1, { keepDims: true }))));
      },
      null,
    ],
  },
  // y = gradient (p − q): linear in each
  softmaxCrossEntropyGradient: {
    saves: { inputs: [0, 1, 2] },
    vjp: ({ inputs: [p, labels, gradient], params }, [g]) => [
      () => g.multiply(perRow(gradient.value, p.shape)),
      null,
      () => {
        const ones = Tensor.ones(gradient.shape, { dtype: g.dtype, backend: g.backend });
        return softmaxMinusTarget(p.value, labels.value, ones, params).multiply(g).sum(1);
      },
    ],
  },
  squaredError: {
    saves: { inputs: [0, 1] },
    vjp: ({ inputs: [prediction, target] }, [g]) => {
      const gradient = once(() => prediction.value.subtract(target.value).multiply(perRow(g, prediction.shape).multiply(2)));
      return [gradient, () => gradient().negative()];
    },
  },
};

/** `base`, but 1 where it is 0 and the condition holds. */
function oneAtZero(base: Tensor, condition: Tensor): Tensor {
  return where(base.equal(0).multiply(condition), Tensor.ones([], { dtype: base.dtype, backend: base.backend }), base);
}

/** The thunks of batch norm, with or without ReLU: `fused` gives the gradients of x, scale and shift from that of y. */
function batchNormThunks(
  x: Recorded,
  y: Recorded,
  mean: Recorded,
  rstd: Recorded,
  [gy, gmean, grstd]: readonly [Tensor | null, Tensor | null, Tensor | null],
  fused: (gradient: Tensor) => readonly [Tensor, Tensor, Tensor],
): [() => Tensor, () => Tensor, () => Tensor] {
  const gradients = once(() =>
    fused(gy ?? Tensor.zeros(y.shape, { dtype: gmean?.dtype ?? grstd?.dtype ?? "float32", backend: x.value.backend })),
  );
  const count = x.shape.slice(0, -1).reduce((product, extent) => product * extent, 1);
  return [
    () => {
      let total: Tensor | null = gy ? gradients()[0] : null;
      if (gmean) total = plus(total, gmean.multiply(1 / count).broadcastTo(x.shape));
      if (grstd) {
        const r = rstd.value;
        const slope = grstd.multiply(r.multiply(r).multiply(r)).multiply(-1 / count);
        total = plus(total, x.value.subtract(mean.value).multiply(slope));
      }
      return total ?? gradients()[0];
    },
    () => gradients()[1],
    () => gradients()[2],
  ];
}

/** Puts extents of 1 back where a reduction of `shape` over `axes` took them away. */
function restoreAxes(reduced: Tensor, shape: Shape, axes: readonly number[]): Tensor {
  return reduced.reshape(shape.map((extent, axis) => (axes.includes(axis) ? 1 : extent)));
}

function size2d(shape: Shape): readonly [number, number] {
  return [shape[1] as number, shape[2] as number];
}

/** A fused gradient that several thunks share is computed by the first that runs. */
function once<T>(f: () => T): () => T {
  let result: { value: T } | undefined;
  return () => (result ??= { value: f() }).value;
}
