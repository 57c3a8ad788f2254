import { describe, expect, test, vi } from "vitest";
import type { WebGpuBackend } from "../../../src/tensor/backends/gpu/index.ts";
import { portable, type DeviceArray } from "../../../src/tensor/backends/gpu/kernel.ts";
import type { WgslKernel } from "../../../src/tensor/backends/gpu/queue.ts";
import { apply, BackendError, openBackend, Tensor, tidy } from "../../../src/tensor/index.ts";
import { describeOnGpu } from "./gpu.ts";
import { errorOf, exhaust, mistake, thrown } from "./refusals.ts";

/* What goes wrong on a device, and what remains then: an error that says what to do, and never a number that may be wrong. */

const arrayOf = (tensor: Tensor): DeviceArray => tensor.storage.buffer as DeviceArray;
const values = async (tensor: Tensor): Promise<number[]> => [...(await tensor.data())];

const broken: WgslKernel = { name: "half a kernel", code: "@compute @workgroup_size(64) fn main() { let x = ; }", reads: 0, writes: 1 };
const remedy = /nothing more is computed on this device.*openBackend\("gpu".*"wasm".*the last checkpoint/s;

/** Ways to make a device refuse something, given a tensor of it; and what is said of that. */
const refusals: [what: string, refuse: (backend: WebGpuBackend, x: Tensor) => void, says: RegExp][] = [
  [
    "a kernel in WGSL that does not compile",
    ({ queue }, x) => {
      queue.runWgsl(broken, [1, 1, 1], [], [arrayOf(x)], []);
    },
    /^gpu: the kernel "half a kernel" does not compile: .*overrides: false.*\n@compute @workgroup_size\(64\) fn main\(\) \{ let x = ; \}$/s,
  ],
  [
    "a kernel that its driver cannot compile",
    ({ queue, device }, x) => {
      mistake(device, { validation: "internal", internal: "validation" });
      queue.runWgsl(broken, [1, 1, 1], [], [arrayOf(x)], []);
    },
    /^gpu: the kernel "half a kernel" does not compile: .*\n@compute/s,
  ],
  [
    "a buffer, having no memory for it",
    ({ device }, x) => {
      exhaust(device);
      x.broadcastTo([1000, 1000, 3]).dispose();
    },
    /^gpu: broadcastTo needs 12582912 bytes of memory, and the device has none left \(0\.0 MiB in 2 buffers are in use, and 0\.0 MiB are kept for reuse\): .*use a smaller batch/s,
  ],
  [
    "a command that is against the rules",
    (_, x) => {
      (arrayOf(x).block.resource as GPUBuffer).destroy();
      x.add(1).dispose();
    },
    /^gpu: the device refused a command: /,
  ],
];

describeOnGpu("a GPU", (open) => {
  describe.each(refusals)("that refuses %s", (_, refuse, says) => {
    test("says so from then on, and gives no number that was computed with it out", async () => {
      const backend = await open();
      const x = Tensor.from([1, 2, 3], { backend });
      const before = tidy(() => Tensor.from([4, 5, 6], { backend }).exp());
      refuse(backend, x);
      const after = backend.alloc("float32", 3);
      const told = await errorOf(before.data());
      expect(told).toBeInstanceOf(BackendError);
      expect(told.message).toMatch(says);
      expect(told.message).toMatch(remedy);
      for (const error of [
        await errorOf(before.data()),
        await errorOf(x.data()),
        await errorOf(backend.download(after)),
        await thrown(() => x.add(1)),
        await thrown(() => before.add(x)),
        await thrown(() => Tensor.from([1], { backend })),
        await thrown(() => Tensor.zeros([100_000], { backend })),
        await thrown(() => backend.alloc("float32", 100_000)),
      ]) {
        expect(error).toBeInstanceOf(BackendError);
        expect(error.message).toBe(told.message);
      }
      // It is of no use any more, and keeps no memory from others.
      expect(backend.closed).toBe(true);
      expect((await backend.device.lost).reason).toBe("destroyed");
      backend.free(after);
      for (const tensor of [x, before]) tensor.dispose();
    });

    test("tells all who are reading", async () => {
      const backend = await open();
      const tensors = [1, 2, 3].map((value) => Tensor.full([3], value, { backend }));
      refuse(backend, tensors[0] as Tensor);
      const errors = await Promise.all(tensors.map((tensor) => errorOf(tensor.data())));
      expect(new Set(errors.map(({ message }) => message)).size).toBe(1);
      for (const error of errors) expect(error.message).toMatch(remedy);
    });
  });

  test("that tells of a refusal after it has read is waited for", async () => {
    const backend = await open();
    const { device } = backend;
    using x = Tensor.from([1, 2, 3], { backend });
    const popErrorScope = device.popErrorScope.bind(device);
    vi.spyOn(device, "popErrorScope").mockImplementation(async () => {
      const error = await popErrorScope();
      await new Promise((resolve) => setTimeout(resolve, 50));
      return error;
    });
    backend.queue.runWgsl(broken, [1, 1, 1], [], [arrayOf(x)], []);
    expect((await errorOf(x.data())).message).toMatch(/^gpu: the kernel "half a kernel" does not compile/);
  });

  test("that refused something is replaced by another when one is opened", async () => {
    const first = (await openBackend("gpu")) as WebGpuBackend;
    const x = Tensor.from([1, 2], { backend: first });
    exhaust(first.device);
    x.add(1).dispose();
    await errorOf(x.data());
    const second = await openBackend("gpu");
    try {
      expect(second).not.toBe(first);
      using y = Tensor.from([1, 2], { backend: second });
      expect(await values(y)).toEqual([1, 2]);
    } finally {
      second.close?.();
    }
  });

  test("tells of gpu.js's refusal to translate at once, with the kernel's name and text, and goes on", async () => {
    const backend = await open();
    using x = Tensor.from([1], { backend });
    const strange = portable("no JavaScript", {}, "return this.thread.;");
    const error = await thrown(() => backend.queue.run(strange, [1], arrayOf(x), {}));
    expect(error).toBeInstanceOf(BackendError);
    expect(error.message).toContain('gpu: gpu.js cannot translate the kernel "no JavaScript"');
    expect(error.message).toContain(strange.body);
    expect(await values(x)).toEqual([1]);
  });

  test("leaves the operand of an operation that fails to its owner", async () => {
    const backend = await open();
    const numbers = Array.from({ length: 64 }, (_, i) => i);
    const x = Tensor.from(numbers, { shape: [2, 2, 2, 2, 2, 2], backend });
    using y = Tensor.ones([2, 1, 2, 1, 2, 1], { backend });
    const { buffers } = backend.memory();
    for (let round = 0; round < 3; round++) {
      const error = await thrown(() => apply("add", [x, y], {}, { donate: [0] }));
      expect(error.message).toContain("add of shape [2, 2, 2, 2, 2, 2] walks 6 axes");
    }
    expect(backend.memory().buffers).toBe(buffers);
    expect(await values(x)).toEqual(numbers);
    const block = arrayOf(x);
    using sum = tidy(() => apply("add", [x, Tensor.ones([2], { backend })], {}, { donate: [0] })[0]);
    expect(arrayOf(sum)).toBe(block); // in place, when it does not fail
    expect(await values(sum)).toEqual(numbers.map((value) => value + 1));
  });

  test("says what to do once it is lost, to operations and to reads", async () => {
    const lost = await open();
    const x = Tensor.from([1, 2], { backend: lost });
    const y = x.add(x);
    lost.device.destroy();
    const another = /gpu: the device is lost .* openBackend\("gpu"\).*"wasm"/;
    for (const error of [await errorOf(y.data()), await thrown(() => x.add(x)), await thrown(() => Tensor.from([1], { backend: lost }))]) {
      expect(error).toBeInstanceOf(BackendError);
      expect(error.message).toMatch(another);
    }
    expect(lost.closed).toBe(true);
    // What is left of its tensors can be dropped.
    for (const tensor of [x, y]) tensor.dispose();
  });

  test("that is lost tells a read that is under way", async () => {
    const lost = await open();
    const x = Tensor.zeros([1000], { backend: lost });
    const reading = errorOf(x.data());
    lost.device.destroy();
    expect((await reading).message).toMatch(/the device is lost/);
  });

  test("that was closed says so", async () => {
    const closed = await open();
    const x = Tensor.from([1, 2], { backend: closed });
    closed.close?.();
    expect(closed.closed).toBe(true);
    expect((await errorOf(x.data())).message).toMatch(/the device is lost \(it was closed\)/);
  });

  test("that is lost is replaced by another when one is opened", async () => {
    const first = (await openBackend("gpu")) as WebGpuBackend;
    expect(await openBackend("gpu")).toBe(first);
    first.device.destroy();
    await first.device.lost;
    const second = await openBackend("gpu");
    try {
      expect(second).not.toBe(first);
      using x = Tensor.from([1, 2], { backend: second });
      using y = x.add(1);
      expect(await values(y)).toEqual([2, 3]);
    } finally {
      second.close?.();
    }
  });

  test("that has no memory for what is to be read says so", async () => {
    const backend = await open();
    using x = Tensor.full([100_000], 1, { backend });
    using small = Tensor.full([1], 2, { backend });
    await small.data();
    exhaust(backend.device);
    expect(await values(small)).toEqual([2]); // there is a buffer for that
    expect((await errorOf(x.data())).message).toMatch(
      /^gpu: a command needs memory, and the device has none left \(0\.5 MiB in 2 buffers are.*use a smaller batch/s,
    );
  });

  test("has no buffer left of a read that fails", async () => {
    const backend = await open();
    const { device } = backend;
    using x = Tensor.from([1, 2, 3], { backend });
    const createBuffer = device.createBuffer.bind(device);
    let destroyed = 0;
    vi.spyOn(device, "createBuffer").mockImplementationOnce((descriptor) => {
      const buffer = createBuffer({ ...descriptor, size: device.limits.maxBufferSize + 1 });
      vi.spyOn(buffer, "destroy").mockImplementation(() => {
        destroyed++;
      });
      return buffer;
    });
    expect((await errorOf(x.data())).message).toMatch(/the device refused a command/);
    expect(destroyed).toBe(1);
  });
});
