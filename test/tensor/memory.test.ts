import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import fc from "fast-check";
import { afterEach, describe, expect, test, vi } from "vitest";
import { openReference } from "../../src/tensor/backends/reference/index.ts";
import { Handle } from "../../src/tensor/scope.ts";
import {
  apply,
  defaultBackend,
  sizeOf,
  Tensor,
  tidy,
  unscoped,
  UsageError,
  Variable,
  worksInPlace,
  type DType,
  type Shape,
  type TypedArray,
} from "../../src/tensor/index.ts";
import { realize, samples } from "../samples.ts";

const buffers = (): number => defaultBackend().memory().buffers;
const values = (tensor: Tensor | undefined): number[] => [...(tensor?.dataSync() ?? [])];
/** How many buffers `f` takes into use. */
function taken(f: () => unknown): number {
  const before = buffers();
  f();
  return buffers() - before;
}

const atStart = buffers();
afterEach(() => {
  vi.restoreAllMocks();
  expect(buffers()).toBe(atStart);
});

describe("a handle", () => {
  test("holds one buffer until it is disposed; disposing again does nothing", () => {
    const x = Tensor.from([1, 2]);
    expect(buffers()).toBe(atStart + 1);
    x.dispose();
    expect(buffers()).toBe(atStart);
    x.dispose();
    expect(buffers()).toBe(atStart);
    expect(x.isDisposed).toBe(true);
  });

  test("cannot be used after dispose, but says what it was", async () => {
    const x = Tensor.from([[1, 2]]);
    x.dispose();
    for (const use of [
      () => x.exp(),
      () => x.dataSync(),
      () => x.keep(),
      () => x.detach(),
      () => x.hold(),
      () => x.reshape([2]),
      () => x.backend,
    ]) {
      expect(use).toThrow(UsageError);
      expect(use).toThrow(/a tensor \[1, 2\] of float32 was used after dispose\(\)/);
    }
    expect(() => x.exp()).toThrow(/^exp: /);
    expect(() => x.greater(1)).toThrow(/^greater: /);
    await expect(x.data()).rejects.toThrow(UsageError);
    const single = Tensor.from(1);
    single.dispose();
    await expect(single.item()).rejects.toThrow(UsageError);
    expect(x.shape).toEqual([1, 2]);
    expect(x.toString()).toBe("Tensor(float32 [1, 2], disposed)");
  });

  test("is dropped at the end of `using`", () => {
    {
      using x = Tensor.from([1, 2]);
      using y = x.exp();
      expect(y.size).toBe(2);
      expect(buffers()).toBe(atStart + 2);
    }
    expect(buffers()).toBe(atStart);
  });

  test("made by keep, detach, hold or reshape shares the storage, and any of them keeps it alive", () => {
    const makers: ((x: Tensor) => Tensor)[] = [(x) => x.keep(), (x) => x.detach(), (x) => x.hold(), (x) => x.reshape([2, 1])];
    for (const make of makers) {
      const x = Tensor.from([1, 2]);
      const y = make(x);
      expect(buffers()).toBe(atStart + 1);
      x.dispose();
      expect(values(y)).toEqual([1, 2]);
      y.dispose();
      expect(buffers()).toBe(atStart);
    }
  });

  test("has the identity of its value by keep and hold, and one of its own by detach", () => {
    tidy(() => {
      const x = Tensor.from([1, 2]);
      expect(x.keep().id).toBe(x.id);
      using held = x.hold();
      expect(held.id).toBe(x.id);
      using apart = x.hold({ detached: true });
      expect(new Set([x.id, x.detach().id, apart.id, x.reshape([2]).id]).size).toBe(4);
    });
  });

  test("gives copies: neither the source nor what was read is the tensor", async () => {
    const source = Float32Array.of(1, 2);
    using x = Tensor.from(source);
    source[0] = 9;
    const read = x.dataSync();
    read[1] = 9;
    (await x.data())[1] = 9;
    expect(values(x)).toEqual([1, 2]);
  });

  test("may be disposed while it is being read", async () => {
    const x = Tensor.from([1, 2]);
    const reading = x.data();
    x.dispose();
    expect([...(await reading)]).toEqual([1, 2]);
    expect(buffers()).toBe(atStart);
  });

  test("that everybody has forgotten frees its storage when it is garbage collected", async () => {
    setFlagsFromString("--expose-gc");
    const collectGarbage = runInNewContext("gc") as () => void;
    const forget = (): void => {
      for (let i = 0; i < 10; i++) Tensor.from([i]).exp();
    };
    forget();
    expect(buffers()).toBe(atStart + 20);
    await vi.waitFor(
      () => {
        collectGarbage();
        expect(buffers()).toBe(atStart);
      },
      { timeout: 10_000 },
    );
  });
});

