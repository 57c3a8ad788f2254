import { BackendError } from "../../errors.ts";

/** A run of bytes of the engine's memory. */
export interface Block {
  readonly start: number;
  /** Bytes from `start` that belong to the block: at least what was asked for. */
  size: number;
  /** The operation that asked for it. */
  origin: string;
}

interface Link extends Block {
  start: number;
  free: boolean;
  /** Neighbours by address. */
  before: Link | null;
  after: Link | null;
  /** Neighbours in the list of free blocks of one size class. */
  previous: Link | null;
  next: Link | null;
}

const ALIGNMENT = 64; // a cache line: no two blocks share one
const PAGE = 65536;
const CLASSES_PER_OCTAVE = 4;

/** The largest class whose blocks all are at least as small as `size`: four classes from one power of two to the next. */
function classOf(size: number): number {
  const lines = size / ALIGNMENT; // sizes stay below 2³² and are multiples of 64
  const octave = 31 - Math.clz32(lines);
  const quarter = ((lines * CLASSES_PER_OCTAVE) >>> octave) - CLASSES_PER_OCTAVE;
  return octave * CLASSES_PER_OCTAVE + quarter;
}

/**
 * The allocator of the engine's one memory: segregated lists of free blocks by size class (Masmano et al., "TLSF", ECRTS 2004).
 * A block is taken from the first list whose blocks are all large enough, split, and merged with its free neighbours when it
 * comes back, each in constant time. Only the list of a request's own size class is searched, since a training asks for the same
 * sizes again and again: it is short, and what it finds fits exactly. Freed memory is reused before fresh pages are touched, which
 * are dearer than most kernels.
 */
export class Arena {
  readonly #memory: WebAssembly.Memory;
  readonly #limit: number;
  readonly #start: number;
  readonly #free: (Link | null)[] = [];
  readonly #used = new Set<Link>();
  #last: Link | null = null;
  #top: number;
  #bytes = 0;
  #peakBytes = 0;
  #peakBlocks = 0;

  /** @param start first byte that may be given out. @param limit bytes that the memory may grow to. */
  constructor(memory: WebAssembly.Memory, start: number, limit: number) {
    this.#memory = memory;
    this.#limit = limit;
    this.#start = Math.ceil(start / ALIGNMENT) * ALIGNMENT;
    this.#top = this.#start;
  }

