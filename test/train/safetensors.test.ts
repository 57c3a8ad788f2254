import { describe, expect, test } from "vitest";
import fc from "fast-check";
import { decodeSafetensors, encodeSafetensors, type HostTensor } from "../../src/train/safetensors.ts";
import { bytesPerElement, typedArray, type DType } from "../../src/tensor/dtype.ts";
import { CheckpointError, DTypeError, ShapeError, UsageError } from "../../src/tensor/errors.ts";
import { sizeOf } from "../../src/tensor/shape.ts";

/** A tensor of any type and small shape, zero extents included, whose bits are arbitrary: NaN of every payload, ±∞, −0. */
const hostTensors: fc.Arbitrary<HostTensor> = fc
  .record({
    dtype: fc.constantFrom<DType>("float32", "float64", "int32"),
    shape: fc.array(fc.integer({ min: 0, max: 4 }), { maxLength: 3 }),
  })
  .chain(({ dtype, shape }) => {
    const length = sizeOf(shape) * bytesPerElement[dtype];
    return fc.uint8Array({ minLength: length, maxLength: length }).map((bits) => {
      const data = typedArray(dtype, sizeOf(shape));
      new Uint8Array(data.buffer).set(bits);
      return { dtype, shape, data };
    });
  });

/** Names and metadata keys: any text, with what trips over JavaScript objects. */
const names = fc.oneof(
  fc.string({ unit: "binary" }),
  fc.string({ unit: "grapheme" }),
  fc.constantFrom("", "__proto__", "constructor", "10", "2", '"\\\n', "層.重み", "\ud800", "__metadata", "😀".repeat(50)),
);
const tensorMaps = fc
  .uniqueArray(fc.tuple(names, hostTensors), { selector: ([name]) => name, maxLength: 6 })
  .map((entries) => new Map(entries.filter(([name]) => name !== "__metadata__")));
const notes = fc
  .uniqueArray(fc.tuple(names, names), { selector: ([key]) => key, maxLength: 4 })
  .map((pairs): Record<string, string> => Object.fromEntries(pairs));

/** For comparison bit by bit: equality of numbers cannot tell −0 from 0 or one NaN from another. */
function bits(tensors: ReadonlyMap<string, HostTensor>): Map<string, unknown> {
  return new Map(
    [...tensors].map(([name, { dtype, shape, data }]) => [
      name,
      { dtype, shape, bits: [...new Uint8Array(data.buffer, data.byteOffset, data.byteLength)] },
    ]),
  );
}

/** A file with any header text and data. */
function file(header: unknown, dataLength = 0): Uint8Array {
  const text = new TextEncoder().encode(typeof header === "string" ? header : JSON.stringify(header));
  const bytes = new Uint8Array(8 + text.length + dataLength);
  new DataView(bytes.buffer).setUint32(0, text.length, true);
  bytes.set(text, 8);
  return bytes;
}

function float32(...values: number[]): HostTensor {
  return { dtype: "float32", shape: [values.length], data: Float32Array.from(values) };
}

describe("encode, then decode", () => {
  test("gives every tensor and every note back, bit for bit", () => {
    fc.assert(
      fc.property(tensorMaps, notes, (tensors, metadata) => {
        const decoded = decodeSafetensors(encodeSafetensors(tensors, metadata));
        expect(bits(decoded.tensors)).toEqual(bits(tensors));
        expect(Object.entries(decoded.metadata).sort()).toEqual(Object.entries(metadata).sort());
      }),
    );
  });

  test("preserves the payload of a NaN, −0 and ±∞", () => {
    const data = new Float32Array(4);
    new Uint32Array(data.buffer).set([0x7fa12345, 0x80000000, 0x7f800000, 0xff800000]);
    const { tensors } = decodeSafetensors(encodeSafetensors(new Map([["x", { dtype: "float32", shape: [4], data }]])));
    const read = tensors.get("x")?.data ?? new Float32Array(0);
    expect([...new Uint32Array(read.buffer)]).toEqual([0x7fa12345, 0x80000000, 0x7f800000, 0xff800000]);
    expect([...read]).toEqual([NaN, -0, Infinity, -Infinity]);
  });

  test("works on views into larger buffers, at any address", () => {
    fc.assert(
      fc.property(tensorMaps, fc.integer({ min: 0, max: 9 }), (tensors, offset) => {
        const bytes = encodeSafetensors(tensors);
        const shifted = new Uint8Array(bytes.length + 20).subarray(offset, offset + bytes.length);
        shifted.set(bytes);
        expect(bits(decodeSafetensors(shifted).tensors)).toEqual(bits(tensors));
      }),
    );
    const window = Float32Array.of(0, 1, 2, 3).subarray(1, 3);
    const { tensors } = decodeSafetensors(encodeSafetensors(new Map([["x", { dtype: "float32", shape: [2], data: window }]])));
    expect(tensors.get("x")?.data).toEqual(Float32Array.of(1, 2));
  });

  test("copies, also from a Node Buffer (whose slice shares memory)", () => {
    const bytes = Buffer.from(encodeSafetensors(new Map([["x", float32(1, 2)]])));
    const { tensors } = decodeSafetensors(bytes);
    bytes.fill(0);
    expect(tensors.get("x")?.data).toEqual(Float32Array.of(1, 2));
  });
});

