import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { kronHost } from "../../src/linalg/index.ts";
import { Conv2d, crossEntropy, Flatten, Linear, meanSquaredError, Sequential, Tanh } from "../../src/nn/index.ts";
import { secondMoments } from "../../src/optim/blocks/ekFac.ts";
import { releaseSpectra, spectraOf } from "../../src/optim/blocks/spectrum.ts";
import { EkFac, Optimizer, type CurvatureView } from "../../src/optim/index.ts";
import { Precondition } from "../../src/optim/curvature/precondition.ts";
import { Generator, Tensor } from "../../src/tensor/index.ts";
import { eachBackend } from "../backends.ts";

const options = { dtype: "float64" } as const;

/** Looks at the views of a loss's layers, in their step. */
async function look(model: Sequential, loss: () => Tensor, see: (view: CurvatureView) => Promise<void>): Promise<void> {
  const parameters = model.parameters();
  const precondition = new Precondition(parameters, "look", (view) => ({
    method: "look",
    needs: () => ({ curvature: true, gradient: true }),
    observe: () => undefined,
    refresh: () => see(view),
    precondition: (gradient) => gradient,
    state: () => ({ tensors: new Map(), numbers: {} }),
    load: () => undefined,
    dispose: () => undefined,
  }));
  await new Optimizer(parameters, { learningRate: 0, transforms: [precondition], precondition }).minimize(loss);
}

/** F = (1/n) Σ vec(gᵢaᵢᵀ) vec(gᵢaᵢᵀ)ᵀ of a layer, row-major. */
function denseFisher(view: CurvatureView): Float64Array {
  const { n, dA, dOut } = view;
  const size = dA * dOut;
  const { a, g } = view.perSample(0, n);
  const gradients = g.matmul(a, { transposeA: true }).dataSync();
  const fisher = new Float64Array(size * size);
  for (let i = 0; i < n; i++) {
    for (let p = 0; p < size; p++) {
      for (let q = 0; q < size; q++) {
        fisher[p * size + q] =
          (fisher[p * size + q] as number) + ((gradients[i * size + p] as number) * (gradients[i * size + q] as number)) / n;
      }
    }
  }
  return fisher;
}

/** Q diag(s) Qᵀ for Q = Q_g ⊗ Q_a. */
function rebuilt(q: Float64Array, s: ArrayLike<number>): Float64Array {
  const size = s.length;
  return Float64Array.from({ length: size * size }, (_, at) => {
    const [i, j] = [Math.floor(at / size), at % size];
    let sum = 0;
    for (let k = 0; k < size; k++) sum += (q[i * size + k] as number) * (s[k] as number) * (q[j * size + k] as number);
    return sum;
  });
}

const distance = (a: Float64Array, b: Float64Array): number => Math.hypot(...a.map((value, i) => value - (b[i] as number)));
const traceOf = (a: Float64Array, size: number): number =>
  Array.from({ length: size }, (_, i) => a[i * (size + 1)] as number).reduce((x, y) => x + y, 0);

