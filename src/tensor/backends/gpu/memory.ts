import { BackendError } from "../../errors.ts";
import type { MemoryStatistics } from "../../backend.ts";

/** A buffer of the device, or a texture, at least as large as what was asked for. */
export interface Block<Resource = unknown> {
  readonly resource: Resource;
  /** Names it in the keys of bind groups. */
  readonly id: number;
  readonly bytes: number;
  /** The batch of commands that used it last: what the queue has not submitted yet, if it is the present one. */
  batch: number;
}

/** What makes the blocks. */
export interface Maker<Resource> {
  /** The most bytes that a kernel sees at once, and what says so. */
  readonly limit: number;
  readonly limitedBy: string;
  /** @param origin the operation that it is for. */
  make(bytes: number, origin: string): Resource;
  destroy(resource: Resource): void;
  /** Called before resources are destroyed: what refers to them must be done, and is of no use any more. */
  beforeDestroying(): void;
}

const MEBIBYTE = 2 ** 20;
/** Freed buffers are kept for reuse up to this many bytes. */
const POOL_LIMIT = 512 * MEBIBYTE;

/** Powers of two up to a mebibyte, then whole mebibytes: few sizes, so that a buffer is soon reused. */
function sizeClass(bytes: number): number {
  if (bytes > MEBIBYTE) return Math.ceil(bytes / MEBIBYTE) * MEBIBYTE;
  return Math.max(256, 2 ** Math.ceil(Math.log2(Math.max(1, bytes))));
}

/** Into a list whose first was made last. */
function insert<Resource>(free: Block<Resource>[], block: Block<Resource>): void {
  let at = free.length;
  while (at > 0 && (free[at - 1] as Block<Resource>).id < block.id) at--;
  free.splice(at, 0, block);
}

/**
 * Buffers by size, reused as soon as they are free: commands run in the order in which they were issued, so that whoever comes next writes
 * after whoever was before has read.
 */
export class Memory<Resource> {
  readonly #maker: Maker<Resource>;
  /**
   * What is free of each size, the first made last. The first made is taken first, whatever the order in which they came back: so most of
   * what a step of a training takes are the blocks of the one before, for which there are bind groups. (Operands that are written over change
   * places with a spare block, and go round.)
   */
  readonly #free = new Map<number, Block<Resource>[]>();
  #lastId = 0;
  #buffers = 0;
  #bytes = 0;
  #peakBuffers = 0;
  #peakBytes = 0;
  #pooledBytes = 0;

  constructor(maker: Maker<Resource>) {
    this.#maker = maker;
  }

  /** The most bytes of one tensor. */
  get limit(): number {
    return this.#maker.limit;
  }

  /** @throws BackendError for more bytes than a kernel of this device can see at once. */
  take(bytes: number, origin: string): Block<Resource> {
    const { limit } = this;
    if (bytes > limit) {
      throw new BackendError(
        `gpu: ${origin} needs ${bytes} bytes in one tensor, but this device's kernels see at most ${limit} (${this.#maker.limitedBy}); ` +
          `use a smaller batch, or the device "wasm"`,
      );
    }
    const size = Math.min(sizeClass(bytes), limit);
    const pooled = this.#free.get(size)?.pop();
    if (pooled) this.#pooledBytes -= size;
    const block = pooled ?? this.#make(size, origin);
    this.#buffers++;
    this.#bytes += size;
    this.#peakBuffers = Math.max(this.#peakBuffers, this.#buffers);
    this.#peakBytes = Math.max(this.#peakBytes, this.#bytes);
    return block;
  }

  #make(bytes: number, origin: string): Block<Resource> {
    return { resource: this.#maker.make(bytes, origin), id: ++this.#lastId, bytes, batch: -1 };
  }

  /** A block of the same size that no command of a batch uses, in exchange for one that is. */
  exchange(block: Block<Resource>): Block<Resource> {
    const free = this.#freeOf(block.bytes);
    const index = free.findLastIndex(({ batch }) => batch !== block.batch);
    const other = index >= 0 ? (free.splice(index, 1)[0] as Block<Resource>) : this.#make(block.bytes, "an upload");
    insert(free, block);
    if (index < 0) this.#pooledBytes += block.bytes;
    return other;
  }

  #freeOf(size: number): Block<Resource>[] {
    const known = this.#free.get(size);
    if (known) return known;
    const free: Block<Resource>[] = [];
    this.#free.set(size, free);
    return free;
  }

  give(block: Block<Resource>): void {
    this.#buffers--;
    this.#bytes -= block.bytes;
    insert(this.#freeOf(block.bytes), block);
    this.#pooledBytes += block.bytes;
    if (this.#pooledBytes > POOL_LIMIT) this.#makeRoom();
  }

  /** Destroys what lies in the pool, the largest first, down to half of the limit. */
  #makeRoom(): void {
    this.#maker.beforeDestroying();
    for (const size of [...this.#free.keys()].sort((a, b) => b - a)) {
      const list = this.#free.get(size) ?? [];
      while (list.length > 0 && this.#pooledBytes > POOL_LIMIT / 2) {
        this.#maker.destroy((list.pop() as Block<Resource>).resource);
        this.#pooledBytes -= size;
      }
    }
  }

  /** What there is, for a report. */
  describe(): string {
    const [used, pooled] = [this.#bytes, this.#pooledBytes].map((bytes) => `${(bytes / MEBIBYTE).toFixed(1)} MiB`);
    return `${used} in ${this.#buffers} buffers are in use, and ${pooled} are kept for reuse`;
  }

  statistics(): MemoryStatistics {
    return {
      buffers: this.#buffers,
      bytes: this.#bytes,
      peakBuffers: this.#peakBuffers,
      peakBytes: this.#peakBytes,
      pooledBytes: this.#pooledBytes,
    };
  }

  resetPeak(): void {
    [this.#peakBuffers, this.#peakBytes] = [this.#buffers, this.#bytes];
  }
}
