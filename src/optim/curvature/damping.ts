/**
 * How λ becomes a damping of the Kronecker product Γ ⊗ Ω:
 * - `relative`: λ · max eig Γ · max eig Ω is added to the product. Does not change with the scale of either factor or of the loss
 *   (the paper's code);
 * - `absolute`: λ itself is added to the product;
 * - `factored`: each factor gets the root, (Γ + √λ I) ⊗ (Ω + √λ I);
 * - `pi`: each factor gets its share of the root, (Γ + √λ/π I) ⊗ (Ω + π√λ I), with π balancing their mean eigenvalues (Martens and
 *   Grosse 2015, section 6.3).
 */
export type DampingKind = "relative" | "absolute" | "factored" | "pi";

/** Shares of the root of λ for the two factors, from their traces and widths; π = 1 where a trace is 0 or not finite. */
export function piShares(
  lambda: number,
  input: { readonly trace: number; readonly width: number },
  output: { readonly trace: number; readonly width: number },
): { input: number; output: number } {
  const ratio = input.trace / input.width / (output.trace / output.width);
  const pi = Number.isFinite(ratio) && ratio > 0 ? Math.sqrt(ratio) : 1;
  return { input: pi * Math.sqrt(lambda), output: Math.sqrt(lambda) / pi };
}
