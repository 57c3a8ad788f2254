import { expect, it } from "vitest";
import { z } from "zod";
import { randomizedEigh, randomizedSvd } from "../../src/linalg/index.ts";
import { Tensor, type FloatDType } from "../../src/tensor/index.ts";
import { goldenArray, read, readGolden, type Precision } from "../golden.ts";
import { diagonal, epsilon32, epsilon64, matrix, minus, norm, product, transpose, type Matrix } from "./dense.ts";

/* Randomized decompositions with a given test matrix against numpy's, on whichever backend is the default one while the tests run. */

const cases = readGolden(
  "rnla",
  z.object({
    cases: z.array(
      z.object({
        name: z.string(),
        niter: z.int(),
        rank: z.int(),
        M: goldenArray.nullish(),
        M_of: z.string(),
        Omega: goldenArray.nullish(),
        srevd_eigvals_ascending: goldenArray,
        exact_top_eigvals_ascending: goldenArray,
        srevd_U_D_Ut: goldenArray.nullish(),
        srevd_err_fro: z.number(),
        rsvd_singvals_descending: goldenArray,
        rsvd_V_D_Vt: goldenArray.nullish(),
        rsvd_err_fro: z.number(),
      }),
    ),
  }),
).cases;

type Case = (typeof cases)[number];

const tensorOf = (a: Matrix, dtype: FloatDType): Tensor => Tensor.from(a.data, { dtype, shape: [a.rows, a.columns] });

/** D, and U diag(D) Uᵀ. */
async function rebuiltOf(values: Tensor, vectors: Tensor): Promise<{ d: Float64Array; rebuilt: Matrix }> {
  const [rows = 0, columns = 0] = vectors.shape;
  const d = Float64Array.from(await read(values));
  const u = matrix(rows, columns, await read(vectors));
  return { d, rebuilt: product(u, diagonal(d), transpose(u)) };
}

/** The matrix and the test matrix of a case. */
function operandsOf({ M_of: of }: Case): readonly [m: Matrix, omega: Matrix] {
  const own = cases.find(({ name }) => name === of);
  return [own?.M, own?.Omega].map((array) => matrix(array?.shape[0] ?? 0, array?.shape[1] ?? 0, array?.data ?? [])) as [Matrix, Matrix];
}

/** Of the matrices as they are in the number type. */
export function randomizedEighEqualsGolden(precisions: readonly Precision[]): void {
  for (const [dtype, precision] of precisions) {
    it.each(cases)(`equals the golden $name in ${dtype} without bases between products, and is no worse with them`, async (golden) => {
      const [m, omega] = operandsOf(golden);
      using x = tensorOf(m, dtype);
      using testMatrix = tensorOf(omega, dtype);
      const options = { rank: golden.rank, testMatrix, iterations: golden.niter } as const;
      const plain = await randomizedEigh(x, { ...options, orthonormalize: "last" });
      const { d, rebuilt } = await rebuiltOf(plain.values, plain.vectors);
      // X^q without bases keeps of an eigenvector no digit where (λ/λ₁)^q is below ε, wherever it is computed: what is found there
      // instead is rounding, and no more than λ. All else agrees.
      const epsilon = dtype === "float64" ? epsilon64 : epsilon32;
      const exactly = golden.exact_top_eigvals_ascending.data;
      const top = exactly.at(-1) as number;
      const lost = Math.max(0, ...exactly.filter((value) => (value / top) ** golden.niter < epsilon));
      const relative = Math.max(precision, lost / top);
      expect(d).toBeAllclose(golden.srevd_eigvals_ascending.data, { relative });
      if (golden.srevd_U_D_Ut) expect(rebuilt.data).toBeAllclose(golden.srevd_U_D_Ut.data, { relative });
      expect(Math.abs(norm(minus(rebuilt, m)) - golden.srevd_err_fro)).toBeLessThanOrEqual(relative * top);
      const better = await randomizedEigh(x, options);
      const withBases = await rebuiltOf(better.values, better.vectors);
      expect(norm(minus(withBases.rebuilt, m))).toBeLessThanOrEqual(golden.srevd_err_fro * (1 + 1e-6) + 10 * epsilon * norm(m));
    });
  }
}

/** Of the matrices as they are in the number type. */
export function randomizedSvdEqualsGolden(precisions: readonly Precision[]): void {
  for (const [dtype, relative] of precisions) {
    it.each(cases)(`equals the golden $name in ${dtype}`, async (golden) => {
      const [m, omega] = operandsOf(golden);
      using x = tensorOf(m, dtype);
      using testMatrix = tensorOf(omega, dtype);
      const { u, values, v } = await randomizedSvd(x, { rank: golden.rank, testMatrix, iterations: golden.niter });
      u.dispose();
      const { d: sigma, rebuilt } = await rebuiltOf(values, v);
      expect(sigma).toBeAllclose(golden.rsvd_singvals_descending.data, { relative });
      if (golden.rsvd_V_D_Vt) expect(rebuilt.data).toBeAllclose(golden.rsvd_V_D_Vt.data, { relative });
      expect(Math.abs(norm(minus(rebuilt, m)) - golden.rsvd_err_fro)).toBeLessThanOrEqual(relative * norm(m));
    });
  }
}