describe("tidy", () => {
  test("finds what it returns in structures that contain themselves", () => {
    const before = buffers();
    const [a, b] = tidy(() => {
      const list: unknown[] = [Tensor.zeros([2]), new Set([Tensor.ones([1])])];
      list.push(list, { list });
      Tensor.zeros([3]);
      return list;
    }) as [Tensor, Set<Tensor>];
    expect(buffers()).toBe(before + 2);
    expect(values(a)).toEqual([0, 0]);
    for (const tensor of [a, ...b]) tensor.dispose();
  });

  test("frees what is made inside and not returned", () => {
    expect(
      taken(() => {
        const y = tidy(() => Tensor.from([1, 2]).exp().add(1));
        expect(taken(() => y.dispose())).toBe(-1);
      }),
    ).toBe(0);
  });

  test("keeps tensors in arrays, objects, maps, sets and any nesting of them", () => {
    const made = tidy(() => {
      const tensors = Array.from({ length: 5 }, (_, i) => Tensor.from([i]));
      const [a, b, c, d, e] = tensors as [Tensor, Tensor, Tensor, Tensor, Tensor];
      const bare = Object.assign(Object.create(null) as object, { d });
      return { a, list: [b, [c]], map: new Map([["d", bare]]), set: new Set([e]), other: "text", nothing: null };
    });
    expect(buffers()).toBe(atStart + 5);
    const all = [made.a, made.list[0], (made.list[1] as Tensor[])[0], made.map.get("d")?.d, ...made.set] as Tensor[];
    expect(all.map((t) => values(t)[0])).toEqual([0, 1, 2, 3, 4]);
    for (const tensor of all) tensor.dispose();
  });

  test("passes what it returns to the scope around it", () => {
    tidy(() => {
      const outer = tidy(() => tidy(() => Tensor.from([1])));
      expect(values(outer)).toEqual([1]);
    });
    expect(buffers()).toBe(atStart);
  });

  test("leaves tensors, holds and variables of others alone", () => {
    using x = Tensor.from([1]);
    let held: Tensor | undefined;
    let variable: Variable | undefined;
    const returned = tidy(() => {
      held = x.exp().hold();
      variable = new Variable("v", x.add(1));
      return x;
    });
    expect(returned).toBe(x);
    expect(values(x)).toEqual([1]);
    expect(values(held)).toEqual([Math.fround(Math.E)]);
    expect(values(variable?.value)).toEqual([2]);
    held?.dispose();
    variable?.dispose();
  });

  test("accepts that what it returns was disposed", () => {
    expect(
      taken(() =>
        tidy(() => {
          const x = Tensor.from([1]);
          x.dispose();
          return x;
        }),
      ),
    ).toBe(0);
  });

  test("frees everything when its function throws, and so do those around it", () => {
    expect(() => {
      const failing = (): void =>
        tidy(() => {
          const x = Tensor.from([1]);
          tidy(() => {
            x.exp();
            throw new Error("inside");
          });
        });
      expect(failing).toThrow("inside");
    }).toHaveNoLeaks();
    // No scope is left open: a tensor made now is owned by nobody.
    const x = Tensor.from([1]);
    expect(x.isDisposed).toBe(false);
    x.dispose();
  });

  test("refuses a Promise, and frees what was made until then", () => {
    expect(() => {
      expect(() => tidy(async () => Tensor.from([1]))).toThrow(UsageError);
      expect(() => tidy(() => Promise.resolve(Tensor.from([1])))).toThrow(/tidy: the function returned a Promise/);
    }).toHaveNoLeaks();
  });

  test("owns any handle, not only tensors", () => {
    class Resource extends Handle {
      isDisposed = false;
      override dispose(): void {
        this.isDisposed = true;
      }
      protected override leaveScopes(): void {
        // Nothing to do.
      }
    }
    const resource = new Resource();
    expect(tidy(() => resource)).toBe(resource);
    expect(resource.isDisposed).toBe(false);
  });

  test("is stepped out of by unscoped, and goes on after it", () => {
    let outside: Tensor | undefined;
    tidy(() => {
      const inside = Tensor.from([1]);
      outside = unscoped(() => inside.add(1));
      inside.add(2);
    });
    expect(values(outside)).toEqual([2]);
    outside?.dispose();
  });

  test("of any program with any nesting leaves nothing behind", () => {
    type Program = readonly (Program | "make" | "use")[];
    const { program } = fc.letrec<{ program: Program }>((tie) => ({
      program: fc.array(fc.oneof({ maxDepth: 4 }, fc.constantFrom("make" as const, "use" as const), tie("program")), { maxLength: 5 }),
    }));
    const run = (steps: Program, x: Tensor): Tensor =>
      tidy(() => {
        let result = x;
        for (const step of steps) {
          if (step === "make") result = result.add(1);
          else if (step === "use") x.exp();
          else result = run(step, result);
        }
        return result;
      });
    fc.assert(
      fc.property(program, (steps) => {
        using x = Tensor.from([0]);
        const count = (list: Program): number => list.reduce<number>((sum, s) => sum + (s === "make" ? 1 : s === "use" ? 0 : count(s)), 0);
        const result = run(steps, x);
        expect(values(result)).toEqual([count(steps)]);
        if (result !== x) result.dispose();
        expect(buffers()).toBe(atStart + 1);
      }),
    );
  });
});

