import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { eighHost, kronHost } from "../../../src/linalg/index.ts";
import { dampingKinds, EkFac, Kfac, RsKfac, Seng, type DampingKind, type KfacOptions, type Optimizer } from "../../../src/optim/index.ts";
import type { Parameter } from "../../../src/nn/index.ts";
import { normalMatrix, orthogonal, seeds } from "../../arbitraries/matrices.ts";
import { eachBackend } from "../../backends.ts";
import { build, matrix, minus, norm, product, scaled, type Matrix } from "../../linalg/dense.ts";
import { damped, direction, inner, layerCases, layerOf, randomLayer, vec, type OneLayer } from "./layer.ts";
import { lowRankMethods, positiveMethods } from "./methods.ts";

const plain = { learningRate: 1, clip: false } as const;
const lambdas = fc.double({ min: 1e-3, max: 10, noNaN: true });
const kfac =
  (options: Partial<KfacOptions>) =>
  (parameters: Parameter[]): Optimizer =>
    new Kfac(parameters, { ...plain, ...options });

/** The two are one matrix, to rounding times the condition of the system that gave them. */
function expectEqual(actual: Matrix, expected: Matrix, relative = 1e-10): void {
  expect(norm(minus(actual, expected))).toBeLessThanOrEqual(relative * norm(expected));
}

const largestEigenvalue = (a: Matrix): number => eighHost(Float64Array.from(a.data), a.rows).values.at(-1) as number;

/** Ω = ω I and Γ = γ I: as many samples as the wider side has rows, and orthogonal columns. */
function isotropic(dIn: number, dOut: number, omega: number, gamma: number, seed: number): OneLayer {
  const n = Math.max(dIn, dOut);
  const rows = (d: number, variance: number, from: number): Matrix => {
    const q = orthogonal(n, from);
    return build(n, d, (i, j) => Math.sqrt(n * variance) * (q.data[i * n + j] as number));
  };
  return layerOf(rows(dIn, omega, seed + 1), rows(dOut, gamma, seed + 2), { n, bias: false });
}

