import type { Backend } from "../tensor/index.ts";
import { adaptiveEigh } from "./adaptiveRank.ts";
import { brandUpdate } from "./brand.ts";
import { cholesky, eigh, eigvalsh, inversePositiveDefinite, solvePositiveDefinite, solveTriangular } from "./factorizations.ts";
import { solve } from "./lu.ts";
import { nystrom } from "./nystrom.ts";
import { orthonormalize } from "./panels.ts";
import { matrixPower } from "./powers.ts";
import { lstsq, qr } from "./qr.ts";
import { randomizedEigh, randomizedSvd } from "./randomized.ts";
import { randomizedRange } from "./rangeFinder.ts";
import { singularValues, svd } from "./svd.ts";
import { pack, packError, tensorsIn, unpack, type Packed, type PackedError } from "./wire.ts";

/** The routines that can run on another thread: what they take and give are tensors, generators, and data in plain objects. */
export const routines = {
  adaptiveEigh,
  brandUpdate,
  cholesky,
  eigh,
  eigvalsh,
  inversePositiveDefinite,
  lstsq,
  matrixPower,
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
  svd,
} as const;

/** The routines, wherever they compute. */
export type Routines = typeof routines;
export type RoutineName = keyof Routines;

/** Asks another thread for a routine's result. */
export interface Request {
  /** Its number, by which the reply is told from others. */
  readonly call: number;
  readonly routine: RoutineName;
  readonly operands: readonly Packed[];
  /** Where the operands came from: the other thread opens one that computes the same bits. */
  readonly backend: { readonly name: string; readonly options: object };
}

export type Reply = { readonly call: number } & ({ readonly result: Packed } | { readonly error: PackedError });

/** Computes what a request asks for. Leaves nothing on the backend. */
export async function answer({ call, routine, operands }: Request, backend: Backend): Promise<Reply> {
  const own: unknown[] = [];
  try {
    for (const operand of operands) own.push(unpack(operand, backend));
    const result = await (routines[routine] as (...operands: unknown[]) => Promise<unknown>)(...own);
    try {
      return { call, result: await pack(result) };
    } finally {
      release(result);
    }
  } catch (error) {
    return { call, error: packError(error) };
  } finally {
    for (const operand of own) release(operand);
  }
}

function release(value: unknown): void {
  for (const tensor of tensorsIn(value)) tensor.dispose();
}
