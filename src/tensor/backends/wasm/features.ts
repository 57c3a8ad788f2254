/**
 * What this JavaScript engine can run. Each probe is the smallest module that uses a feature: an engine without it does not
 * validate the module, and nothing is run.
 */
export interface Features {
  /** 128-bit SIMD: needed. */
  readonly simd: boolean;
  /** Fused multiply-add (relaxed SIMD): used if there. */
  readonly relaxedSimd: boolean;
  /** Memory shared between threads: used if there. */
  readonly sharedMemory: boolean;
}

const header = [0x00, 0x61, 0x73, 0x6d, 0x01, 0x00, 0x00, 0x00];
/** A type section with () → v128 and a function section with one function of it. */
const oneFunction = [0x01, 0x05, 0x01, 0x60, 0x00, 0x01, 0x7b, 0x03, 0x02, 0x01, 0x00];
/** A code section with one function without locals. */
const code = (...body: number[]): number[] => [0x0a, body.length + 4, 0x01, body.length + 2, 0x00, ...body, 0x0b];

// i32.const 0; i8x16.splat
const splat = [0x41, 0x00, 0xfd, 0x0f];
const simdProbe = [...header, ...oneFunction, ...code(...splat)];
// f32x4.relaxed_madd of three vectors
const relaxedProbe = [...header, ...oneFunction, ...code(...splat, ...splat, ...splat, 0xfd, 0x85, 0x02)];

export function features(): Features {
  const valid = (bytes: readonly number[]): boolean => WebAssembly.validate(Uint8Array.from(bytes));
  return { simd: valid(simdProbe), relaxedSimd: valid(relaxedProbe), sharedMemory: canShare() };
}

/** Whether memory can be shared with a worker. A browser page that is not cross-origin isolated has no `SharedArrayBuffer`. */
function canShare(): boolean {
  return typeof SharedArrayBuffer !== "undefined" && (globalThis as { crossOriginIsolated?: boolean }).crossOriginIsolated !== false;
}