describe("donation", () => {
  test("reuses a storage that nobody else holds, and gives up the handle", () => {
    tidy(() => {
      const x = Tensor.from([1, 2]);
      const { buffer } = x.storage;
      let y: Tensor | undefined;
      expect(taken(() => ([y] = apply("add", [x, Tensor.from([10, 20])], {}, { donate: [0] })))).toBe(1); // the second operand
      expect(y?.storage.buffer).toBe(buffer);
      expect(values(y)).toEqual([11, 22]);
      expect(x.isDisposed).toBe(true);
    });
  });

  test("leaves a storage that somebody else holds as it is", () => {
    tidy(() => {
      const holders: ((x: Tensor) => Tensor)[] = [
        (x) => x.keep(),
        (x) => x.detach(),
        (x) => x.reshape([2, 1]),
        (x) => new Variable("v", x).value,
      ];
      for (const hold of holders) {
        const x = Tensor.from([1, 2]);
        const other = hold(x);
        const [y] = apply("negative", [x], {}, { donate: [0] });
        expect(values(y)).toEqual([-1, -2]);
        expect(values(other)).toEqual([1, 2]);
        expect(x.isDisposed).toBe(true);
        other.dispose();
      }
    });
  });

  test("allocates where result and operand differ in shape or type", () => {
    tidy(() => {
      const row = Tensor.from([1, 2]);
      const [sum] = apply("add", [row, Tensor.zeros([3, 2])], {}, { donate: [0] });
      expect(values(sum)).toEqual([1, 2, 1, 2, 1, 2]);
      const [less] = apply("less", [sum, Tensor.from(1.5)], {}, { donate: [0] });
      expect(values(less)).toEqual([1, 0, 1, 0, 1, 0]);
      expect([row.isDisposed, sum.isDisposed]).toEqual([true, true]);
    });
  });

  test("of the operand that is not stretched reuses it", () => {
    tidy(() => {
      const matrix = Tensor.from([
        [1, 2],
        [3, 4],
      ]);
      const { buffer } = matrix.storage;
      const [difference] = apply("subtract", [Tensor.from([10, 20]), matrix], {}, { donate: [1] });
      expect(difference.storage.buffer).toBe(buffer);
      expect(values(difference)).toEqual([9, 18, 7, 16]);
    });
  });

  test("of a tensor that is both operands gives what no donation gives", () => {
    tidy(() => {
      const x = Tensor.from([3, 4]);
      const [y] = apply("multiply", [x, x], {}, { donate: [0, 1] });
      expect(values(y)).toEqual([9, 16]);
    });
  });

  test("of an error gives up nothing", () => {
    tidy(() => {
      const x = Tensor.from([3, 4]);
      expect(() => apply("add", [x, Tensor.from([1, 2, 3])], {}, { donate: [0] })).toThrow();
      expect(values(x)).toEqual([3, 4]);
    });
  });

  test.each([...worksInPlace])("of any operand of %s gives what no donation gives", (name) => {
    fc.assert(
      fc.property(samples[name], fc.constantFrom([0], [1], [0, 1]), (sample, positions) => {
        tidy(() => {
          const result = (donate: readonly number[]): number[] => {
            const { inputs, params } = realize(sample, "float32");
            const outputs: readonly Tensor[] = apply(name, inputs, params, { donate });
            return values(outputs[0]);
          };
          expect(result(positions.filter((position) => position < sample.inputs.length))).toEqual(result([]));
        });
      }),
      { numRuns: 30 },
    );
  });
});

