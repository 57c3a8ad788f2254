import { BackendError } from "../../errors.ts";
import { runtime } from "../../runtime.ts";

/** What the machine has. */
export interface Found {
  readonly adapter: GPUAdapter;
  readonly device: GPUDevice;
}

/** Where there is no adapter, this is what helps. */
const REMEDY =
  "on Linux install a Vulkan driver for your GPU, or the software driver (Debian: apt-get install libvulkan1 mesa-vulkan-drivers, " +
  `from bookworm-backports on Debian 12); or compute on the device "wasm"`;

const BROWSER_REMEDY = `open WebGL2 in its place with openBackend("gpu", { api: "webgl2" }), or compute on "wasm"`;

/**
 * An adapter and a device of its own with all that the adapter allows of what is used here.
 * @throws BackendError if there is none, saying what to do.
 */
export async function findDevice(): Promise<Found> {
  const gpu = await webgpu();
  const adapter = await gpu.requestAdapter({ powerPreference: "high-performance" });
  if (!adapter) throw new BackendError(`gpu: there is no graphics driver that WebGPU can use; ${isBrowser() ? BROWSER_REMEDY : REMEDY}`);
  const { maxStorageBufferBindingSize, maxBufferSize, maxStorageBuffersPerShaderStage } = adapter.limits;
  try {
    const requiredLimits = { maxStorageBufferBindingSize, maxBufferSize, maxStorageBuffersPerShaderStage };
    const requiredFeatures = (["subgroups"] as const).filter((feature) => adapter.features.has(feature));
    return { adapter, device: await adapter.requestDevice({ requiredLimits, requiredFeatures }) };
  } catch (cause) {
    throw new BackendError(`gpu: the adapter "${nameOf(adapter)}" gives no device (${String(cause)}); ${REMEDY}`, { cause });
  }
}

/** What is known of a device, of which browsers tell less. */
export interface DeviceFacts {
  readonly adapter: string;
  /** Null where it is not told. */
  readonly driver: string | null;
  /** Whether a CPU does the work. */
  readonly software: boolean;
  /** Bytes of a buffer and of what a kernel sees of one, and workgroups along an axis. */
  readonly limits: Pick<GPUSupportedLimits, "maxBufferSize" | "maxStorageBufferBindingSize" | "maxComputeWorkgroupsPerDimension">;
}

export function factsOf({ adapterInfo, limits }: GPUDevice): DeviceFacts {
  const { maxBufferSize, maxStorageBufferBindingSize, maxComputeWorkgroupsPerDimension } = limits;
  return {
    adapter: nameOf({ info: adapterInfo }),
    driver: adapterInfo.description || null, // Dawn's description is the driver's
    software: adapterInfo.isFallbackAdapter,
    limits: { maxBufferSize, maxStorageBufferBindingSize, maxComputeWorkgroupsPerDimension },
  };
}

/** Of the adapter. Dawn has a dash for what is no letter and no digit; browsers tell vendor and architecture only. */
export function nameOf({ info: { device, vendor, architecture, description } }: Pick<GPUAdapter, "info">): string {
  return device.replace(/-+$/, "") || [vendor, architecture].filter(Boolean).join(" ") || description || "unnamed";
}

/** Dawn's, kept for the life of the process: devices of one that was garbage collected crash. */
let dawn: GPU | undefined;

export function isBrowser(): boolean {
  return !runtime().getBuiltinModule;
}

export function hasWebGpu(): boolean {
  return Boolean(browsers());
}

/** A browser's. */
function browsers(): GPU | undefined {
  return (globalThis as { navigator?: { readonly gpu?: GPU } }).navigator?.gpu;
}

/** Of the browser; in Node, Dawn's. */
async function webgpu(): Promise<GPU> {
  const gpu = browsers();
  if (gpu) return gpu;
  if (isBrowser()) {
    throw new BackendError(`gpu: this browser has no WebGPU (navigator.gpu), or the page is not in a secure context; ${BROWSER_REMEDY}`);
  }
  try {
    return (dawn ??= (await import("webgpu")).create([]));
  } catch (cause) {
    const why = cause instanceof Error ? cause.message : String(cause);
    throw new BackendError(`gpu: the npm package webgpu cannot be loaded (${why}); compute on the device "wasm"`, { cause });
  }
}
