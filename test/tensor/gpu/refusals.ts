import { vi } from "vitest";

/* Errors, and how a device comes to refuse what it is told. */

/** What a promise is rejected with. */
export async function errorOf(promise: Promise<unknown>): Promise<Error> {
  const outcome = await promise.catch((error: unknown) => error);
  if (!(outcome instanceof Error)) throw new Error("nothing was thrown");
  return outcome;
}

/** What a function throws. */
export const thrown = (f: () => unknown): Promise<Error> =>
  errorOf(
    new Promise((resolve) => {
      resolve(f());
    }),
  );

/** Uses up a device's memory: no buffer that is made from now on is there. One that is too large is not there either, for another reason. */
export function exhaust(device: GPUDevice): void {
  const createBuffer = device.createBuffer.bind(device);
  vi.spyOn(device, "createBuffer").mockImplementation((descriptor) =>
    createBuffer({ ...descriptor, size: device.limits.maxBufferSize + 1 }),
  );
  mistake(device, { "out-of-memory": "validation" });
}

/** Has a device take errors of a kind for those of another. */
export function mistake(device: GPUDevice, kinds: Partial<Record<GPUErrorFilter, GPUErrorFilter>>): void {
  const pushErrorScope = device.pushErrorScope.bind(device);
  vi.spyOn(device, "pushErrorScope").mockImplementation((kind) => {
    pushErrorScope(kinds[kind] ?? kind);
  });
}
