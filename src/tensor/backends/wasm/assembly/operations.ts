import {
  copySign,
  cosine,
  erf,
  erf_f32x4,
  exp_f32x4,
  log_f32x4,
  sigmoid,
  sigmoid_f32x4,
  sine,
  softplus,
  softplus_f32x4,
  tanh_f32x4,
} from "./transcendental";

/*
 * An operation is a class whose method `of` takes vectors to a vector; elementwise.ts has the loops, generic functions over the
 * class. Methods are called on a null reference, which they never look at, and are inlined: a loop is compiled for each operation.
 */

// ── vectors from one element at a time ────────────────────────────────────────────────────────────────────────────────────

@inline
function pair(a: f64, b: f64): v128 {
  return v128.replace_lane<f64>(v128.splat<f64>(a), 1, b);
}

@inline
function four<T>(a: T, b: T, c: T, d: T): v128 {
  return v128.replace_lane<T>(v128.replace_lane<T>(v128.replace_lane<T>(v128.splat<T>(a), 1, b), 2, c), 3, d);
}

// ── operations of one operand ─────────────────────────────────────────────────────────────────────────────────────────────

export class Negative<T> {
  @inline of(x: v128): v128 {
    return v128.neg<T>(x);
  }
}
export class Abs<T> {
  @inline of(x: v128): v128 {
    return v128.abs<T>(x);
  }
}
export class Sign<T> {
  @inline of(x: v128): v128 {
    const zero = v128.splat<T>(<T>0);
    if (!isFloat<T>()) return v128.sub<T>(v128.lt<T>(x, zero), v128.gt<T>(x, zero)); // true is −1
    // ±1 unless x is ±0 or NaN: those stay.
    const one = copySign<T>(v128.splat<T>(<T>1), x);
    return v128.bitselect(one, x, v128.gt<T>(v128.abs<T>(x), zero));
  }
}
export class Reciprocal<T> {
  @inline of(x: v128): v128 {
    return v128.div<T>(v128.splat<T>(<T>1), x);
  }
}
export class Sqrt<T> {
  @inline of(x: v128): v128 {
    return v128.sqrt<T>(x);
  }
}
export class Exp<T> {
  @inline of(x: v128): v128 {
    if (sizeof<T>() == 4) return exp_f32x4(x);
    return pair(Math.exp(f64x2.extract_lane(x, 0)), Math.exp(f64x2.extract_lane(x, 1)));
  }
}
export class Log<T> {
  @inline of(x: v128): v128 {
    if (sizeof<T>() == 4) return log_f32x4(x);
    return pair(Math.log(f64x2.extract_lane(x, 0)), Math.log(f64x2.extract_lane(x, 1)));
  }
}
export class Sin<T> {
  @inline of(x: v128): v128 {
    if (sizeof<T>() == 4) {
      return four<f32>(
        <f32>sine(f32x4.extract_lane(x, 0)),
        <f32>sine(f32x4.extract_lane(x, 1)),
        <f32>sine(f32x4.extract_lane(x, 2)),
        <f32>sine(f32x4.extract_lane(x, 3)),
      );
    }
    return pair(sine(f64x2.extract_lane(x, 0)), sine(f64x2.extract_lane(x, 1)));
  }
}
export class Cos<T> {
  @inline of(x: v128): v128 {
    if (sizeof<T>() == 4) {
      return four<f32>(
        <f32>cosine(f32x4.extract_lane(x, 0)),
        <f32>cosine(f32x4.extract_lane(x, 1)),
        <f32>cosine(f32x4.extract_lane(x, 2)),
        <f32>cosine(f32x4.extract_lane(x, 3)),
      );
    }
    return pair(cosine(f64x2.extract_lane(x, 0)), cosine(f64x2.extract_lane(x, 1)));
  }
}
export class Tanh<T> {
  @inline of(x: v128): v128 {
    if (sizeof<T>() == 4) return tanh_f32x4(x);
    return pair(Math.tanh(f64x2.extract_lane(x, 0)), Math.tanh(f64x2.extract_lane(x, 1)));
  }
}
export class Sigmoid<T> {
  @inline of(x: v128): v128 {
    if (sizeof<T>() == 4) return sigmoid_f32x4(x);
    return pair(sigmoid(f64x2.extract_lane(x, 0)), sigmoid(f64x2.extract_lane(x, 1)));
  }
}
export class Softplus<T> {
  @inline of(x: v128): v128 {
    if (sizeof<T>() == 4) return softplus_f32x4(x);
    return pair(softplus(f64x2.extract_lane(x, 0)), softplus(f64x2.extract_lane(x, 1)));
  }
}
export class Erf<T> {
  @inline of(x: v128): v128 {
    if (sizeof<T>() == 4) return erf_f32x4(x);
    return pair(erf(f64x2.extract_lane(x, 0)), erf(f64x2.extract_lane(x, 1)));
  }
}
export class Relu<T> {
  @inline of(x: v128): v128 {
    return v128.andnot(x, v128.lt<T>(x, v128.splat<T>(<T>0))); // lets NaN through
  }
}

