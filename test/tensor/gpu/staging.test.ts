import { expect, test } from "vitest";
import { Staging } from "../../../src/tensor/backends/gpu/staging.ts";

/* The buffers that reads go through: used again, but not kept without end. */

const mebibyte = 2 ** 20;

/** With a device that counts the bytes that it has given. */
function counted(): { staging: Staging; bytes: () => number; made: () => number } {
  let [bytes, made] = [0, 0];
  const device = {
    createBuffer({ size }: GPUBufferDescriptor) {
      [bytes, made] = [bytes + size, made + 1];
      return { size, destroy: () => void (bytes -= size) };
    },
  };
  return { staging: new Staging(device as unknown as GPUDevice), bytes: () => bytes, made: () => made };
}

test("a buffer is used again for what fills a good part of it", () => {
  const { staging, made } = counted();
  const buffer = staging.take(100_000);
  staging.give(buffer);
  expect(staging.take(50_000)).toBe(buffer);
  expect(staging.take(50_000)).not.toBe(buffer); // it is in use
  staging.give(buffer);
  expect(staging.take(100_004)).not.toBe(buffer); // too small
  expect(staging.take(20_000)).not.toBe(buffer); // too large
  expect(made()).toBe(4);
});

test.each([4, 100_000, 3 * mebibyte, 16 * mebibyte, 17 * mebibyte, 500 * mebibyte])(
  "of reads of %i bytes at once little is kept",
  (size) => {
    const { staging, bytes } = counted();
    const buffers = Array.from({ length: 20 }, () => staging.take(size));
    expect(bytes()).toBe(20 * size);
    for (const buffer of buffers) staging.give(buffer);
    expect(bytes()).toBe(size > 16 * mebibyte ? 0 : Math.min(8, Math.floor((16 * mebibyte) / size)) * size);
  },
);

test("what was read last is kept", () => {
  const { staging, bytes } = counted();
  const buffers = [1, 2, 3, 4, 5, 6].map((size) => staging.take(size * mebibyte));
  for (const buffer of buffers) staging.give(buffer);
  expect(bytes()).toBe((4 + 5 + 6) * mebibyte);
  expect(staging.take(6 * mebibyte)).toBe(buffers[5]);
});