describe("a file", () => {
  test("does not depend on the order of the maps", () => {
    fc.assert(
      fc.property(tensorMaps, notes, (tensors, metadata) => {
        const reversed = new Map([...tensors].reverse());
        const reversedNotes = Object.fromEntries(Object.entries(metadata).reverse());
        expect(encodeSafetensors(reversed, reversedNotes)).toEqual(encodeSafetensors(tensors, metadata));
      }),
    );
  });

  test("has its data, and each tensor in it, at a multiple of the element size", () => {
    fc.assert(
      fc.property(tensorMaps, notes, (tensors, metadata) => {
        const bytes = encodeSafetensors(tensors, metadata);
        const headerLength = new DataView(bytes.buffer).getUint32(0, true);
        expect((8 + headerLength) % 8).toBe(0);
        const header = JSON.parse(new TextDecoder().decode(bytes.subarray(8, 8 + headerLength))) as Record<
          string,
          { data_offsets?: [number, number] }
        >;
        for (const [name, { dtype }] of tensors) {
          const entry = Object.entries(header).find(([key]) => key === name)?.[1];
          expect((entry?.data_offsets?.[0] ?? NaN) % bytesPerElement[dtype]).toBe(0);
        }
      }),
    );
  });

  test("is what the format says, byte for byte", () => {
    const bytes = encodeSafetensors(new Map([["w", { dtype: "int32", shape: [1, 2], data: Int32Array.of(1, -2) }]]), { format: "pt" });
    const header = '{"__metadata__":{"format":"pt"},"w":{"dtype":"I32","shape":[1,2],"data_offsets":[0,8]}}';
    expect(header.length).toBe(87);
    expect([...bytes.subarray(0, 8)]).toEqual([88, 0, 0, 0, 0, 0, 0, 0]);
    expect(new TextDecoder().decode(bytes.subarray(8, 96))).toBe(`${header} `);
    expect([...bytes.subarray(96)]).toEqual([1, 0, 0, 0, 0xfe, 0xff, 0xff, 0xff]);
  });

  test("may list tensors in any order and hold nothing at all", () => {
    const header = {
      b: { dtype: "F32", shape: [], data_offsets: [4, 8] },
      empty: { dtype: "F64", shape: [0, 3], data_offsets: [4, 4] },
      a: { dtype: "I32", shape: [1], data_offsets: [0, 4] },
    };
    expect([...decodeSafetensors(file(header, 8)).tensors.keys()]).toEqual(["a", "empty", "b"]);
    expect(decodeSafetensors(file({}))).toEqual({ tensors: new Map(), metadata: {} });
  });
});

