import {
  normalQuantile,
  sizeOf,
  windowOutput,
  type Inputs,
  type LabelSmoothing,
  type Outputs,
  type Params,
  type PrimitiveName,
  type Shape,
  type WindowGeometry,
} from "../../src/tensor/index.ts";
import type { HostTensor } from "../samples.ts";
import { philoxWords } from "./philox.ts";

/*
 * What each primitive means: every element of the result as a formula of the operands' elements. As slow and as plain as can
 * be, and written independently of the kernels, which are compared with it.
 */

type Index = readonly number[];

/** All indices of an array, row-major. */
function* indicesOf(shape: Shape): Generator<number[]> {
  const [extent, ...rest] = shape;
  if (extent === undefined) yield [];
  else for (let i = 0; i < extent; i++) for (const tail of indicesOf(rest)) yield [i, ...tail];
}

/** The array whose element at `index` is `f(index)`. */
function build(shape: Shape, f: (...index: number[]) => number, kind: HostTensor["kind"] = "float"): HostTensor {
  return { kind, shape, values: Array.from(indicesOf(shape), (index) => f(...index)) };
}

/** Σ of `f` over all indices of a shape. */
function sum(shape: Shape, f: (...index: number[]) => number): number {
  let total = 0;
  for (const index of indicesOf(shape)) total += f(...index);
  return total;
}

/** The element at an index; 0 outside of the array, as in zero padding. */
function at({ shape, values }: HostTensor, ...index: number[]): number {
  if (index.some((i, axis) => i < 0 || i >= (shape[axis] as number))) return 0;
  return values[index.reduce((place, i, axis) => place * (shape[axis] as number) + i, 0)] as number;
}

/** The element that stands at an index of a larger shape after stretching. */
function stretched(x: HostTensor, index: Index): number {
  const aligned = index.slice(index.length - x.shape.length);
  return at(x, ...aligned.map((i, axis) => (x.shape[axis] === 1 ? 0 : i)));
}

function commonShape(...all: Shape[]): Shape {
  const rank = Math.max(...all.map((shape) => shape.length));
  return Array.from({ length: rank }, (_, axis) => {
    const aligned = all.map((shape) => shape[axis - rank + shape.length] ?? 1);
    return aligned.find((extent) => extent !== 1) ?? 1;
  });
}

const map =
  (f: (x: number) => number) =>
  ([x]: [x: HostTensor]): [HostTensor] => [{ ...x, values: x.values.map(f) }];

const zip =
  (f: (a: number, b: number) => number, kind?: "int") =>
  ([a, b]: [a: HostTensor, b: HostTensor]): [HostTensor] => [
    build(commonShape(a.shape, b.shape), (...index) => f(stretched(a, index), stretched(b, index)), kind ?? a.kind),
  ];

/** The result of a reduction: each group of elements, as a list, by what `f` makes of it. */
function reduce(x: HostTensor, axes: readonly number[], keepDims: boolean, f: (group: number[]) => number): HostTensor {
  const kept = x.shape.map((extent, axis) => (axes.includes(axis) ? 1 : extent));
  const over = x.shape.map((extent, axis) => (axes.includes(axis) ? extent : 1));
  const groups = build(
    kept,
    (...index) => f(Array.from(indicesOf(over), (offset) => at(x, ...index.map((i, axis) => i + (offset[axis] as number))))),
    x.kind,
  );
  return keepDims ? groups : { ...groups, shape: x.shape.filter((_, axis) => !axes.includes(axis)) };
}

/** The image row or column that kernel position `k` of window `o` stands on. */
const rowAt = ({ stride, padding, dilation }: Omit<WindowGeometry, "kernel">, o: number, k: number): number =>
  o * stride[0] + k * dilation[0] - padding.top;
const columnAt = ({ stride, padding, dilation }: Omit<WindowGeometry, "kernel">, o: number, k: number): number =>
  o * stride[1] + k * dilation[1] - padding.left;

function imageShape(x: HostTensor): [n: number, height: number, width: number, channels: number] {
  return x.shape as unknown as [number, number, number, number];
}

