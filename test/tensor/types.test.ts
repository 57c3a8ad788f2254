import { assertType, expectTypeOf, test } from "vitest";
import type { Rule, rules } from "../../src/autograd/index.ts";
import {
  apply,
  signatures,
  type Inputs,
  type Outputs,
  type Params,
  type PrimitiveName,
  type Signature,
  type Tensor,
} from "../../src/tensor/index.ts";
import type { Kernels } from "../../src/tensor/backends/reference/kernel.ts";
import type { Samples } from "../samples.ts";

/* Statements about types: tsc checks them; at run time nothing happens. */

/** Whether a table without its row `Missing` would still be accepted as a table. */
type AcceptsWithout<Table, Missing extends keyof Table> = Omit<Table, Missing> extends Table ? true : false;

test("a table of signatures, rules, kernels or samples with a missing row does not compile, whichever row it is", () => {
  type Holes<Table> = { [K in keyof Table]: AcceptsWithout<Table, K> }[keyof Table];
  expectTypeOf<Holes<typeof signatures>>().toEqualTypeOf<false>();
  expectTypeOf<Holes<typeof rules>>().toEqualTypeOf<false>();
  expectTypeOf<Holes<Kernels<PrimitiveName>>>().toEqualTypeOf<false>();
  expectTypeOf<Holes<Samples>>().toEqualTypeOf<false>();
});

test("the tables have exactly the primitives as rows", () => {
  expectTypeOf<keyof typeof signatures>().toEqualTypeOf<PrimitiveName>();
  expectTypeOf<keyof typeof rules>().toEqualTypeOf<PrimitiveName>();
  expectTypeOf<keyof Samples>().toEqualTypeOf<PrimitiveName>();
});

test("a row does not fit at the place of another with other operands", () => {
  expectTypeOf<Signature<"relu">>().not.toExtend<Signature<"fill">>();
  expectTypeOf<Rule<"maxPool2d">>().not.toExtend<Rule<"relu">>();
});

test("apply knows each primitive's operands, parameters and results", () => {
  expectTypeOf<Inputs<"matmul", Tensor>>().toEqualTypeOf<[a: Tensor, b: Tensor]>();
  expectTypeOf<Params<"matmul">>().toEqualTypeOf<{ transposeA: boolean; transposeB: boolean }>();
  expectTypeOf<Outputs<"maxPool2d", Tensor>>().toEqualTypeOf<[y: Tensor, indices: Tensor]>();
  assertType<(x: Tensor) => readonly [Tensor, Tensor, Tensor]>((x) => apply("batchNorm", [x, x, x], { epsilon: 1 }));
  expectTypeOf(apply<"relu">)
    .parameter(1)
    .not.toExtend<[Tensor, Tensor]>();
});