  get blocks(): number {
    return this.#used.size;
  }
  /** Bytes in blocks that are given out. */
  get bytes(): number {
    return this.#bytes;
  }
  get peakBytes(): number {
    return this.#peakBytes;
  }
  get peakBlocks(): number {
    return this.#peakBlocks;
  }
  /** The end of what was ever given out: bytes that the process may hold in memory. */
  get reach(): number {
    return this.#top;
  }
  /** Bytes in free blocks. */
  get idleBytes(): number {
    return this.#top - this.#start - this.#bytes;
  }
  resetPeak(): void {
    [this.#peakBytes, this.#peakBlocks] = [this.#bytes, this.#used.size];
  }

  /** Blocks given out by their size in bytes, the largest first; those for `except` do not count. */
  bySize(except?: string): { readonly size: number; readonly count: number }[] {
    const counts = new Map<number, number>();
    for (const { size, origin } of this.#used) if (origin !== except) counts.set(size, (counts.get(size) ?? 0) + 1);
    return [...counts].map(([size, count]) => ({ size, count })).sort((a, b) => b.size - a.size);
  }

  /** @throws BackendError if the memory ends; nothing has changed then, and smaller requests may still succeed. */
  alloc(bytes: number, origin: string): Block {
    const size = Math.max(ALIGNMENT, Math.ceil(bytes / ALIGNMENT) * ALIGNMENT);
    if (size > this.#limit) throw new BackendError(this.#exhausted(size, origin));
    const link = this.#take(size) ?? this.#extend(size, origin);
    link.free = false;
    link.origin = origin;
    if (link.size > size) this.#split(link, size);
    this.#used.add(link);
    this.#bytes += link.size;
    this.#peakBytes = Math.max(this.#peakBytes, this.#bytes);
    this.#peakBlocks = Math.max(this.#peakBlocks, this.#used.size);
    return link;
  }

  free(block: Block): void {
    const link = block as Link;
    if (!this.#used.delete(link)) throw new BackendError(`wasm: the block at ${block.start} was freed twice`);
    this.#bytes -= link.size;
    link.free = true;
    let merged = link;
    if (link.before?.free) {
      merged = link.before;
      this.#unlist(merged);
      this.#absorb(merged, link);
    }
    if (merged.after?.free) {
      this.#unlist(merged.after);
      this.#absorb(merged, merged.after);
    }
    this.#list(merged);
  }

  /** A free block of at least `size` bytes, off its list. */
  #take(size: number): Link | null {
    // Every block of the classes above that of `size` is large enough; those of its own class may be.
    const own = classOf(size);
    for (let link = this.#free[own] ?? null; link; link = link.next) {
      if (link.size === size) return this.#unlist(link);
    }
    for (let at = own + 1; at < this.#free.length; at++) {
      const link = this.#free[at];
      if (link) return this.#unlist(link);
    }
    for (let link = this.#free[own] ?? null; link; link = link.next) {
      if (link.size > size) return this.#unlist(link);
    }
    return null;
  }

  /** A block at the end of the memory, grown if need be; takes over a free block that ends there. */
  #extend(size: number, origin: string): Link {
    const end = this.#last?.free ? this.#last : null;
    const top = (end ? end.start : this.#top) + size;
    const bytes = this.#memory.buffer.byteLength;
    if (top > bytes && !this.#grow(top - bytes)) throw new BackendError(this.#exhausted(size, origin));
    this.#top = top;
    if (end) {
      this.#unlist(end);
      end.size = size;
      return end;
    }
    const link: Link = { start: top - size, size, origin, free: false, before: this.#last, after: null, previous: null, next: null };
    if (this.#last) this.#last.after = link;
    this.#last = link;
    return link;
  }

  /** By an eighth of the memory at least, so that growing stays rare, or by just what is missing if there is not that much. */
  #grow(missing: number): boolean {
    const size = this.#memory.buffer.byteLength;
    const needed = Math.ceil(missing / PAGE);
    const room = Math.floor((this.#limit - size) / PAGE);
    if (needed > room) return false;
    const generous = Math.min(room, Math.max(needed, Math.ceil(size / 8 / PAGE)));
    for (const pages of generous > needed ? [generous, needed] : [needed]) {
      try {
        this.#memory.grow(pages);
        return true;
      } catch (error) {
        if (!(error instanceof RangeError)) throw error; // a RangeError is how `grow` says no
      }
    }
    return false;
  }

  #split(link: Link, size: number): void {
    const rest: Link = {
      start: link.start + size,
      size: link.size - size,
      origin: "",
      free: true,
      before: link,
      after: link.after,
      previous: null,
      next: null,
    };
    if (link.after) link.after.before = rest;
    else this.#last = rest;
    link.after = rest;
    link.size = size;
    this.#list(rest);
  }

  #absorb(link: Link, after: Link): void {
    link.size += after.size;
    link.after = after.after;
    if (after.after) after.after.before = link;
    else this.#last = link;
  }

  #list(link: Link): void {
    const at = classOf(link.size);
    while (this.#free.length <= at) this.#free.push(null);
    const first = this.#free[at] ?? null;
    [link.previous, link.next] = [null, first];
    if (first) first.previous = link;
    this.#free[at] = link;
  }

  #unlist(link: Link): Link {
    if (link.next) link.next.previous = link.previous;
    if (link.previous) link.previous.next = link.next;
    else this.#free[classOf(link.size)] = link.next;
    link.previous = link.next = null;
    return link;
  }

  #exhausted(size: number, origin: string): string {
    const holders = new Map<string, number>();
    for (const used of this.#used) holders.set(used.origin, (holders.get(used.origin) ?? 0) + used.size);
    const largest = [...holders].sort((a, b) => b[1] - a[1]).slice(0, 5);
    const list = largest.map(([name, bytes]) => `${name} ${megabytes(bytes)}`).join(", ");
    return (
      `wasm: no memory for ${megabytes(size)} wanted by ${origin}: ${megabytes(this.#bytes)} of at most ${megabytes(this.#limit)} ` +
      `are in use${list && `, most by ${list}`}; the largest free piece has ${megabytes(this.#largestFree())}; ` +
      `use a smaller batch, or free tensors with tidy(…) or dispose()`
    );
  }

  /** What a request may have at most: free memory is not in one piece. */
  #largestFree(): number {
    let largest = this.#limit - (this.#last?.free ? this.#last.start : this.#top);
    for (let link = this.#free.findLast((first) => first !== null) ?? null; link; link = link.next) largest = Math.max(largest, link.size);
    return largest;
  }
}

function megabytes(bytes: number): string {
  return bytes < 2 ** 20 ? `${bytes} bytes` : `${(bytes / 2 ** 20).toFixed(1)} MiB`;
}