/** Kernel positions of a window that stand on the image, as [row, column]. */
function pixelsOf(geometry: WindowGeometry, [height, width]: readonly [number, number], oh: number, ow: number): [number, number][] {
  return Array.from(indicesOf(geometry.kernel), ([kh = 0, kw = 0]): [number, number] => [
    rowAt(geometry, oh, kh),
    columnAt(geometry, ow, kw),
  ]).filter(([h, w]) => h >= 0 && h < height && w >= 0 && w < width);
}

function patches(x: HostTensor, geometry: WindowGeometry): HostTensor {
  const [n, height, width, channels] = imageShape(x);
  const [, kernelWidth] = geometry.kernel;
  const shape = [n, ...windowOutput("definition", [height, width], geometry), sizeOf(geometry.kernel) * channels];
  return build(shape, (i, oh, ow, column) => {
    const c = column % channels;
    const k = Math.floor(column / channels);
    return at(x, i, rowAt(geometry, oh, Math.floor(k / kernelWidth)), columnAt(geometry, ow, k % kernelWidth), c);
  });
}

/** Divisor of an average pooling window. */
function windowCount(params: Params<"averagePool2d">, size: readonly [number, number], oh: number, ow: number): number {
  return params.countPadding ? sizeOf(params.kernel) : pixelsOf(params, size, oh, ow).length;
}

/** ∫₀ˣ 2/√π exp(−t²) dt by Simpson's rule. */
function erf(x: number): number {
  const steps = 2000;
  const h = x / steps;
  const weight = (i: number): number => (i === 0 || i === steps ? 1 : i % 2 === 1 ? 4 : 2);
  return (2 / Math.sqrt(Math.PI)) * (h / 3) * sum([steps + 1], (i) => weight(i) * Math.exp(-((i * h) ** 2)));
}

function target({ smoothing, smoothingKind }: LabelSmoothing, classes: number, label: number, j: number): number {
  const hard = j === label ? 1 : 0;
  if (smoothingKind === "uniform") return (1 - smoothing) * hard + smoothing / classes;
  return j === label ? 1 - smoothing : smoothing / (classes - 1);
}

const logSumExp = (row: number[]): number => Math.log(row.reduce((total, x) => total + Math.exp(x), 0));
const rowOf = (x: HostTensor, i: number): number[] => Array.from({ length: x.shape[1] as number }, (_, j) => at(x, i, j));

/** The uniform number in [0, 1) that element i of a stream is made of, and the width of its step. */
function draw(
  { key, offset, dtype }: Params<"uniform">,
  i: number,
  bits: readonly [single: number, double: number],
): { u: number; step: number } {
  if (dtype === "float32") {
    const word = philoxWords(BigInt(offset + Math.floor(i / 4)), key)[i % 4] as bigint;
    return { u: Number(word >> BigInt(32 - bits[0])), step: 2 ** -bits[0] };
  }
  const words = philoxWords(BigInt(offset + Math.floor(i / 2)), key);
  const [high, low] = [words[2 * (i % 2)], words[2 * (i % 2) + 1]] as [bigint, bigint];
  const lowBits = 26n;
  const highBits = BigInt(bits[1]) - lowBits;
  return { u: Number(((high >> (32n - highBits)) << lowBits) | (low >> (32n - lowBits))), step: 2 ** -bits[1] };
}

const kindOf = (dtype: string): HostTensor["kind"] => (dtype === "int32" ? "int" : "float");

export type Definitions = { readonly [K in PrimitiveName]: (inputs: Inputs<K, HostTensor>, params: Params<K>) => Outputs<K, HostTensor> };

