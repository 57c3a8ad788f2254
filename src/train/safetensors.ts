import {
  bytesPerElement,
  CheckpointError,
  DTypeError,
  dtypeOf,
  formatShape,
  ShapeError,
  sizeOf,
  typedArray,
  UsageError,
  type DType,
  type Shape,
  type TypedArray,
} from "../tensor/index.ts";

/**
 * The safetensors file format, as bytes in memory (https://huggingface.co/docs/safetensors: "Format"). All of it is little-endian:
 *
 *     8 bytes            header length N, an unsigned integer
 *     N bytes            header, JSON in UTF-8: { "__metadata__": { key: string, … }, name: { "dtype", "shape", "data_offsets" }, … }
 *     the rest           the elements of each tensor, row-major; data_offsets [begin, end) count from here, without gaps or overlap
 *
 * It holds no code, so that a file from a stranger can be read, and PyTorch, JAX and the browser read it too.
 */
export interface HostTensor {
  readonly dtype: DType;
  readonly shape: Shape;
  readonly data: TypedArray;
}

export interface SafetensorsContent {
  /** In the order of their data in the file. */
  readonly tensors: Map<string, HostTensor>;
  /** Empty if the file has none. */
  readonly metadata: Record<string, string>;
}

const formatName: Readonly<Record<DType, string>> = { float64: "F64", float32: "F32", int32: "I32" };
const dtypeByFormatName: ReadonlyMap<unknown, DType> = new Map(Object.entries(formatName).map(([dtype, name]) => [name, dtype as DType]));
const metadataKey = "__metadata__";
const lengthBytes = 8;
const alignment = 8;

/**
 * The bytes of a file that holds `tensors` and `metadata`. Equal contents give equal bytes, whatever the order of the maps:
 * metadata go by key; tensors by element size, the largest first, so that each is aligned, and then by name.
 *
 * @throws ShapeError or DTypeError if `data` is not what `shape` or `dtype` say; UsageError for a tensor named `__metadata__`.
 */
export function encodeSafetensors(
  tensors: ReadonlyMap<string, HostTensor>,
  metadata: Readonly<Record<string, string>> = {},
): Uint8Array<ArrayBuffer> {
  requireLittleEndian();
  const sorted = [...tensors].sort(
    ([nameA, a], [nameB, b]) => bytesPerElement[b.dtype] - bytesPerElement[a.dtype] || compareText(nameA, nameB),
  );
  // Written out by hand: a JavaScript object would move names like "10" to the front and take "__proto__" for something else.
  const fields: string[] = [];
  const notes = Object.entries(metadata).sort(([a], [b]) => compareText(a, b));
  if (notes.length > 0) {
    fields.push(`"${metadataKey}":{${notes.map(([key, value]) => `${JSON.stringify(key)}:${JSON.stringify(value)}`).join(",")}}`);
  }
  let dataLength = 0;
  for (const [name, tensor] of sorted) {
    checkTensor(name, tensor);
    const begin = dataLength;
    dataLength += tensor.data.byteLength;
    const entry = { dtype: formatName[tensor.dtype], shape: tensor.shape, data_offsets: [begin, dataLength] };
    fields.push(`${JSON.stringify(name)}:${JSON.stringify(entry)}`);
  }

  const header = new TextEncoder().encode(`{${fields.join(",")}}`);
  const dataStart = Math.ceil((lengthBytes + header.length) / alignment) * alignment;
  const bytes = new Uint8Array(dataStart + dataLength);
  new DataView(bytes.buffer).setBigUint64(0, BigInt(dataStart - lengthBytes), true);
  bytes.set(header, lengthBytes);
  bytes.fill(0x20, lengthBytes + header.length, dataStart);
  let position = dataStart;
  for (const [, { data }] of sorted) {
    // As bytes, not as numbers: the payload of a NaN survives.
    bytes.set(new Uint8Array(data.buffer, data.byteOffset, data.byteLength), position);
    position += data.byteLength;
  }
  return bytes;
}

/**
 * The contents of a safetensors file with the types float32, float64 and int32. The data are copied, so `bytes` may start at
 * any address and be changed afterwards.
 *
 * @throws CheckpointError if the file is cut off, is not this format, contradicts itself, or has another type.
 */
export function decodeSafetensors(bytes: Uint8Array): SafetensorsContent {
  requireLittleEndian();
  const { header, dataStart } = readHeader(bytes);
  const { [metadataKey]: notes, ...entries } = header;
  const dataLength = bytes.length - dataStart;
  const ordered = Object.entries(entries)
    .map(([name, entry]) => ({ name, ...readEntry(name, entry, dataLength) }))
    .sort((a, b) => a.begin - b.begin || a.end - b.end || compareText(a.name, b.name));

  const tensors = new Map<string, HostTensor>();
  let position = 0;
  let previous = "";
  for (const { name, dtype, shape, begin, end } of ordered) {
    if (begin < position) {
      throw new CheckpointError(
        `safetensors: the data of ${quote(name)} [${begin}, ${end}) overlap those of ${quote(previous)}; the file is damaged`,
      );
    }
    if (begin > position) {
      throw new CheckpointError(
        `safetensors: bytes ${position} to ${begin} before the data of ${quote(name)} belong to no tensor; the file is damaged`,
      );
    }
    const data = typedArray(dtype, sizeOf(shape));
    new Uint8Array(data.buffer).set(bytes.subarray(dataStart + begin, dataStart + end));
    tensors.set(name, { dtype, shape, data });
    position = end;
    previous = name;
  }
  if (position !== dataLength) {
    throw new CheckpointError(`safetensors: the last ${dataLength - position} bytes of the file belong to no tensor; the file is damaged`);
  }
  return { tensors, metadata: readMetadata(notes) };
}

