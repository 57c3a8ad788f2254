import ndarray from "ndarray";
import { elementwise } from "./elementwise.ts";
import type { Kernel, Kernels } from "./kernel.ts";

// Two passes, mean before variance: E[x²] − E[x]² cancels when the mean is large.
const batchNorm: Kernel<"batchNorm"> = ([x, scale, shift], { epsilon }, [y, mean, rstd]) => {
  const channels = mean.data.length;
  const count = x.data.length / channels;
  const [m, v] = [new Float64Array(channels), new Float64Array(channels)];
  const [from, to] = [x.data, y.data];
  for (let i = 0; i < from.length;) for (let c = 0; c < channels; c++) m[c] = m[c]! + from[i++]!;
  for (let c = 0; c < channels; c++) m[c] = m[c]! / count;
  for (let i = 0; i < from.length;) {
    for (let c = 0; c < channels; c++) {
      const d = from[i++]! - m[c]!;
      v[c] = v[c]! + d * d;
    }
  }
  const [gain, offset] = [new Float64Array(channels), new Float64Array(channels)];
  for (let c = 0; c < channels; c++) {
    mean.data[c] = m[c]!;
    const r = 1 / Math.sqrt(v[c]! / count + epsilon);
    rstd.data[c] = r;
    gain[c] = scale.data[c]! * r;
    offset[c] = shift.data[c]!;
  }
  for (let i = 0; i < from.length;) {
    for (let c = 0; c < channels; c++, i++) to[i] = (from[i]! - m[c]!) * gain[c]! + offset[c]!;
  }
};

// With x̂ = (x − mean) rstd:  ∂γ = Σ g x̂,  ∂β = Σ g,  ∂x = γ rstd (g − ∂β/count − x̂ ∂γ/count)
const batchNormGradient: Kernel<"batchNormGradient"> = ([x, scale, mean, rstd, gradient], _, [gx, gscale, gshift]) => {
  const channels = mean.data.length;
  const count = x.data.length / channels;
  const [m, r] = [Float64Array.from(mean.data), Float64Array.from(rstd.data)];
  const [dots, sums] = [new Float64Array(channels), new Float64Array(channels)];
  const [from, g, to] = [x.data, gradient.data, gx.data];
  for (let i = 0; i < from.length;) {
    for (let c = 0; c < channels; c++, i++) {
      sums[c] = sums[c]! + g[i]!;
      dots[c] = dots[c]! + g[i]! * (from[i]! - m[c]!) * r[c]!;
    }
  }
  gscale.data.set(dots);
  gshift.data.set(sums);
  const [gain, pull] = [new Float64Array(channels), new Float64Array(channels)];
  for (let c = 0; c < channels; c++) {
    gain[c] = scale.data[c]! * r[c]!;
    pull[c] = (r[c]! * dots[c]!) / count;
    sums[c] = sums[c]! / count;
  }
  for (let i = 0; i < from.length;) {
    for (let c = 0; c < channels; c++, i++) to[i] = gain[c]! * (g[i]! - sums[c]! - (from[i]! - m[c]!) * pull[c]!);
  }
};

export const normalization: Kernels<"normalize" | "batchNorm" | "batchNormGradient" | "batchNormRelu" | "batchNormReluGradient"> = {
  normalize: ([x, mean, gain, shift], { relu }, [y]) => {
    const channels = mean.data.length;
    for (let i = 0; i < y.data.length; i++) {
      const c = i % channels;
      const value = (x.data[i]! - mean.data[c]!) * gain.data[c]! + shift.data[c]!;
      y.data[i] = relu && value < 0 ? 0 : value; // lets NaN through
    }
  },
  batchNorm,
  batchNormGradient,
  batchNormRelu: (inputs, params, outputs) => {
    batchNorm(inputs, params, outputs);
    elementwise.relu([outputs[0]], {}, [outputs[0]]);
  },
  batchNormReluGradient: ([x, scale, mean, rstd, output, gradient], _, outputs) => {
    const masked = ndarray(gradient.data.slice(), gradient.shape);
    elementwise.reluGradient([output, gradient], {}, [masked]);
    batchNormGradient([x, scale, mean, rstd, masked], {}, outputs);
  },
};
