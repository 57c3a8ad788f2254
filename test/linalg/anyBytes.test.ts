import { describe, expect, it } from "vitest";
import {
  adaptiveEigh,
  brandUpdate,
  cholesky,
  cond,
  eigh,
  eigvalsh,
  frobeniusNorm,
  inversePositiveDefinite,
  kron,
  kronInverse,
  kronSolve,
  lowRankInverse,
  lstsq,
  matrixPower,
  norm1,
  normInfinity,
  nystrom,
  orthonormalize,
  qr,
  randomizedEigh,
  randomizedRange,
  randomizedSvd,
  singularValues,
  solve,
  solvePositiveDefinite,
  solveTriangular,
  spectralNorm,
  svd,
  woodburyInverse,
} from "../../src/linalg/index.ts";
import { defaultBackend, Generator, KfacetError, Tensor, type FloatDType } from "../../src/tensor/index.ts";
import { eachBackend } from "../backends.ts";

/*
 * Matrices whose entries are any bytes: NaN and infinities, subnormal numbers, and numbers hundreds of decades apart. Every routine gives
 * finite numbers or one of the project's errors, ends, and leaves no buffer behind.
 */

const PATTERNS = 10_000;

/** Uniform numbers on [0, 1) from a seed (mulberry32). */
function uniform(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}

interface Pattern {
  readonly rows: number;
  readonly columns: number;
  readonly dtype: FloatDType;
  readonly data: Float32Array | Float64Array;
}

const width = (draw: () => number): number => 1 + Math.floor(draw() * 6);

/** Any bytes as a matrix; or, in half of the cases, only those that are finite numbers. */
function pattern(draw: () => number, rows: number, columns: number, dtype: FloatDType): Pattern {
  // Random bytes are hundreds of decades apart, so that nearly every matrix has one entry that counts; in some cases they are nearer.
  const [finite, decades] = [draw() < 0.5, draw() < 0.5 ? null : 30 * draw()];
  const word = new DataView(new ArrayBuffer(8));
  const entry = (): number => {
    for (let byte = 0; byte < 8; byte++) word.setUint8(byte, Math.floor(draw() * 256));
    // NaN and the infinities have all bits of the exponent, which bytes rarely have.
    if (draw() < 0.03) word.setUint16(0, word.getUint16(0) | (dtype === "float32" ? 0x7f80 : 0x7ff0));
    const value = dtype === "float32" ? word.getFloat32(0) : word.getFloat64(0);
    if (!finite) return value;
    if (draw() < 0.1 || !Number.isFinite(value)) return 0;
    return decades === null ? value : (2 * draw() - 1) * 10 ** (decades * (draw() - 0.5));
  };
  const values = Array.from({ length: rows * columns }, entry);
  const data = dtype === "float32" ? Float32Array.from(values) : Float64Array.from(values);
  return { rows, columns, dtype, data };
}

/** A symmetric matrix: the pattern below the diagonal, mirrored; or, of one in three, a Gram matrix. */
function symmetricPattern(draw: () => number, n: number, dtype: FloatDType): Pattern {
  const own = pattern(draw, n, n, dtype);
  const at = (i: number, j: number): number => own.data[i * n + j] as number;
  const gram = draw() < 1 / 3;
  const entry = (i: number, j: number): number => {
    if (!gram) return i >= j ? at(i, j) : at(j, i);
    let sum = 0;
    for (let k = 0; k < n; k++) sum += at(Math.max(i, j), k) * at(Math.min(i, j), k);
    return sum;
  };
  const data = own.data.map((_: number, index: number) => entry(Math.floor(index / n), index % n));
  return { ...own, data };
}

const tensorOf = ({ rows, columns, dtype, data }: Pattern): Tensor => Tensor.from(data, { dtype, shape: [rows, columns] });

/** What a routine gives: tensors, numbers, or both. */
type Given = Tensor | number | readonly (Tensor | number)[];
interface Routine {
  /** Whether it wants a symmetric matrix. */
  readonly symmetric: boolean;
  readonly square?: boolean;
  run(a: Tensor, b: Tensor, draw: () => number): Promise<Given>;
}
const generator = (draw: () => number): Generator => new Generator(Math.floor(draw() * 2 ** 31));
const rankOf = (a: Tensor): number => Math.ceil(Math.min(...a.shape) / 2);

