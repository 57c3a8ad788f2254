/** GPUBufferUsage, of which the names are there only where WebGPU is. */
const [MAP_READ, COPY_DST] = [0x1, 0x8];
/** Kept for the next reads: of small results many, and of large ones few, since each takes memory of the host and of the device. */
const [MOST_BUFFERS, MOST_BYTES] = [8, 16 * 2 ** 20];

/** Buffers that numbers are copied to on their way to the host: a read has one to itself. */
export class Staging {
  readonly #device: GPUDevice;
  /** The one that was read first comes first. */
  readonly #kept: GPUBuffer[] = [];

  constructor(device: GPUDevice) {
    this.#device = device;
  }

  take(bytes: number): GPUBuffer {
    const index = this.#kept.findIndex(({ size }) => size >= bytes && size <= 4 * bytes + 4096);
    const [kept] = index >= 0 ? this.#kept.splice(index, 1) : [];
    return kept ?? this.#device.createBuffer({ size: bytes, usage: MAP_READ | COPY_DST });
  }

  /** For one that is not mapped any more. */
  give(buffer: GPUBuffer): void {
    if (buffer.size > MOST_BYTES) {
      buffer.destroy();
      return;
    }
    this.#kept.push(buffer);
    while (this.#kept.length > MOST_BUFFERS || this.#bytes > MOST_BYTES) this.#kept.shift()?.destroy();
  }

  get #bytes(): number {
    return this.#kept.reduce((sum, { size }) => sum + size, 0);
  }
}
