import { readFile, rename, writeFile } from "node:fs/promises";
import type { Module } from "../nn/index.ts";
import { CheckpointError, defaultBackend, Tensor } from "../tensor/index.ts";
import { decodeSafetensors, encodeSafetensors, type HostTensor } from "./safetensors.ts";

/** Facts about a checkpoint, stored as text beside its tensors. */
export type CheckpointMetadata = Readonly<Record<string, string>>;

/**
 * Writes a model's parameters and buffers as safetensors, named `model.<path>`. The file appears under its name only when it is
 * complete.
 */
export async function saveCheckpoint(path: string, model: Module, metadata: CheckpointMetadata): Promise<void> {
  const tensors = new Map<string, HostTensor>();
  for (const [name, tensor] of model.stateDict()) {
    tensors.set(`model.${name}`, { dtype: tensor.dtype, shape: tensor.shape, data: await tensor.data() });
    tensor.dispose();
  }
  const unfinished = `${path}.part`;
  await writeFile(unfinished, encodeSafetensors(tensors, { ...metadata, format: "kfacet" }));
  await rename(unfinished, path);
}

/** Loads what `saveCheckpoint` wrote. @throws CheckpointError if the file cannot be read or is another model's. */
export async function loadCheckpoint(path: string, model: Module): Promise<CheckpointMetadata> {
  const bytes = await readFile(path).catch((cause: unknown) => {
    throw new CheckpointError(`cannot read the checkpoint ${path}: ${String(cause)}`, { cause });
  });
  const { tensors, metadata } = decodeNamed(path, bytes);
  const state = new Map<string, Tensor>();
  const backend = model.parameters()[0]?.value.backend ?? defaultBackend();
  try {
    for (const [name, { data, shape, dtype }] of tensors) {
      if (name.startsWith("model.")) state.set(name.slice("model.".length), Tensor.from(data, { shape, dtype, backend }));
    }
    model.loadStateDict(state);
  } catch (cause) {
    throw inFile(path, cause);
  } finally {
    for (const tensor of state.values()) tensor.dispose();
  }
  return metadata;
}

function decodeNamed(path: string, bytes: Uint8Array): ReturnType<typeof decodeSafetensors> {
  try {
    return decodeSafetensors(bytes);
  } catch (cause) {
    throw inFile(path, cause);
  }
}

function inFile(path: string, cause: unknown): CheckpointError {
  return new CheckpointError(`${path}: ${cause instanceof Error ? cause.message : String(cause)}`, { cause });
}
