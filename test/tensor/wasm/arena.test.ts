import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { Arena, type Block } from "../../../src/tensor/backends/wasm/arena.ts";
import { BackendError } from "../../../src/tensor/index.ts";

/* The allocator against a model of it: the list of blocks in use. */

const ALIGNMENT = 64;
const PAGE = 65536;
const aligned = (bytes: number): number => Math.max(ALIGNMENT, Math.ceil(bytes / ALIGNMENT) * ALIGNMENT);

/** The part of a memory that the allocator uses, without gigabytes behind it. `willing` is where the host stops to give more. */
class Pages {
  buffer: { readonly byteLength: number };
  readonly #willing: number;
  refusals = 0;

  constructor(pages: number, willing = 65536) {
    this.buffer = { byteLength: pages * PAGE };
    this.#willing = willing;
  }
  grow(pages: number): number {
    const before = this.buffer.byteLength / PAGE;
    if (before + pages > this.#willing) {
      this.refusals++;
      throw new RangeError("no more");
    }
    this.buffer = { byteLength: (before + pages) * PAGE };
    return before;
  }
}
const memoryOf = (pages: Pages): WebAssembly.Memory => pages as unknown as WebAssembly.Memory;

/** An arena with a limit of `limit` bytes, and what must be true of it at any time. */
class Checked {
  readonly pages = new Pages(1);
  readonly start: number;
  readonly limit: number;
  readonly arena: Arena;
  readonly used: { block: Block; wanted: number; size: number; origin: string }[] = [];
  #peak = { bytes: 0, blocks: 0 };

  constructor(start: number, limit: number) {
    this.start = Math.ceil(start / ALIGNMENT) * ALIGNMENT;
    this.limit = limit;
    this.arena = new Arena(memoryOf(this.pages), start, limit);
  }

  get bytes(): number {
    return this.used.reduce((sum, { size }) => sum + size, 0);
  }

  /** Runs of free bytes between blocks, up to the end of what was given out. */
  gaps(): { from: number; size: number }[] {
    const gaps: { from: number; size: number }[] = [];
    let from = this.start;
    for (const { block, size } of this.used.toSorted((a, b) => a.block.start - b.block.start)) {
      if (block.start > from) gaps.push({ from, size: block.start - from });
      from = block.start + size;
    }
    if (from < this.arena.reach) gaps.push({ from, size: this.arena.reach - from });
    return gaps;
  }

  alloc(wanted: number, origin: string): void {
    const size = aligned(wanted);
    const gaps = this.gaps();
    const reach = this.arena.reach;
    const last = gaps.at(-1);
    const end = last && last.from + last.size === reach ? last.from : reach;
    if (!gaps.some((gap) => gap.size >= size) && end + size > this.limit) {
      expect(() => this.arena.alloc(wanted, origin)).toThrow(BackendError);
      expect(this.arena.reach).toBe(reach);
      return;
    }
    const block = this.arena.alloc(wanted, origin);
    this.used.push({ block, wanted, size: block.size, origin });
    // Reuse goes before fresh memory, and fresh memory joins what is free at the end.
    expect(this.arena.reach).toBe(gaps.some((gap) => gap.size >= size) ? reach : end + size);
    expect(block.size).toBe(size);
    expect(block.origin).toBe(origin);
    this.#peak = { bytes: Math.max(this.#peak.bytes, this.bytes), blocks: Math.max(this.#peak.blocks, this.used.length) };
  }

  free(which: number): void {
    if (this.used.length === 0) return;
    const [gone] = this.used.splice(which % this.used.length, 1) as [(typeof this.used)[number]];
    this.arena.free(gone.block);
    expect(() => this.arena.free(gone.block)).toThrow(/^wasm: the block at \d+ was freed twice$/);
  }

  resetPeak(): void {
    this.arena.resetPeak();
    this.#peak = { bytes: this.bytes, blocks: this.used.length };
  }

