import { NumericalError, tidy, type Tensor } from "../tensor/index.ts";
import { factorsOfPower, powerOfTwoNear, scaleByPower } from "./scaling.ts";
import { readFloats } from "./transfer.ts";
import { dot, largestMagnitude } from "./vectors.ts";

/** √Σx², scaled so that no square leaves the range of float64. */
export function frobeniusNormHost(x: Float64Array): number {
  const exponent = powerOfTwoNear(largestMagnitude(x));
  const scaled = scaleByPower(x, -exponent);
  return Math.sqrt(dot(scaled, 0, scaled, 0, scaled.length)) * 2 ** exponent;
}

/**
 * The Frobenius norm √Σ aᵢⱼ² of a tensor of any shape, in float64.
 * @throws DTypeError for int32, NumericalError for an entry that is not finite or a norm beyond the range of float64.
 */
export async function frobeniusNorm(a: Tensor): Promise<number> {
  const norm = frobeniusNormHost(await readFloats("frobeniusNorm", a));
  if (norm === Infinity) throw new NumericalError("frobeniusNorm: the norm is beyond the range of float64; scale the input");
  return norm;
}

/** The same for a tensor whose entries are finite, on its own device; Infinity beyond the range of float64. */
export async function normOf(a: Tensor): Promise<number> {
  const exponent = a.dtype === "float32" ? 0 : powerOfTwoNear(await largestEntry(a)); // squares of float32 numbers are in range
  const [first, second] = factorsOfPower(-exponent);
  using squares = tidy(() => {
    const wide = a.cast("float64");
    return (exponent === 0 ? wide : wide.multiply(first).multiply(second)).square().sum();
  });
  return Math.sqrt(await squares.item()) * 2 ** exponent;
}

async function largestEntry(a: Tensor): Promise<number> {
  if (a.size === 0) return 0;
  using largest = tidy(() => a.abs().max());
  return await largest.item();
}
