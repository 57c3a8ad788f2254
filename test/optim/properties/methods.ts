import type { Parameter } from "../../../src/nn/index.ts";
import {
  BrandKfac,
  dampingKinds,
  EkFac,
  Kfac,
  NysKfac,
  RsKfac,
  Seng,
  SreKfac,
  type CurvatureOptimizer,
  type CurvatureOptimizerOptions,
  type NysKfacOptions,
  type Schedule,
} from "../../../src/optim/index.ts";

/** What all methods take. */
export interface CommonOptions extends CurvatureOptimizerOptions {
  readonly damping?: Schedule | undefined;
}

export type Method = readonly [name: string, make: (parameters: readonly Parameter[], options: CommonOptions) => CurvatureOptimizer];

/** With `rank` eigenpairs, whatever they are, as the others have. */
class NysKfacOfRank extends NysKfac {
  constructor(parameters: readonly Parameter[], options: NysKfacOptions) {
    super(parameters, { negligible: 0, ...options });
  }
}

/** The methods whose inverse of each factor is of low rank. */
export const lowRankMethods = [
  ["RS-KFAC", RsKfac],
  ["SRE-KFAC", SreKfac],
  ["Nyström K-FAC", NysKfacOfRank],
  ["B-KFAC", BrandKfac],
] as const;

const lowRank = (options: { rank: number; oversampling: number; thin: boolean }): Method[] =>
  lowRankMethods.map(([name, Method]) => [
    `${name}, rank ${options.rank}${options.thin ? ", thin" : ""}`,
    (parameters, common) => new Method(parameters, { ...common, ...options, exactUpTo: 0 }),
  ]);

/** Every method that preconditions by a positive definite matrix, in all its forms. */
export const positiveMethods: readonly Method[] = [
  ...dampingKinds.map((dampingKind): Method => [
    `K-FAC by eigenpairs, ${dampingKind} damping`,
    (parameters, options) => new Kfac(parameters, { ...options, dampingKind, inverse: "eigh" }),
  ]),
  ...(["factored", "pi", "factor-relative"] as const).map((dampingKind): Method => [
    `K-FAC by Cholesky, ${dampingKind} damping`,
    (parameters, options) => new Kfac(parameters, { ...options, dampingKind, inverse: "cholesky" }),
  ]),
  ...lowRank({ rank: 2, oversampling: 1, thin: false }),
  ...lowRank({ rank: 2, oversampling: 1, thin: true }),
  ...lowRank({ rank: 100, oversampling: 0, thin: false }),
  [
    "Nyström K-FAC without what is negligible",
    (parameters, common) => new NysKfac(parameters, { ...common, rank: 100, oversampling: 2, exactUpTo: 0 }),
  ],
  ...(["running", "intra"] as const).map((eigenvalues): Method => [
    `EK-FAC, ${eigenvalues} eigenvalues`,
    (parameters, options) => new EkFac(parameters, { ...options, eigenvalues }),
  ]),
  ["SENG without a sketch", (parameters, options) => new Seng(parameters, { momentum: 0, ...options, columns: Infinity })],
];