describe("decode refuses", () => {
  test("every truncation of a file", () => {
    fc.assert(
      fc.property(tensorMaps, notes, (tensors, metadata) => {
        const bytes = encodeSafetensors(tensors, metadata);
        for (let length = 0; length < bytes.length; length++) {
          expect(() => decodeSafetensors(bytes.subarray(0, length))).toThrow(CheckpointError);
        }
      }),
      { numRuns: 25 },
    );
  });

  test("anything else with a CheckpointError, never another", () => {
    const valid = encodeSafetensors(
      new Map([
        ["w", float32(1, 2, 3)],
        ["b", float32()],
      ]),
      { note: "x" },
    );
    fc.assert(
      fc.property(
        fc.oneof(
          fc.uint8Array(),
          fc
            .tuple(fc.nat(valid.length - 1), fc.nat(255))
            .map(([at, value]) => Uint8Array.from(valid, (byte, i) => (i === at ? value : byte))),
        ),
        (bytes) => {
          try {
            decodeSafetensors(bytes);
          } catch (error) {
            expect(error).toBeInstanceOf(CheckpointError);
          }
        },
      ),
      { numRuns: 2000 },
    );
  });

  const entry = { dtype: "F32", shape: [2], data_offsets: [0, 8] };
  test.each<[string, Uint8Array, string]>([
    ["an empty file", new Uint8Array(0), "truncated: it has 0 bytes"],
    ["a header longer than the file", new Uint8Array(8).fill(255), "announces a header of 18446744073709551615 bytes, but only 0 follow"],
    ["a header that is not JSON", file("{"), "the header is not JSON"],
    ["a header that is not UTF-8", Uint8Array.of(3, 0, 0, 0, 0, 0, 0, 0, 0x22, 0xff, 0x22), "the header is not JSON"],
    ["a header of length 0", new Uint8Array(8), "the header is not JSON"],
    ["a header that is a list", file([]), "should be a JSON object but is []"],
    ["an entry that is not an object", file({ w: 1 }), 'entry for "w" should be an object but is 1'],
    ["a type that kfacet has not", file({ w: { ...entry, dtype: "BF16" } }, 8), '"w" has dtype "BF16", but only F64, F32, I32'],
    ["a missing type", file({ w: { shape: [2], data_offsets: [0, 8] } }, 8), '"w" has dtype missing'],
    ["a type that is not text", file({ w: { ...entry, dtype: ["F32"] } }, 8), '"w" has dtype ["F32"]'],
    [
      "a negative extent",
      file({ w: { ...entry, shape: [-2] } }, 8),
      'the shape of "w" should list whole numbers of at least 0 but is [-2]',
    ],
    ["an extent that is not whole", file({ w: { ...entry, shape: [0.5] } }, 8), "but is [0.5]"],
    ["a missing shape", file({ w: { dtype: "F32", data_offsets: [0, 8] } }, 8), "but is missing"],
    ["one offset", file({ w: { ...entry, data_offsets: [0] } }, 8), 'data_offsets of "w" should be [begin, end] but are [0]'],
    ["offsets in reverse", file({ w: { ...entry, data_offsets: [8, 0] } }, 8), "but are [8,0]"],
    ["a negative offset", file({ w: { ...entry, data_offsets: [-8, 0] } }, 8), "but are [-8,0]"],
    ["offsets past the end", file({ w: entry }, 7), 'data of "w" [0, 8) are out of range: the file has 7 bytes of data'],
    ["a size that does not match", file({ w: { ...entry, shape: [3] } }, 8), '"w" of shape [3] and type float32 needs 12 bytes but has 8'],
    ["a shape too large for a number", file({ w: { ...entry, shape: [...new Array<number>(30).fill(2 ** 50), 0] } }, 8), "needs NaN bytes"],
    ["overlaps", file({ v: entry, w: { ...entry, data_offsets: [4, 12] } }, 12), 'the data of "w" [4, 12) overlap those of "v"'],
    ["gaps", file({ v: entry, w: { ...entry, data_offsets: [12, 20] } }, 20), 'bytes 8 to 12 before the data of "w" belong to no tensor'],
    ["bytes after the last tensor", file({ w: entry }, 9), "the last 1 bytes of the file belong to no tensor"],
    ["metadata that are not an object", file({ __metadata__: "x" }), "__metadata__ should be an object of strings"],
    ["metadata that are not text", file({ __metadata__: { epoch: 3 } }), '"epoch" is 3'],
  ])("%s", (_, bytes, message) => {
    expect(() => decodeSafetensors(bytes)).toThrow(CheckpointError);
    expect(() => decodeSafetensors(bytes)).toThrow(message);
  });
});

describe("encode refuses", () => {
  test("data that do not fit the shape", () => {
    const encode = (): unknown => encodeSafetensors(new Map([["w", { ...float32(1, 2), shape: [3] }]]));
    expect(encode).toThrow(ShapeError);
    expect(encode).toThrow('"w" of shape [3] needs 3 elements but its data have 2');
  });

  test("data of another type", () => {
    const encode = (): unknown => encodeSafetensors(new Map([["w", { ...float32(1), dtype: "int32" as const }]]));
    expect(encode).toThrow(DTypeError);
    expect(encode).toThrow('"w" is said to be int32 but its data are float32');
  });

  test("the name that the format keeps for itself", () => {
    expect(() => encodeSafetensors(new Map([["__metadata__", float32(1)]]))).toThrow(UsageError);
  });
});