eachBackend(() => {
  describe("as the damping grows, the direction tends to a multiple of the gradient:", () => {
    const lambda = 1e9;
    /** λ P, with the scale that a kind of damping gives λ. */
    const scales: Record<DampingKind, (layer: OneLayer) => number> = {
      absolute: () => lambda,
      factored: () => lambda,
      pi: () => lambda,
      relative: ({ omega, gamma }) => lambda * largestEigenvalue(omega) * largestEigenvalue(gamma),
      "factor-relative": ({ omega, gamma }) => lambda ** 2 * largestEigenvalue(omega) * largestEigenvalue(gamma),
    };
    const cases: [name: string, DampingKind, (parameters: Parameter[]) => Optimizer][] = [
      ...dampingKinds.map((dampingKind): (typeof cases)[number] => [
        `K-FAC by eigenpairs, ${dampingKind}`,
        dampingKind,
        kfac({ damping: lambda, dampingKind, inverse: "eigh" }),
      ]),
      ...(["factored", "pi", "factor-relative"] as const).map((dampingKind): (typeof cases)[number] => [
        `K-FAC by Cholesky, ${dampingKind}`,
        dampingKind,
        kfac({ damping: lambda, dampingKind, inverse: "cholesky" }),
      ]),
      ["EK-FAC, absolute", "absolute", (parameters) => new EkFac(parameters, { ...plain, damping: lambda, dampingKind: "absolute" })],
      ...lowRankMethods.flatMap(([name, Method]) =>
        (["factored", "pi"] as const).map((dampingKind): (typeof cases)[number] => [
          `${name}, ${dampingKind}`,
          dampingKind,
          (parameters) => new Method(parameters, { ...plain, damping: lambda, dampingKind, rank: 2, oversampling: 1, exactUpTo: 0 }),
        ]),
      ),
      ...lowRankMethods.map(([name, Method]): (typeof cases)[number] => [
        `${name}, relative`,
        "factor-relative",
        // All eigenpairs: what λ is relative to is the largest eigenvalue that the method has found.
        (parameters) => new Method(parameters, { ...plain, damping: lambda, rank: 100 }),
      ]),
      ...(
        [
          ["SENG", { columns: Infinity }],
          ["SENG by sketched entries", { columns: 2, scaling: "paper" }],
          ["SENG by sketched factors", { columns: 2, explicitUpTo: 0, scaling: "paper", backProjection: "paper" }],
        ] as const
      ).map(([name, settings]): (typeof cases)[number] => [
        name,
        "absolute",
        (parameters) => new Seng(parameters, { ...plain, momentum: 0, damping: lambda, ...settings }),
      ]),
    ];
    it.each(cases)("%s: λP → J", async (_, kind, make) => {
      await fc.assert(
        fc.asyncProperty(layerCases, async (layerCase) => {
          const layer = randomLayer(layerCase);
          if (norm(layer.gradient) === 0) return;
          const limit = scaled(await direction(layer, make), scales[kind](layer));
          // √λ is what each factor gets, so that the next term is of order 1/√λ.
          expectEqual(limit, layer.gradient, kind === "factored" || kind === "pi" ? 3e-3 : 1e-6);
        }),
        { numRuns: 8 },
      );
    });
  });

  describe("where both factors are the identity, the direction is", () => {
    const cases = fc.record({ dIn: fc.integer({ min: 1, max: 5 }), dOut: fc.integer({ min: 1, max: 5 }), seed: seeds });
    const methods: [
      name: string,
      formula: string,
      factor: (lambda: number) => number,
      make: (lambda: number) => (p: Parameter[]) => Optimizer,
    ][] = [
      ["K-FAC, absolute damping", "J / (1 + λ)", (l) => 1 / (1 + l), (damping) => kfac({ damping, dampingKind: "absolute" })],
      ["K-FAC, relative damping", "J / (1 + λ)", (l) => 1 / (1 + l), (damping) => kfac({ damping, dampingKind: "relative" })],
      [
        "K-FAC, factored damping",
        "J / (1 + √λ)²",
        (l) => (1 + Math.sqrt(l)) ** -2,
        (damping) => kfac({ damping, dampingKind: "factored", inverse: "eigh" }),
      ],
      [
        "K-FAC by Cholesky, π damping",
        "J / (1 + √λ)²",
        (l) => (1 + Math.sqrt(l)) ** -2,
        (damping) => kfac({ damping, dampingKind: "pi", inverse: "cholesky" }),
      ],
      ["K-FAC by its defaults", "J / (1 + λ)²", (l) => (1 + l) ** -2, (damping) => kfac({ damping })],
      ...lowRankMethods.map(([name, Method]): (typeof methods)[number] => [
        `${name}, relative damping`,
        "J / (1 + λ)²",
        (l) => (1 + l) ** -2,
        (damping) => (parameters) => new Method(parameters, { ...plain, damping, rank: 2, oversampling: 2, exactUpTo: 0 }),
      ]),
    ];
    it.each(methods)("of %s: %s", async (_, __, factor, make) => {
      await fc.assert(
        fc.asyncProperty(cases, lambdas, async ({ dIn, dOut, seed }, lambda) => {
          const layer = isotropic(dIn, dOut, 1, 1, seed);
          expectEqual(await direction(layer, make(lambda)), scaled(layer.gradient, factor(lambda)), 1e-9);
        }),
        { numRuns: 10 },
      );
    });
  });

  describe("the direction goes downhill, ⟨P, J⟩ > 0, for every damping and layer:", () => {
    it.each(positiveMethods)("%s", async (_, make) => {
      await fc.assert(
        fc.asyncProperty(layerCases, lambdas, async (layerCase, damping) => {
          const layer = randomLayer(layerCase);
          const p = await direction(layer, (parameters) => make(parameters, { ...plain, damping }));
          expect(inner(p, layer.gradient)).toBeGreaterThan(0);
        }),
        { numRuns: 12 },
      );
    });
  });

  describe("with all eigenpairs, a low-rank method", () => {
    it.each(lowRankMethods)("%s solves (Γ + λγ I) P (Ω + λω I) = J, ω and γ the largest eigenvalues", async (_, Method) => {
      await fc.assert(
        fc.asyncProperty(layerCases, fc.double({ min: 0.01, max: 1, noNaN: true }), async (layerCase, damping) => {
          const layer = randomLayer(layerCase);
          for (const thin of [false, true]) {
            const p = await direction(layer, (parameters) => new Method(parameters, { ...plain, damping, rank: 100, thin }));
            const [omega, gamma] = [layer.omega, layer.gamma].map((factor) => damped(factor, damping * largestEigenvalue(factor))) as [
              Matrix,
              Matrix,
            ];
            expectEqual(product(gamma, p, omega), layer.gradient, 1e-9);
          }
        }),
        { numRuns: 12 },
      );
    });

    it.each(["eigh", "cholesky"] as const)("is exact K-FAC by %s whose damping is relative to each factor", async (inverse) => {
      await fc.assert(
        fc.asyncProperty(layerCases, fc.double({ min: 0.01, max: 1, noNaN: true }), async (layerCase, damping) => {
          const layer = randomLayer(layerCase);
          const exact = await direction(layer, kfac({ damping, dampingKind: "factor-relative", inverse }));
          const p = await direction(layer, (parameters) => new RsKfac(parameters, { ...plain, damping, rank: 100 }));
          expectEqual(exact, p, 1e-9);
        }),
        { numRuns: 12 },
      );
    });

    it("is not K-FAC with the same λ, whose damping is that of the product", async () => {
      const layer = randomLayer({ n: 6, positions: 1, dIn: 4, dOut: 3, bias: true, seed: 1 });
      const exact = await direction(layer, kfac({ damping: 0.1, dampingKind: "relative" }));
      for (const [, Method] of lowRankMethods) {
        const p = await direction(layer, (parameters) => new Method(parameters, { ...plain, damping: 0.1, rank: 100 }));
        expect(norm(minus(p, exact))).toBeGreaterThan(0.1 * norm(exact));
      }
    });
  });

  describe("K-FAC's damping of the product", () => {
    it("solves (Γ ⊗ Ω + λI) vec P = vec J", async () => {
      await fc.assert(
        fc.asyncProperty(layerCases, lambdas, async (layerCase, damping) => {
          const layer = randomLayer(layerCase);
          const { omega, gamma, gradient } = layer;
          const p = await direction(layer, kfac({ damping, dampingKind: "absolute" }));
          const d = omega.rows * gamma.rows;
          const block = matrix(d, d, kronHost(gamma.data, [gamma.rows, gamma.rows], omega.data, [omega.rows, omega.rows]));
          expectEqual(product(damped(block, damping), vec(p)), vec(gradient));
        }),
        { numRuns: 15 },
      );
    });
  });

  describe("the π-corrected damping", () => {
    const methods: [name: string, make: (damping: number) => (p: Parameter[]) => Optimizer][] = [
      ["K-FAC by eigenpairs", (damping) => kfac({ damping, dampingKind: "pi", inverse: "eigh" })],
      ["K-FAC by Cholesky", (damping) => kfac({ damping, dampingKind: "pi", inverse: "cholesky" })],
      ...lowRankMethods.map(([name, Method]): (typeof methods)[number] => [
        name,
        (damping) => (parameters) => new Method(parameters, { ...plain, damping, dampingKind: "pi", rank: 100 }),
      ]),
    ];

    it.each(methods)("of %s does not see how the scale is split: (cΩ, Γ/c) gives the same direction", async (_, make) => {
      await fc.assert(
        fc.asyncProperty(layerCases, lambdas, fc.double({ min: 0.01, max: 100, noNaN: true }), async (layerCase, damping, c) => {
          const { n, positions, dIn, dOut, seed } = layerCase;
          const [x, g] = [normalMatrix(n * positions, dIn, seed + 1), normalMatrix(n * positions, dOut, seed + 2)];
          const own = { n, bias: false };
          const one = await direction(layerOf(x, g, own), make(damping));
          const other = await direction(layerOf(scaled(x, Math.sqrt(c)), scaled(g, 1 / Math.sqrt(c)), own), make(damping));
          expectEqual(other, one, 1e-8);
        }),
        { numRuns: 8 },
      );
    });

    it.each(methods)("of %s is exact but for the cross term 2√(λωγ) where Ω = ωI and Γ = γI", async (_, make) => {
      const variances = fc.double({ min: 0.1, max: 10, noNaN: true });
      await fc.assert(
        fc.asyncProperty(variances, variances, lambdas, seeds, async (omega, gamma, damping, seed) => {
          const layer = isotropic(3, 2, omega, gamma, seed);
          const denominator = omega * gamma + damping + 2 * Math.sqrt(damping * omega * gamma);
          expectEqual(await direction(layer, make(damping)), scaled(layer.gradient, 1 / denominator), 1e-9);
        }),
        { numRuns: 8 },
      );
    });

    it("is not that of equal shares, where the factors' scales differ", async () => {
      const layer = isotropic(3, 2, 10, 0.1, 1);
      const [pi, factored] = [
        await direction(layer, kfac({ damping: 1, dampingKind: "pi" })),
        await direction(layer, kfac({ damping: 1, dampingKind: "factored" })),
      ];
      expect(norm(minus(pi, factored))).toBeGreaterThan(0.1 * norm(pi));
    });
  });
});