// ── operations of two operands ────────────────────────────────────────────────────────────────────────────────────────────

export class ReluGradient<T> {
  @inline of(output: v128, gradient: v128): v128 {
    return v128.and(gradient, v128.gt<T>(output, v128.splat<T>(<T>0)));
  }
}
export class Add<T> {
  @inline of(a: v128, b: v128): v128 {
    return v128.add<T>(a, b);
  }
}
export class Subtract<T> {
  @inline of(a: v128, b: v128): v128 {
    return v128.sub<T>(a, b);
  }
}
export class Multiply<T> {
  @inline of(a: v128, b: v128): v128 {
    return v128.mul<T>(a, b);
  }
}
export class Divide<T> {
  @inline of(a: v128, b: v128): v128 {
    return v128.div<T>(a, b);
  }
}
export class Maximum<T> {
  @inline of(a: v128, b: v128): v128 {
    return v128.max<T>(a, b); // NaN if either is; +0 of two zeros, if either is
  }
}
export class Minimum<T> {
  @inline of(a: v128, b: v128): v128 {
    return v128.min<T>(a, b);
  }
}
export class Power<T> {
  @inline of(a: v128, b: v128): v128 {
    if (v128.all_true<i32>(v128.eq<T>(b, v128.splat<T>(<T>2)))) return v128.mul<T>(a, a);
    if (sizeof<T>() == 4) {
      return four<f32>(
        Mathf.pow(f32x4.extract_lane(a, 0), f32x4.extract_lane(b, 0)),
        Mathf.pow(f32x4.extract_lane(a, 1), f32x4.extract_lane(b, 1)),
        Mathf.pow(f32x4.extract_lane(a, 2), f32x4.extract_lane(b, 2)),
        Mathf.pow(f32x4.extract_lane(a, 3), f32x4.extract_lane(b, 3)),
      );
    }
    return pair(Math.pow(f64x2.extract_lane(a, 0), f64x2.extract_lane(b, 0)), Math.pow(f64x2.extract_lane(a, 1), f64x2.extract_lane(b, 1)));
  }
}

/** int32 0 or 1 from the mask of a comparison of T. */
@inline
function truth<T>(mask: v128): v128 {
  const narrow = sizeof<T>() == 8 ? v128.shuffle<i32>(mask, mask, 0, 2, 0, 2) : mask;
  return v128.and(narrow, v128.splat<i32>(1));
}

export class Equal<T> {
  @inline of(a: v128, b: v128): v128 {
    return truth<T>(v128.eq<T>(a, b));
  }
}
export class Less<T> {
  @inline of(a: v128, b: v128): v128 {
    return truth<T>(v128.lt<T>(a, b));
  }
}
export class LessEqual<T> {
  @inline of(a: v128, b: v128): v128 {
    return truth<T>(v128.le<T>(a, b));
  }
}

// ── casts ─────────────────────────────────────────────────────────────────────────────────────────────────────────────────

export class Same {
  @inline of(x: v128): v128 {
    return x;
  }
}
export class Widen {
  @inline of(x: v128): v128 {
    return f64x2.promote_low_f32x4(x);
  }
}
export class Narrow {
  @inline of(x: v128): v128 {
    return f32x4.demote_f64x2_zero(x);
  }
}
export class IntegerToSingle {
  @inline of(x: v128): v128 {
    return f32x4.convert_i32x4_s(x);
  }
}
export class IntegerToDouble {
  @inline of(x: v128): v128 {
    return f64x2.convert_low_i32x4_s(x);
  }
}
export class SingleToInteger {
  @inline of(x: v128): v128 {
    if (v128.all_true<i32>(v128.lt<f32>(v128.abs<f32>(x), v128.splat<f32>(2147483648)))) return i32x4.trunc_sat_f32x4_s(x);
    return four<i32>(
      toInt32(f32x4.extract_lane(x, 0)),
      toInt32(f32x4.extract_lane(x, 1)),
      toInt32(f32x4.extract_lane(x, 2)),
      toInt32(f32x4.extract_lane(x, 3)),
    );
  }
}
export class DoubleToInteger {
  @inline of(x: v128): v128 {
    if (v128.all_true<i64>(v128.lt<f64>(v128.abs<f64>(x), v128.splat<f64>(2147483648)))) return i32x4.trunc_sat_f64x2_s_zero(x);
    return four<i32>(toInt32(f64x2.extract_lane(x, 0)), toInt32(f64x2.extract_lane(x, 1)), 0, 0);
  }
}

/** JavaScript's conversion: towards zero, then modulo 2³²; 0 for NaN and the infinities. */
function toInt32(x: f64): i32 {
  if (abs(x) < 9223372036854775808.0) return <i32>(<i64>x);
  // x = ± mantissa · 2^shift with shift ≥ 11: the mantissa's low bits are the last that can matter.
  const bits = reinterpret<u64>(x);
  const shift = <i32>((bits >> 52) & 0x7ff) - 1075;
  if (shift >= 32) return 0; // infinities and NaN too
  const magnitude = <i32>((<u32>bits) << shift);
  return <i64>bits < 0 ? -magnitude : magnitude;
}