export const definitions: Definitions = {
  fill: (_, { shape, value, dtype }) => [build(shape, () => value, kindOf(dtype))],
  arange: (_, { start, step, length, dtype }) => [build([length], (i) => start + i * step, kindOf(dtype))],
  uniform: (_, params) => {
    const numbers = Array.from({ length: sizeOf(params.shape) }, (__, i) => draw(params, i, [24, 53])).map(({ u, step }) => u * step);
    return [{ kind: "float", shape: params.shape, values: numbers }];
  },
  normal: (_, params) => {
    const numbers = Array.from({ length: sizeOf(params.shape) }, (__, i) => draw(params, i, [32, 52]));
    return [{ kind: "float", shape: params.shape, values: numbers.map(({ u, step }) => normalQuantile((u + 0.5) * step)) }];
  },

  reshape: ([x], { shape }) => [{ ...x, shape }],
  cast: ([x], { dtype }) => [{ ...x, kind: kindOf(dtype), values: dtype === "int32" ? x.values.map(Math.trunc) : x.values }],
  permute: ([x], { axes }) => [
    build(
      axes.map((axis) => x.shape[axis] as number),
      (...index) => at(x, ...x.shape.map((_, axis) => index[axes.indexOf(axis)] as number)),
      x.kind,
    ),
  ],
  broadcastTo: ([x], { shape }) => [build(shape, (...index) => stretched(x, index), x.kind)],
  slice: ([x], { start, size, step }) => [
    build(size, (...index) => at(x, ...index.map((i, axis) => (start[axis] as number) + i * (step[axis] as number))), x.kind),
  ],
  pad: ([x], { before, after, between }) => {
    const shape = x.shape.map(
      (n, axis) => (before[axis] as number) + n + Math.max(0, n - 1) * (between[axis] as number) + (after[axis] as number),
    );
    const source = (i: number, axis: number): number => (i - (before[axis] as number)) / ((between[axis] as number) + 1);
    return [
      build(
        shape,
        (...index) => {
          const from = index.map(source);
          return from.every(Number.isInteger) ? at(x, ...from) : 0;
        },
        x.kind,
      ),
    ];
  },
  concat: (inputs, { axis }) => {
    const [first] = inputs as [HostTensor];
    const total = inputs.reduce((length, x) => length + (x.shape[axis] as number), 0);
    return [
      build(
        first.shape.map((extent, i) => (i === axis ? total : extent)),
        (...index) => {
          let place = index[axis] as number;
          for (const x of inputs) {
            if (place < (x.shape[axis] as number)) return at(x, ...index.map((i, a) => (a === axis ? place : i)));
            place -= x.shape[axis] as number;
          }
          return NaN;
        },
        first.kind,
      ),
    ];
  },
  gather: ([x, indices]) => [
    build([indices.values.length, ...x.shape.slice(1)], (i, ...rest) => at(x, indices.values[i] as number, ...rest), x.kind),
  ],
  scatterAdd: ([x, indices], { rows }) => [
    build(
      [rows, ...x.shape.slice(1)],
      (row, ...rest) => sum([indices.values.length], (i) => (indices.values[i] === row ? at(x, i, ...rest) : 0)),
      x.kind,
    ),
  ],

  negative: map((x) => 0 - x),
  abs: map((x) => (x < 0 ? -x : x)),
  sign: map((x) => Number(x > 0) - Number(x < 0)),
  reciprocal: map((x) => 1 / x),
  sqrt: map((x) => x ** 0.5),
  exp: map(Math.exp),
  log: map(Math.log),
  sin: map(Math.sin),
  cos: map(Math.cos),
  tanh: map((x) => (Math.exp(2 * x) - 1) / (Math.exp(2 * x) + 1)),
  sigmoid: map((x) => 1 / (1 + Math.exp(-x))),
  softplus: map((x) => Math.log(1 + Math.exp(x))),
  erf: map(erf),
  relu: map((x) => (x > 0 ? x : 0)),
  linearCombination: ([x, y], { a, b }) => [{ ...x, values: x.values.map((value, i) => a * value + b * (y.values[i] as number)) }],
  divideByRoot: ([x, square], { scale, rootScale, epsilon }) => [
    { ...x, values: x.values.map((value, i) => (scale * value) / (rootScale * Math.sqrt(square.values[i] as number) + epsilon)) },
  ],
  reluGradient: ([output, gradient]) => [
    { ...gradient, values: gradient.values.map((g, i) => ((output.values[i] as number) > 0 ? g : 0)) },
  ],

  add: zip((a, b) => a + b),
  subtract: zip((a, b) => a - b),
  multiply: zip((a, b) => a * b),
  divide: zip((a, b) => a / b),
  maximum: zip((a, b) => (a > b ? a : b)),
  minimum: zip((a, b) => (a < b ? a : b)),
  power: zip((a, b) => a ** b),
  equal: zip((a, b) => Number(a === b), "int"),
  less: zip((a, b) => Number(a < b), "int"),
  lessEqual: zip((a, b) => Number(a <= b), "int"),
  where: ([condition, a, b]) => [
    build(
      commonShape(condition.shape, a.shape, b.shape),
      (...index) => stretched(stretched(condition, index) === 0 ? b : a, index),
      a.kind,
    ),
  ],

  sum: ([x], { axes, keepDims }) => [reduce(x, axes, keepDims, (group) => group.reduce((total, value) => total + value, 0))],
  max: ([x], { axes, keepDims }) => [reduce(x, axes, keepDims, (group) => Math.max(...group))],
  argmax: ([x], { axis }) => [{ ...reduce(x, [axis], false, (group) => group.indexOf(Math.max(...group))), kind: "int" }],

  matmul: ([a, b], { transposeA, transposeB }) => {
    const last = ({ shape }: HostTensor, flip: boolean): [number, number] => {
      const [rows, columns] = shape.slice(-2) as [number, number];
      return flip ? [columns, rows] : [rows, columns];
    };
    const [[m, k], [, n]] = [last(a, transposeA), last(b, transposeB)];
    const batch = commonShape(a.shape.slice(0, -2), b.shape.slice(0, -2));
    const element = (x: HostTensor, flip: boolean, lead: Index, i: number, j: number): number => {
      const aligned = lead.slice(lead.length - (x.shape.length - 2)).map((p, axis) => (x.shape[axis] === 1 ? 0 : p));
      return at(x, ...aligned, ...(flip ? [j, i] : [i, j]));
    };
    return [
      build([...batch, m, n], (...index) => {
        const [i, j] = index.slice(-2) as [number, number];
        const lead = index.slice(0, -2);
        return sum([k], (p) => element(a, transposeA, lead, i, p) * element(b, transposeB, lead, p, j));
      }),
    ];
  },
  gram: ([x], { scale }) => {
    const [rows, d] = x.shape as [number, number];
    return [build([d, d], (i, j) => scale * sum([rows], (r) => at(x, r, i) * at(x, r, j)))];
  },
  linear: ([x, weight, bias]) => {
    const [out, width] = weight.shape as [number, number];
    return [
      build([...x.shape.slice(0, -1), out], (...index) => {
        const o = index.at(-1) as number;
        const lead = index.slice(0, -1);
        return sum([width], (k) => at(x, ...lead, k) * at(weight, o, k)) + (bias ? at(bias, o) : 0);
      }),
    ];
  },

  // Seven nested loops: image, two of output pixels, output channel; and inside, two of the kernel, and input channel.
  conv2d: ([x, weight, bias], { groups, ...window }) => {
    const [n, height, width] = imageShape(x);
    const [out, kh, kw, perIn] = imageShape(weight);
    const size = windowOutput("definition", [height, width], { ...window, kernel: [kh, kw] });
    return [
      build([n, ...size, out], (i, oh, ow, o) => {
        const group = Math.floor(o / (out / groups));
        const term = (p: number, q: number, c: number): number =>
          at(x, i, rowAt(window, oh, p), columnAt(window, ow, q), group * perIn + c) * at(weight, o, p, q, c);
        return sum([kh, kw, perIn], term) + (bias ? at(bias, o) : 0);
      }),
    ];
  },
  conv2dInputGradient: ([gradient, weight], { groups, inputSize, ...window }) => {
    const [n, outHeight, outWidth, out] = imageShape(gradient);
    const [, kh, kw, perIn] = imageShape(weight);
    const perOut = out / groups;
    return [
      build([n, ...inputSize, perIn * groups], (i, h, w, channel) => {
        const group = Math.floor(channel / perIn);
        return sum([outHeight, outWidth, perOut, kh, kw], (oh, ow, o, p, q) => {
          if (rowAt(window, oh, p) !== h || columnAt(window, ow, q) !== w) return 0;
          return at(gradient, i, oh, ow, group * perOut + o) * at(weight, group * perOut + o, p, q, channel % perIn);
        });
      }),
    ];
  },
  conv2dWeightGradient: ([x, gradient], { groups, kernel, ...window }) => {
    const [n, outHeight, outWidth, out] = imageShape(gradient);
    const perIn = imageShape(x)[3] / groups;
    return [
      build([out, ...kernel, perIn], (o, p, q, c) => {
        const channel = Math.floor(o / (out / groups)) * perIn + c;
        return sum(
          [n, outHeight, outWidth],
          (i, oh, ow) => at(gradient, i, oh, ow, o) * at(x, i, rowAt(window, oh, p), columnAt(window, ow, q), channel),
        );
      }),
    ];
  },
  im2col: ([x], geometry) => [patches(x, geometry)],
  col2im: ([columns], { inputSize, ...geometry }) => {
    const [n, outHeight, outWidth, d] = imageShape(columns);
    const [kh, kw] = geometry.kernel;
    const channels = d / (kh * kw);
    return [
      build([n, ...inputSize, channels], (i, h, w, c) =>
        sum([outHeight, outWidth, kh, kw], (oh, ow, p, q) =>
          rowAt(geometry, oh, p) === h && columnAt(geometry, ow, q) === w ? at(columns, i, oh, ow, (p * kw + q) * channels + c) : 0,
        ),
      ),
    ];
  },
  patchCovariance: ([x], { bias, scale, ...geometry }) => {
    const rows = patches(x, geometry);
    const [n, outHeight, outWidth, d] = imageShape(rows);
    const element = (i: number, oh: number, ow: number, j: number): number => (j < d ? at(rows, i, oh, ow, j) : 1);
    const side = bias ? d + 1 : d;
    return [
      build([side, side], (p, q) => scale * sum([n, outHeight, outWidth], (i, oh, ow) => element(i, oh, ow, p) * element(i, oh, ow, q))),
    ];
  },

  maxPool2d: ([x], geometry) => {
    const [n, height, width, channels] = imageShape(x);
    const shape = [n, ...windowOutput("definition", [height, width], geometry), channels];
    const best = (i: number, oh: number, ow: number, c: number): [number, number] =>
      pixelsOf(geometry, [height, width], oh, ow).reduce((top, pixel) => (at(x, i, ...pixel, c) > at(x, i, ...top, c) ? pixel : top));
    return [
      build(shape, (i, oh, ow, c) => at(x, i, ...best(i, oh, ow, c), c)),
      build(
        shape,
        (i, oh, ow, c) => {
          const [h, w] = best(i, oh, ow, c);
          return h * width + w;
        },
        "int",
      ),
    ];
  },
  maxPool2dScatter: ([y, indices], { inputSize }) => {
    const [n, outHeight, outWidth, channels] = imageShape(y);
    return [
      build([n, ...inputSize, channels], (i, h, w, c) =>
        sum([outHeight, outWidth], (oh, ow) => (at(indices, i, oh, ow, c) === h * inputSize[1] + w ? at(y, i, oh, ow, c) : 0)),
      ),
    ];
  },
  maxPool2dGather: ([x, indices]) => {
    const width = imageShape(x)[2];
    return [
      build(indices.shape, (i, oh, ow, c) => {
        const pixel = at(indices, i, oh, ow, c);
        return at(x, i, Math.floor(pixel / width), pixel % width, c);
      }),
    ];
  },
  averagePool2d: ([x], params) => {
    const [n, height, width, channels] = imageShape(x);
    return [
      build([n, ...windowOutput("definition", [height, width], params), channels], (i, oh, ow, c) => {
        const pixels = pixelsOf(params, [height, width], oh, ow);
        return pixels.reduce((total, pixel) => total + at(x, i, ...pixel, c), 0) / windowCount(params, [height, width], oh, ow);
      }),
    ];
  },
  averagePool2dGradient: ([gradient], { inputSize, ...params }) => {
    const [n, outHeight, outWidth, channels] = imageShape(gradient);
    return [
      build([n, ...inputSize, channels], (i, h, w, c) =>
        sum([outHeight, outWidth], (oh, ow) => {
          const touches = pixelsOf(params, inputSize, oh, ow).some(([p, q]) => p === h && q === w);
          return touches ? at(gradient, i, oh, ow, c) / windowCount(params, inputSize, oh, ow) : 0;
        }),
      ),
    ];
  },

  batchNorm: ([x, scale, shift], { epsilon }) => {
    const channels = x.shape.at(-1) as number;
    const columns = Array.from({ length: channels }, (_, c) => x.values.filter((__, i) => i % channels === c));
    const average = (list: number[]): number => list.reduce((total, value) => total + value, 0) / list.length;
    const means = columns.map(average);
    const rstds = columns.map((column, c) => 1 / Math.sqrt(average(column.map((value) => (value - (means[c] as number)) ** 2)) + epsilon));
    return [
      build(x.shape, (...index) => {
        const c = index.at(-1) as number;
        return (at(x, ...index) - (means[c] as number)) * (rstds[c] as number) * at(scale, c) + at(shift, c);
      }),
      { kind: "float", shape: [channels], values: means },
      { kind: "float", shape: [channels], values: rstds },
    ];
  },
  batchNormGradient: ([x, scale, mean, rstd, gradient]) => {
    const channels = x.shape.at(-1) as number;
    const count = x.values.length / channels;
    const normal = (i: number): number => ((x.values[i] as number) - at(mean, i % channels)) * at(rstd, i % channels);
    const overChannel = (c: number, f: (i: number) => number): number => sum([count], (row) => f(row * channels + c));
    const dots = Array.from({ length: channels }, (_, c) => overChannel(c, (i) => (gradient.values[i] as number) * normal(i)));
    const sums = Array.from({ length: channels }, (_, c) => overChannel(c, (i) => gradient.values[i] as number));
    const slope = (g: number, i: number): number => {
      const c = i % channels;
      return at(scale, c) * at(rstd, c) * (g - (sums[c] as number) / count - (normal(i) * (dots[c] as number)) / count);
    };
    return [
      { kind: "float", shape: x.shape, values: gradient.values.map(slope) },
      { kind: "float", shape: [channels], values: dots },
      { kind: "float", shape: [channels], values: sums },
    ];
  },

  normalize: ([x, mean, gain, shift], { relu }) => {
    const channels = mean.values.length;
    const y = x.values.map((value, i) => (value - at(mean, i % channels)) * at(gain, i % channels) + at(shift, i % channels));
    return [{ ...x, values: relu ? y.map((value) => Math.max(value, 0)) : y }];
  },
  batchNormRelu: (inputs, params) => {
    const [y, mean, rstd] = definitions.batchNorm(inputs, params);
    return [{ ...y, values: y.values.map((value) => Math.max(value, 0)) }, mean, rstd];
  },
  batchNormReluGradient: ([x, scale, mean, rstd, output, gradient]) =>
    definitions.batchNormGradient([x, scale, mean, rstd, definitions.reluGradient([output, gradient], {})[0]], {}),

  logSoftmax: ([x]) => {
    const classes = x.shape.at(-1) as number;
    const row = (lead: Index): number[] => Array.from({ length: classes }, (_, j) => at(x, ...lead, j));
    return [build(x.shape, (...index) => at(x, ...index) - logSumExp(row(index.slice(0, -1))))];
  },
  softmaxCrossEntropy: ([logits, labels], smoothing) => {
    const [n, classes] = logits.shape as [number, number];
    const logp = (i: number, j: number): number => at(logits, i, j) - logSumExp(rowOf(logits, i));
    return [
      build([n], (i) => -sum([classes], (j) => target(smoothing, classes, at(labels, i), j) * logp(i, j))),
      build([n, classes], (i, j) => Math.exp(logp(i, j))),
    ];
  },
  softmaxCrossEntropyGradient: ([probabilities, labels, gradient], smoothing) => {
    const [n, classes] = probabilities.shape as [number, number];
    return [build([n, classes], (i, j) => at(gradient, i) * (at(probabilities, i, j) - target(smoothing, classes, at(labels, i), j)))];
  },
  squaredError: ([prediction, wanted]) => [
    build([prediction.shape[0] as number], (i) =>
      sum(prediction.shape.slice(1), (...rest) => (at(prediction, i, ...rest) - at(wanted, i, ...rest)) ** 2),
    ),
  ],
};