describe("the pool of a backend", () => {
  const kinds = fc.constantFrom<DType>("float32", "float64", "int32");
  const commands = fc.array(fc.oneof(fc.record({ dtype: kinds, size: fc.nat(4) }), fc.nat(20)), { maxLength: 60 });

  test("never hands out a buffer that is in use, and counts what is", () => {
    fc.assert(
      fc.property(commands, (list) => {
        const backend = openReference();
        const live: TypedArray[] = [];
        let peak = 0;
        for (const command of list) {
          if (typeof command === "object") live.push(backend.alloc(command.dtype, command.size));
          else {
            const [freed] = live.splice(command % Math.max(1, live.length), 1);
            if (freed) backend.free(freed);
          }
          const bytes = live.reduce((sum, buffer) => sum + buffer.byteLength, 0);
          peak = Math.max(peak, live.length);
          expect(new Set(live).size).toBe(live.length);
          expect(backend.memory()).toMatchObject({ buffers: live.length, bytes, peakBuffers: peak });
        }
      }),
    );
  });

  test("hands out freed buffers again: of the same type and size, before any new one", () => {
    fc.assert(
      fc.property(kinds, fc.nat(100), fc.integer({ min: 1, max: 5 }), (dtype, size, count) => {
        const backend = openReference();
        const first = Array.from({ length: count }, () => backend.alloc(dtype, size));
        for (const buffer of first) backend.free(buffer);
        expect(backend.memory().pooledBytes).toBe(first.reduce((sum, buffer) => sum + buffer.byteLength, 0));
        const second = Array.from({ length: count }, () => backend.alloc(dtype, size));
        expect(new Set(second)).toEqual(new Set(first));
        expect(second.every((buffer) => first.includes(buffer))).toBe(true);
        expect(backend.memory().pooledBytes).toBe(0);
      }),
    );
  });

  test("lets go of more than half a gigabyte", () => {
    const backend = openReference();
    for (const buffer of Array.from({ length: 5 }, () => backend.alloc("float32", 2 ** 25))) backend.free(buffer);
    expect(backend.memory()).toMatchObject({ buffers: 0, bytes: 0, pooledBytes: 2 ** 29 });
  });

  test("when it is full, makes room for new sizes at the cost of the oldest", () => {
    const backend = openReference(1000);
    const pass = (dtype: DType, size: number): unknown => {
      const buffer = backend.alloc(dtype, size);
      backend.free(buffer);
      return buffer;
    };
    const pair = [backend.alloc("float32", 100), backend.alloc("float32", 100)];
    for (const buffer of pair) backend.free(buffer);
    const middle = pass("int32", 40);
    expect(backend.memory().pooledBytes).toBe(960);
    const newest = pass("float64", 50);
    expect(pass("float64", 50)).toBe(newest);
    expect(pass("int32", 40)).toBe(middle);
    expect(backend.memory()).toMatchObject({ buffers: 0, bytes: 0, pooledBytes: 960 });
    pass("float32", 1000); // more than all of it
    expect(backend.memory().pooledBytes).toBe(960);
    pass("float32", 250);
    expect(backend.memory().pooledBytes).toBe(1000);
    expect([backend.alloc("int32", 40), backend.alloc("float32", 100)].some((buffer) => [...pair, middle].includes(buffer))).toBe(false);
  });

  test("starts its peak anew from what is in use", () => {
    const backend = openReference();
    const [a, b] = [backend.alloc("float32", 10), backend.alloc("float64", 10)];
    backend.free(a);
    backend.resetPeak();
    expect(backend.memory()).toMatchObject({ peakBuffers: 1, peakBytes: 80 });
    backend.free(b);
  });

  test("gets back every buffer of a kernel that throws", () => {
    expect(() => {
      tidy(() => {
        vi.spyOn(defaultBackend(), "run").mockImplementation(() => {
          throw new Error("the device is on fire");
        });
        const x = Tensor.from([[1, 2]]);
        expect(() => apply("maxPool2d", [x.reshape([1, 1, 2, 1])], pooling)).toThrow("on fire");
        vi.restoreAllMocks();
      });
    }).toHaveNoLeaks();
  });
});

const pooling = { kernel: [1, 1], stride: [1, 1], dilation: [1, 1], padding: { top: 0, bottom: 0, left: 0, right: 0 } } as const;

test("a kernel gets one buffer for each output, of its size", () => {
  tidy(() => {
    const shape: Shape = [1, 4, 4, 3];
    const before = defaultBackend().memory();
    const [y, indices] = apply("maxPool2d", [Tensor.zeros(shape)], pooling);
    const after = defaultBackend().memory();
    expect(after.buffers - before.buffers).toBe(3);
    expect(after.bytes - before.bytes).toBe(3 * 4 * sizeOf(shape));
    expect([y.dtype, indices.dtype]).toEqual(["float32", "int32"]);
  });
});