eachBackend(() => {
  describe("EK-FAC's eigenvalues", () => {
    const networks = fc.record({ conv: fc.boolean(), n: fc.integer({ min: 1, max: 5 }), seed: fc.nat({ max: 1000 }) });

    it("are the best for their basis, keep the trace, and are the diagonal of the Fisher matrix in it", async () => {
      await fc.assert(
        fc.asyncProperty(networks, async ({ conv, n, seed }) => {
          const generator = new Generator(seed);
          const model = conv
            ? new Sequential(
                new Conv2d(2, 2, 2, { ...options, generator }),
                new Tanh(),
                new Flatten(),
                new Linear(8, 2, { ...options, generator }),
              )
            : new Sequential(new Linear(3, 3, { ...options, generator }), new Tanh(), new Linear(3, 2, { ...options, generator }));
          const x = generator.normal(conv ? [n, 3, 3, 2] : [n, 3], options);
          const labels = Tensor.from(Int32Array.from({ length: n }, (_, i) => (i + seed) % 2));
          await look(
            model,
            () => crossEntropy(model.forward(x), labels),
            async (view) => {
              const { dA, dOut } = view;
              const size = dA * dOut;
              const [a, g] = [view.inputCovariance(), view.outputCovariance()];
              const spectra = await spectraOf({ matrix: a, residual: 0, floor: 0 }, { matrix: g, residual: 0, floor: 0 });
              const [qa, qg] = [spectra.input, spectra.output].map(({ vectors }) => vectors.dataSync() as Float64Array) as [
                Float64Array,
                Float64Array,
              ];
              const q = kronHost(qg, [dOut, dOut], qa, [dA, dA]);
              const fisher = denseFisher(view);
              const s = secondMoments(spectra, view).dataSync();
              releaseSpectra(spectra);
              const scale = traceOf(fisher, size);
              const ek = rebuilt(q, s);
              const k = kronHost(g.dataSync() as Float64Array, [dOut, dOut], a.dataSync() as Float64Array, [dA, dA]);
              expect(distance(fisher, ek)).toBeLessThanOrEqual(distance(fisher, k) + 1e-12 * scale);
              expect(Math.abs(traceOf(ek, size) - scale)).toBeLessThanOrEqual(1e-12 * scale);
              for (let i = 0; i < size; i++) {
                let diagonal = 0;
                for (let p = 0; p < size; p++) {
                  for (let r = 0; r < size; r++)
                    diagonal += (q[p * size + i] as number) * (fisher[p * size + r] as number) * (q[r * size + i] as number);
                }
                expect(Math.abs(diagonal - (s[i] as number))).toBeLessThanOrEqual(1e-11 * scale);
              }
            },
          );
        }),
        { numRuns: 12 },
      );
    });

    it("are K-FAC's own where output gradients and inputs are independent in the batch", async () => {
      // Every input meets every target: with a zero weight, the output gradient depends on the target alone.
      const [inputs, targets] = [
        [
          [1, 2, 0],
          [0, -1, 3],
          [2, 1, 1],
        ],
        [
          [1, 0],
          [-2, 1],
        ],
      ] as const;
      const pairs = inputs.flatMap((input) => targets.map((target) => [input, target] as const));
      const model = new Sequential(new Linear(3, 2, { ...options, bias: false, generator: new Generator(0) }));
      model.parameters()[0]?.assign(Tensor.zeros([2, 3], options));
      const x = Tensor.from(
        pairs.map(([input]) => [...input]),
        options,
      );
      const target = Tensor.from(
        pairs.map(([, t]) => [...t]),
        options,
      );
      await look(
        model,
        () => meanSquaredError(model.forward(x), target),
        async (view) => {
          const spectra = await spectraOf(
            { matrix: view.inputCovariance(), residual: 0, floor: 0 },
            { matrix: view.outputCovariance(), residual: 0, floor: 0 },
          );
          const expected = spectra.output.values
            .reshape([-1, 1])
            .multiply(spectra.input.values.reshape([1, -1]))
            .dataSync();
          expect(secondMoments(spectra, view).dataSync()).toBeAllclose([...expected], { relative: 1e-12 });
          releaseSpectra(spectra);
        },
      );
    });
  });

  describe("EkFac", () => {
    const network = (): Sequential => {
      const generator = new Generator(1);
      return new Sequential(
        new Conv2d(1, 3, 3, { ...options, generator }),
        new Tanh(),
        new Flatten(),
        new Linear(12, 3, { ...options, generator }),
      );
    };

    it.each(["running", "intra"] as const)(
      "trains with %s eigenvalues, and goes on bit for bit from a saved state",
      async (eigenvalues) => {
        const settings = { learningRate: 0.3, eigenvalues, factorUpdateEvery: 2, inversionEvery: 4 };
        const [model, other] = [network(), network()];
        const x = new Generator(2).normal([16, 4, 4, 1], options);
        const labels = Tensor.from(Int32Array.from({ length: 16 }, (_, i) => i % 3));
        const [optimizer, resumed] = [new EkFac(model.parameters(), settings), new EkFac(other.parameters(), settings)];
        const step = async (own: Sequential, by: EkFac): Promise<number> =>
          (await by.minimize(() => crossEntropy(own.forward(x), labels))).dataSync()[0] as number;
        const losses: number[] = [];
        for (let i = 0; i < 7; i++) losses.push(await step(model, optimizer));
        expect(losses.at(-1)).toBeLessThan(0.9 * (losses[0] as number));
        other.parameters().forEach((parameter, i) => parameter.assign(model.parameters()[i]?.value as Tensor));
        resumed.load(optimizer.state());
        for (let i = 0; i < 3; i++) expect(await step(other, resumed)).toBe(await step(model, optimizer));
        optimizer.dispose();
        resumed.dispose();
      },
    );

    it("refuses a decay outside of [0, 1)", () => {
      expect(() => new EkFac(network().parameters(), { learningRate: 1, eigenvalueDecay: 1 })).toThrow(
        "eigenvalueDecay must be in [0, 1) but is 1",
      );
    });
  });
});
