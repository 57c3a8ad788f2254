import { addLanes } from "./reduction";
import { madd } from "./vector";

/** Losses by rows. Exponentials and logarithms are those of float64 in both types. */

/** First position of a label that is not in [0, classes), −1 if there is none. */
export function firstWrongLabel_i32(labels: usize, n: i32, classes: i32): i32 {
  for (let i = 0; i < n; i++) if (<u32>load<i32>(labels + ((<usize>i) << 2)) >= <u32>classes) return i;
  return -1;
}

/** The maximum, NaN if there is one. */
function topOf<T>(x: usize, length: i32): f64 {
  let top: f64 = -Infinity;
  for (let j: usize = 0; j < <usize>length; j++) top = max<f64>(top, <f64>load<T>(x + j * sizeof<T>()));
  return top;
}

/** log Σ exp(x − top) */
function logSum<T>(x: usize, length: i32, top: f64): f64 {
  let sum: f64 = 0;
  for (let j: usize = 0; j < <usize>length; j++) sum += Math.exp(<f64>load<T>(x + j * sizeof<T>()) - top);
  return Math.log(sum);
}

/** Item: a row. x − top is exact where the two are close: only then is the logarithm subtracted. */
function logSoftmax<T>(start: i32, end: i32, x: usize, length: i32, y: usize): void {
  const line = <usize>length * sizeof<T>();
  for (let row: usize = start; row < <usize>end; row++) {
    const from = x + row * line;
    const to = y + row * line;
    const top = topOf<T>(from, length);
    const log = logSum<T>(from, length, top);
    for (let c: usize = 0; c < line; c += sizeof<T>()) store<T>(to + c, <T>(<f64>load<T>(from + c) - top - log));
  }
}

/** Item: a row. `own` and `other` are the target probabilities of the label and of each other class. */
function crossEntropy<T>(
  start: i32,
  end: i32,
  logits: usize,
  labels: usize,
  classes: i32,
  own: f64,
  other: f64,
  losses: usize,
  probabilities: usize,
): void {
  const line = <usize>classes * sizeof<T>();
  for (let row: usize = start; row < <usize>end; row++) {
    const from = logits + row * line;
    const to = probabilities + row * line;
    const label = load<i32>(labels + (row << 2));
    const top = topOf<T>(from, classes);
    const log = logSum<T>(from, classes, top);
    let loss: f64 = 0;
    for (let j = 0; j < classes; j++) {
      const place = <usize>j * sizeof<T>();
      const logp = <f64>load<T>(from + place) - top - log;
      store<T>(to + place, <T>Math.exp(logp));
      const q = j == label ? own : other;
      if (q != 0) loss -= q * logp; // 0 · ∞ would be NaN
    }
    store<T>(losses + row * sizeof<T>(), <T>loss);
  }
}

/** Item: a row. */
function crossEntropyGradient<T>(
  start: i32,
  end: i32,
  probabilities: usize,
  labels: usize,
  gradient: usize,
  classes: i32,
  own: f64,
  other: f64,
  y: usize,
): void {
  const line = <usize>classes * sizeof<T>();
  const vectors = line & ~15;
  const q = v128.splat<T>(<T>other);
  for (let row: usize = start; row < <usize>end; row++) {
    const from = probabilities + row * line;
    const to = y + row * line;
    const g = load<T>(gradient + row * sizeof<T>());
    const factor = v128.splat<T>(g);
    let c: usize = 0;
    for (; c < vectors; c += 16) v128.store(to + c, v128.mul<T>(factor, v128.sub<T>(v128.load(from + c), q)));
    for (; c < line; c += sizeof<T>()) store<T>(to + c, <T>(<f64>g * (<f64>load<T>(from + c) - other)));
    const place = <usize>load<i32>(labels + (row << 2)) * sizeof<T>();
    store<T>(to + place, <T>(<f64>g * (<f64>load<T>(from + place) - own)));
  }
}

/** Elements that are summed in their own type: 64 for each element of two float32 vectors. */
const RUN: usize = 512;

/** Item: a row. */
function squaredError<T>(start: i32, end: i32, prediction: usize, target: usize, length: i32, y: usize): void {
  const line = <usize>length * sizeof<T>();
  const pair: usize = 32;
  for (let row: usize = start; row < <usize>end; row++) {
    let p = prediction + row * line;
    let t = target + row * line;
    const last = p + line;
    let total: f64 = 0;
    while (p + pair <= last) {
      let s0 = v128.splat<T>(<T>0);
      let s1 = s0;
      for (const stop = min(last, p + RUN * sizeof<T>()); p + pair <= stop; p += pair, t += pair) {
        const d0 = v128.sub<T>(v128.load(p), v128.load(t));
        const d1 = v128.sub<T>(v128.load(p, 16), v128.load(t, 16));
        s0 = madd<T>(d0, d0, s0);
        s1 = madd<T>(d1, d1, s1);
      }
      total += addLanes<T, f64>(v128.add<T>(s0, s1));
    }
    for (; p < last; p += sizeof<T>(), t += sizeof<T>()) {
      const d = <f64>load<T>(p) - <f64>load<T>(t);
      total += d * d;
    }
    store<T>(y + row * sizeof<T>(), <T>total);
  }
}

// export logSoftmax_T = logSoftmax<T> for T of f32, f64
// export crossEntropy_T = crossEntropy<T> for T of f32, f64
// export crossEntropyGradient_T = crossEntropyGradient<T> for T of f32, f64
// export squaredError_T = squaredError<T> for T of f32, f64