/** `b` has as many rows as `a`, and is of the same type. */
const routines: Readonly<Record<string, Routine>> = {
  eigh: { symmetric: true, run: async (a) => Object.values(await eigh(a)) },
  eigvalsh: { symmetric: true, run: (a) => eigvalsh(a) },
  svd: { symmetric: false, run: async (a) => Object.values(await svd(a)) },
  singularValues: { symmetric: false, run: (a) => singularValues(a) },
  qr: { symmetric: false, run: async (a) => Object.values(await qr(a)) },
  "qr, full": { symmetric: false, run: async (a) => Object.values(await qr(a, { full: true })) },
  lstsq: { symmetric: false, run: (a, b) => lstsq(a, b) },
  solve: { symmetric: false, square: true, run: (a, b) => solve(a, b) },
  cholesky: { symmetric: true, run: (a) => cholesky(a) },
  solvePositiveDefinite: { symmetric: true, run: (a, b) => solvePositiveDefinite(a, b) },
  inversePositiveDefinite: { symmetric: true, run: (a) => inversePositiveDefinite(a) },
  solveTriangular: {
    symmetric: false,
    square: true,
    run: (a, b, draw) => solveTriangular(a, b, { lower: draw() < 0.5, transpose: draw() < 0.5 }),
  },
  matrixPower: { symmetric: true, run: (a, _, draw) => matrixPower(a, draw() < 0.5 ? -0.25 : 0.5, { damping: draw() < 0.5 ? 0 : 0.1 }) },
  kron: { symmetric: false, run: (a, b) => kron(a, b) },
  kronSolve: {
    symmetric: true,
    run: async (a) => {
      using x = a.slice([0, 0], [...a.shape]);
      return await kronSolve(a, a, x);
    },
  },
  kronInverse: {
    symmetric: true,
    run: async (a) => {
      const pairs = await eigh(a);
      using values = pairs.values;
      using vectors = pairs.vectors;
      const inverse = await kronInverse({ values, vectors }, { values, vectors });
      return inverse.apply(a, { ofProduct: inverse.largest * 0.1 || 1 });
    },
  },
  frobeniusNorm: { symmetric: false, run: (a) => frobeniusNorm(a) },
  norm1: { symmetric: false, run: (a) => norm1(a) },
  normInfinity: { symmetric: false, run: (a) => normInfinity(a) },
  spectralNorm: { symmetric: false, run: (a) => spectralNorm(a) },
  // A singular matrix has the condition Infinity.
  cond: { symmetric: false, run: async (a) => Math.min(await cond(a), Number.MAX_VALUE) },
  orthonormalize: { symmetric: false, run: (a) => orthonormalize(a) },
  randomizedRange: {
    symmetric: false,
    run: (a, _, draw) => randomizedRange(a, { rank: rankOf(a), oversampling: 1, generator: generator(draw) }),
  },
  randomizedSvd: {
    symmetric: false,
    run: async (a, _, draw) =>
      Object.values<Tensor>(await randomizedSvd(a, { rank: rankOf(a), oversampling: 1, generator: generator(draw) })),
  },
  randomizedEigh: {
    symmetric: true,
    run: async (a, _, draw) => {
      const { values, vectors } = await randomizedEigh(a, { rank: rankOf(a), oversampling: 1, generator: generator(draw) });
      return [values, vectors];
    },
  },
  adaptiveEigh: {
    symmetric: true,
    run: async (a, _, draw) => {
      const tolerance = draw() < 0.5 ? 0.1 : 0;
      const { values, vectors, error } = await adaptiveEigh(a, { tolerance, generator: generator(draw), blockSize: 1 });
      return [values, vectors, error];
    },
  },
  nystrom: {
    symmetric: true,
    run: async (a, _, draw) => {
      const { values, vectors, basis } = await nystrom(a, { rank: rankOf(a), oversampling: 1, generator: generator(draw) });
      return [values, vectors, basis];
    },
  },
  lowRankInverse: {
    symmetric: true,
    run: async (a, b) => {
      const { values, vectors } = await eigh(a, { largest: rankOf(a) });
      using own = values;
      using basis = vectors;
      return (await lowRankInverse({ vectors: basis, values: own, trace: 1 }, { damping: 0.01 })).left(b);
    },
  },
  woodburyInverse: {
    symmetric: false,
    run: async (a, b) => {
      using u = a.transpose();
      using inverse = await woodburyInverse(u, { damping: 0.1 });
      return inverse.left(b);
    },
  },
  brandUpdate: {
    symmetric: true,
    run: async (a, b) => {
      const { values, vectors } = await eigh(a, { largest: rankOf(a) });
      using own = values;
      using basis = vectors;
      const next = await brandUpdate({ vectors: basis, values: own }, b, { decay: 0.9, rank: 2 });
      return [next.values, next.vectors];
    },
  },
};

/** Products of tensors alone may leave the range of the type: what they are applied to is the caller's. */
const applied = new Set(["kronInverse", "lowRankInverse", "woodburyInverse"]);

eachBackend(() => {
  describe("any bytes, read as small matrices,", () => {
    const names = Object.keys(routines);
    const each = Math.ceil(PATTERNS / names.length);
    it.each(names.map((name, i) => [name, i] as const))(
      `give %s finite numbers or an error that says why, and no buffer stays (${each} patterns)`,
      async (name, index) => {
        const routine = routines[name] as Routine;
        const draw = uniform(1000 + index);
        let [results, refusals] = [0, 0];
        const before = defaultBackend().memory().buffers;
        for (let k = 0; k < each; k++) {
          const dtype: FloatDType = draw() < 0.5 ? "float32" : "float64";
          const n = width(draw);
          const square = routine.symmetric || routine.square === true;
          const own = routine.symmetric ? symmetricPattern(draw, n, dtype) : pattern(draw, n, square ? n : width(draw), dtype);
          {
            using a = tensorOf(own);
            using b = tensorOf(pattern(draw, n, width(draw), dtype));
            try {
              const given = await routine.run(a, b, draw);
              results++;
              for (const part of Array.isArray(given) ? (given as readonly (Tensor | number)[]) : [given as Tensor | number]) {
                if (typeof part === "number") expect(part).toSatisfy(Number.isFinite);
                else {
                  const found = part.dataSync();
                  part.dispose();
                  const wrong = found.findIndex((value) => !Number.isFinite(value));
                  if (wrong >= 0 && !applied.has(name)) {
                    expect.fail(
                      `${name} gave ${found[wrong]} for the ${dtype} [${own.rows}, ${own.columns}] matrix ${JSON.stringify([...own.data])}`,
                    );
                  }
                }
              }
            } catch (error) {
              refusals++;
              if (!(error instanceof KfacetError)) throw error;
            }
          }
          expect(defaultBackend().memory().buffers).toBe(before);
        }
        // The patterns are of both kinds.
        expect(results).toBeGreaterThan(each / 20);
        expect(refusals).toBeGreaterThan(each / 20);
      },
      60_000,
    );
  });
});
