/**
 * How λ becomes a damping of the Kronecker product Γ ⊗ Ω:
 * - `relative`: λ · max eig Γ · max eig Ω is added to the product. Does not change with the scale of either factor or of the loss
 *   (the paper's code);
 * - `absolute`: λ itself is added to the product;
 * - `factored`: each factor gets the root, (Γ + √λ I) ⊗ (Ω + √λ I);
 * - `pi`: each factor gets its share of the root, (Γ + √λ/π I) ⊗ (Ω + π√λ I), with π balancing their mean eigenvalues (Martens and
 *   Grosse 2015, section 6.3);
 * - `factor-relative`: each factor gets λ times its own largest eigenvalue, (Γ + λ max eig Γ · I) ⊗ (Ω + λ max eig Ω · I), which the
 *   randomized methods call `relative`: where both factors are small it damps by λ² where `relative` damps by λ.
 */
export const dampingKinds = ["relative", "absolute", "factored", "pi", "factor-relative"] as const;
export type DampingKind = (typeof dampingKinds)[number];

/** The kinds that damp one factor at a time. */
export type DampingOfFactors = Exclude<DampingKind, "relative" | "absolute">;

/** What the damping of a factor depends on. */
export interface FactorExtent {
  readonly trace: number;
  readonly width: number;
  /** The largest eigenvalue. */
  readonly largest: number;
}

/** What is added to the diagonal of each factor. */
export function shares(
  kind: DampingOfFactors,
  lambda: number,
  { input, output }: Readonly<Record<"input" | "output", FactorExtent>>,
): { input: number; output: number } {
  switch (kind) {
    case "factored":
      return { input: Math.sqrt(lambda), output: Math.sqrt(lambda) };
    case "pi":
      return piShares(lambda, input, output);
    case "factor-relative":
      return { input: lambda * input.largest, output: lambda * output.largest };
    default:
      return kind satisfies never;
  }
}

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