function checkTensor(name: string, { dtype, shape, data }: HostTensor): void {
  if (name === metadataKey)
    throw new UsageError(`encodeSafetensors: the format keeps the name ${metadataKey} for itself; rename the tensor`);
  if (dtypeOf(data) !== dtype)
    throw new DTypeError(`encodeSafetensors: ${quote(name)} is said to be ${dtype} but its data are ${dtypeOf(data)}`);
  if (sizeOf(shape) !== data.length) {
    throw new ShapeError(
      `encodeSafetensors: ${quote(name)} of shape ${formatShape(shape)} needs ${sizeOf(shape)} elements but its data have ${data.length}`,
    );
  }
}

function readHeader(bytes: Uint8Array): { header: Record<string, unknown>; dataStart: number } {
  if (bytes.length < lengthBytes) {
    throw new CheckpointError(
      `safetensors: the file is truncated: it has ${bytes.length} bytes, but the header's length alone takes ${lengthBytes}`,
    );
  }
  const headerLength = new DataView(bytes.buffer, bytes.byteOffset, lengthBytes).getBigUint64(0, true);
  if (headerLength > BigInt(bytes.length - lengthBytes)) {
    throw new CheckpointError(
      `safetensors: the file is truncated, or not a safetensors file: it announces a header of ${headerLength} bytes, ` +
        `but only ${bytes.length - lengthBytes} follow`,
    );
  }
  const dataStart = lengthBytes + Number(headerLength);
  let header: unknown;
  try {
    header = JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(bytes.subarray(lengthBytes, dataStart)));
  } catch (error) {
    throw new CheckpointError("safetensors: the header is not JSON; the file is damaged or not a safetensors file", { cause: error });
  }
  if (!isRecord(header)) throw new CheckpointError(`safetensors: the header should be a JSON object but is ${describe(header)}`);
  return { header, dataStart };
}

interface Entry {
  readonly dtype: DType;
  readonly shape: Shape;
  readonly begin: number;
  readonly end: number;
}

function readEntry(name: string, entry: unknown, dataLength: number): Entry {
  if (!isRecord(entry)) {
    throw new CheckpointError(`safetensors: the header's entry for ${quote(name)} should be an object but is ${describe(entry)}`);
  }
  const { dtype: typeName, shape, data_offsets: offsets } = entry;
  const dtype = dtypeByFormatName.get(typeName);
  if (!dtype) {
    const known = [...dtypeByFormatName.keys()].join(", ");
    throw new CheckpointError(
      `safetensors: ${quote(name)} has dtype ${describe(typeName)}, but only ${known} can be read; convert it first`,
    );
  }
  if (!isCountList(shape)) {
    throw new CheckpointError(`safetensors: the shape of ${quote(name)} should list whole numbers of at least 0 but is ${describe(shape)}`);
  }
  const [begin, end] = isCountList(offsets) && offsets.length === 2 ? offsets : [];
  if (begin === undefined || end === undefined || begin > end) {
    throw new CheckpointError(`safetensors: the data_offsets of ${quote(name)} should be [begin, end] but are ${describe(offsets)}`);
  }
  if (end > dataLength) {
    throw new CheckpointError(
      `safetensors: the data of ${quote(name)} [${begin}, ${end}) are out of range: the file has ${dataLength} bytes of data; it may be truncated`,
    );
  }
  const needed = sizeOf(shape) * bytesPerElement[dtype];
  if (end - begin !== needed) {
    throw new CheckpointError(
      `safetensors: ${quote(name)} of shape ${formatShape(shape)} and type ${dtype} needs ${needed} bytes but has ${end - begin}`,
    );
  }
  return { dtype, shape, begin, end };
}

function readMetadata(notes: unknown): Record<string, string> {
  if (notes === undefined) return {};
  if (!isRecord(notes)) throw new CheckpointError(`safetensors: ${metadataKey} should be an object of strings but is ${describe(notes)}`);
  const entries = Object.entries(notes).map(([key, value]): [string, string] => {
    if (typeof value !== "string") {
      throw new CheckpointError(`safetensors: ${metadataKey} should hold strings only, but ${quote(key)} is ${describe(value)}`);
    }
    return [key, value];
  });
  return Object.fromEntries(entries);
}

/** Elements are copied as they lie in memory, which is the file's order on every machine that Node and browsers run on today but s390x. */
function requireLittleEndian(): void {
  if (new Uint8Array(Uint16Array.of(1).buffer)[0] !== 1) {
    throw new CheckpointError("safetensors: this machine is big-endian, which is not supported; convert the file on another one");
  }
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function isCountList(value: unknown): value is number[] {
  return Array.isArray(value) && value.every((item) => Number.isSafeInteger(item) && item >= 0);
}

/** By UTF-16 code units: the same everywhere, unlike `localeCompare`. */
function compareText(a: string, b: string): number {
  return a < b ? -1 : a > b ? 1 : 0;
}

function quote(name: string): string {
  return JSON.stringify(name.length > 80 ? `${name.slice(0, 79)}…` : name);
}

function describe(value: unknown): string {
  const text = value === undefined ? "missing" : JSON.stringify(value);
  return text.length > 80 ? `${text.slice(0, 79)}…` : text;
}