  check(): void {
    const { arena } = this;
    let end = this.start;
    for (const { block, size } of this.used.toSorted((a, b) => a.block.start - b.block.start)) {
      expect(block.start % ALIGNMENT).toBe(0);
      expect(block.start).toBeGreaterThanOrEqual(end);
      expect(block.size).toBe(size);
      end = block.start + size;
    }
    expect(arena.reach).toBeGreaterThanOrEqual(end);
    expect(this.pages.buffer.byteLength).toBeGreaterThanOrEqual(end);
    expect(this.pages.buffer.byteLength).toBeLessThanOrEqual(Math.max(PAGE, this.limit));
    expect([arena.blocks, arena.bytes]).toEqual([this.used.length, this.bytes]);
    expect([arena.peakBlocks, arena.peakBytes]).toEqual([this.#peak.blocks, this.#peak.bytes]);
    expect(arena.idleBytes).toBe(this.gaps().reduce((sum, { size }) => sum + size, 0));
    const sizes = new Map<number, number>();
    for (const { size } of this.used) sizes.set(size, (sizes.get(size) ?? 0) + 1);
    const bySize = [...sizes].map(([size, count]) => ({ size, count })).sort((a, b) => b.size - a.size);
    expect(arena.bySize()).toEqual(bySize);
  }
}

/** Sizes of every order, often the same ones: a program has few shapes. */
const sizes = fc.oneof(fc.constantFrom(0, 1, 63, 64, 65, 4096, 70_000, 300_000), fc.nat(300), fc.nat(20_000), fc.nat(3_000_000));
type Command = { readonly alloc: number; readonly origin: string } | { readonly free: number } | "resetPeak";
const commands = fc.array(
  fc.oneof(
    { weight: 10, arbitrary: fc.record({ alloc: sizes, origin: fc.constantFrom("conv2d", "add", "matmul") }) },
    { weight: 9, arbitrary: fc.record({ free: fc.nat(1000) }) },
    { weight: 1, arbitrary: fc.constant<Command>("resetPeak") },
  ),
  { maxLength: 120, size: "max" },
);

function follow(checked: Checked, list: readonly Command[]): void {
  for (const command of list) {
    if (command === "resetPeak") checked.resetPeak();
    else if ("alloc" in command) checked.alloc(command.alloc, command.origin);
    else checked.free(command.free);
    checked.check();
  }
}

describe("any sequence of requests", () => {
  test("gives blocks that are aligned and apart, reuses what is free, and is counted", () => {
    fc.assert(
      fc.property(commands, fc.nat(5000), (list, start) => {
        const checked = new Checked(start, 2 ** 32);
        follow(checked, list);
      }),
      { numRuns: 60 },
    );
  });

  test("leaves, when all is freed in any order, one free block", () => {
    fc.assert(
      fc.property(commands, fc.infiniteStream(fc.nat(1000)), (list, order) => {
        const checked = new Checked(1000, 2 ** 32);
        follow(checked, list);
        for (const which of order) {
          if (checked.used.length === 0) break;
          checked.free(which);
        }
        checked.check();
        const { arena, start } = checked;
        const { reach } = arena;
        expect([arena.blocks, arena.bytes, arena.idleBytes]).toEqual([0, 0, reach - start]);
        if (reach === start) return;
        expect(arena.alloc(reach - start, "all")).toMatchObject({ start, size: reach - start });
        expect(arena.reach).toBe(reach);
      }),
      { numRuns: 40 },
    );
  });

  test("near the limit fails where nothing is free that is large enough, and only there, and changes nothing then", () => {
    fc.assert(
      fc.property(commands, fc.integer({ min: 4, max: 60 }), (list, pages) => {
        follow(new Checked(1000, pages * PAGE), list);
      }),
      { numRuns: 60 },
    );
  });
});

describe("a freed block", () => {
  test("serves the next request of its size, before larger ones are split", () => {
    const arena = new Arena(memoryOf(new Pages(64)), 0, 2 ** 32);
    const blocks = [4096, 64, 1000, 64, 8192, 64, 1000, 64].map((bytes) => arena.alloc(bytes, "x"));
    const [large, , first, , larger, , second] = blocks as [Block, Block, Block, Block, Block, Block, Block];
    for (const block of [large, first, larger, second]) arena.free(block);
    const again = [arena.alloc(1000, "x"), arena.alloc(1000, "x")].map(({ start }) => start);
    expect(again.sort((a, b) => a - b)).toEqual([first.start, second.start]);
    expect(arena.alloc(8192, "x").start).toBe(larger.start);
    expect(arena.alloc(4096, "x").start).toBe(large.start);
  });

  test("joins both of its neighbours", () => {
    const arena = new Arena(memoryOf(new Pages(64)), 0, 2 ** 32);
    const [a, b, c] = [0, 1, 2].map(() => arena.alloc(640, "x")) as [Block, Block, Block];
    const end = arena.alloc(64, "x");
    arena.free(a);
    arena.free(c);
    arena.free(b);
    const { reach } = arena;
    expect(arena.alloc(3 * 640, "x").start).toBe(a.start);
    expect(arena.reach).toBe(reach);
    expect(end.start).toBe(3 * 640);
  });

  test("of another arena is not this one's", () => {
    const [one, other] = [new Arena(memoryOf(new Pages(64)), 0, 2 ** 32), new Arena(memoryOf(new Pages(64)), 0, 2 ** 32)];
    const block = one.alloc(64, "x");
    expect(() => other.free(block)).toThrow(BackendError);
    one.free(block);
  });
});

describe("the memory", () => {
  test("can be used to its last byte at 4 GiB", () => {
    const pages = new Pages(64);
    const arena = new Arena(memoryOf(pages), PAGE, 2 ** 32);
    const half = arena.alloc(2 ** 31, "x");
    const rest = arena.alloc(2 ** 32 - PAGE - 2 ** 31, "x");
    expect([half.start, rest.start, rest.start + rest.size]).toEqual([PAGE, PAGE + 2 ** 31, 2 ** 32]);
    expect(pages.buffer.byteLength).toBe(2 ** 32);
    expect(() => arena.alloc(1, "x")).toThrow(BackendError);
    arena.free(rest);
    expect(arena.alloc(100, "x").start).toBe(PAGE + 2 ** 31);
  });

  test.each([2 ** 32, 2 ** 38 + 64, 2 ** 38 + 2 ** 37, 2 ** 53, 1e30, Infinity])("is not enough for %d bytes, ever", (bytes) => {
    const arena = new Arena(memoryOf(new Pages(64)), PAGE, 2 ** 32);
    const [kept, freed] = [arena.alloc(1000, "x"), arena.alloc(10_000, "x")];
    arena.free(freed);
    expect(() => arena.alloc(bytes, "x")).toThrow(BackendError);
    expect([arena.blocks, arena.bytes]).toEqual([1, kept.size]);
    expect(arena.alloc(10_000, "x").start).toBe(freed.start);
  });

  test("grows by what is asked for where the host gives no more, and then says so", () => {
    const pages = new Pages(1, 20);
    const arena = new Arena(memoryOf(pages), 0, 2 ** 32);
    expect(arena.alloc(19 * PAGE, "x").start).toBe(0);
    expect(arena.alloc(PAGE, "x").start).toBe(19 * PAGE);
    expect(pages.buffer.byteLength).toBe(20 * PAGE);
    expect(pages.refusals).toBe(1); // by an eighth, before by one page
    expect(() => arena.alloc(1, "x")).toThrow(BackendError);
    expect(pages.buffer.byteLength).toBe(20 * PAGE);
  });

  test("passes on what is no refusal", () => {
    const broken = { buffer: { byteLength: PAGE }, grow: () => expect.fail("the host is on fire") } as unknown as WebAssembly.Memory;
    expect(() => new Arena(broken, 0, 2 ** 32).alloc(2 * PAGE, "x")).toThrow("on fire");
  });

  test("of a real engine grows with it", () => {
    for (const shared of [false, true]) {
      const memory = new WebAssembly.Memory({ initial: 1, maximum: 65536, shared });
      const arena = new Arena(memory, 100, 2 ** 32);
      const block = arena.alloc(10 * PAGE, "x");
      new Uint8Array(memory.buffer, block.start, block.size).fill(7);
      expect(memory.buffer.byteLength).toBeGreaterThanOrEqual(block.start + block.size);
    }
  });
});

describe("the error at the end of the memory", () => {
  const MIB = 2 ** 20;
  const refusal = (arena: Arena, bytes: number): string => {
    try {
      arena.alloc(bytes, "conv2d");
    } catch (error) {
      if (error instanceof BackendError) return error.message;
      throw error;
    }
    return expect.fail("nothing was refused");
  };

  test("names the request, what is in use of how much, the largest holders by operation, and what to do", () => {
    const arena = new Arena(memoryOf(new Pages(1)), 0, 64 * MIB);
    const holders = { matmul: 10, relu: 8, add: 6, multiply: 5, gather: 2, exp: 1 };
    for (const [origin, size] of Object.entries(holders)) {
      for (let i = 0; i < 2; i++) arena.alloc((size / 2) * MIB, origin);
    }
    expect(refusal(arena, 40 * MIB)).toBe(
      "wasm: no memory for 40.0 MiB wanted by conv2d: 32.0 MiB of at most 64.0 MiB are in use, " +
        "most by matmul 10.0 MiB, relu 8.0 MiB, add 6.0 MiB, multiply 5.0 MiB, gather 2.0 MiB; " +
        "the largest free piece has 32.0 MiB; " +
        "use a smaller batch, or free tensors with tidy(…) or dispose()",
    );
  });

  test("tells of the largest piece, where enough is free but not in one", () => {
    const arena = new Arena(memoryOf(new Pages(1)), 0, 64 * MIB);
    const blocks = [10, 1, 20, 1, 15, 1].map((size) => arena.alloc(size * MIB, "x"));
    expect(refusal(arena, 40 * MIB)).toContain(
      "48.0 MiB of at most 64.0 MiB are in use, most by x 48.0 MiB; the largest free piece has 16.0 MiB;",
    );
    for (const at of [0, 2, 4]) arena.free(blocks[at] as Block);
    expect(refusal(arena, 21 * MIB)).toContain(
      "3.0 MiB of at most 64.0 MiB are in use, most by x 3.0 MiB; the largest free piece has 20.0 MiB;",
    );
    arena.free(blocks[5] as Block);
    expect(refusal(arena, 33 * MIB)).toContain("the largest free piece has 32.0 MiB;"); // with what was never given out
    expect(arena.alloc(32 * MIB, "x").start).toBe(32 * MIB);
  });

  test("counts small sizes in bytes, and names no holders where there are none", () => {
    const arena = new Arena(memoryOf(new Pages(1)), 0, PAGE);
    expect(refusal(arena, 100_000)).toMatch(
      /^wasm: no memory for 100032 bytes wanted by conv2d: 0 bytes of at most 65536 bytes are in use; the largest free piece has 65536 bytes; use/,
    );
  });
});
