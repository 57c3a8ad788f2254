import type { Child } from "./children.ts";
import { interleaved, sampler, type Task } from "./measure.ts";
import { messageOf, type Layout, type Work } from "./peers/protocol.ts";
import type { PeerName, Peers } from "./peers.ts";
import type { Row } from "./report.ts";

interface Invitation {
  readonly threads?: number;
  /** Layouts to try; the faster one counts. */
  readonly layouts?: readonly Layout[];
  /** What the peer must find: see `probe` in peers/protocol.ts. */
  readonly probe: readonly number[];
}

/** One piece of work that kfacet and its peers do in turns. */
export class Contest {
  readonly #peers: Peers;
  readonly #what: string;
  readonly #tasks: Task[] = [];
  /** Tasks of peers by key and threads, such as `pytorch 1`. */
  readonly #entrants = new Map<string, string[]>();
  readonly #prepared: { readonly child: Child; readonly key: string }[] = [];
  readonly #lost = new Set<string>();
  #times = new Map<string, number>();

  /** @param what the work in words, for reports on who could not do it. */
  constructor(peers: Peers, what: string) {
    this.#peers = peers;
    this.#what = what;
  }

  /** A task of this process. */
  add(name: string, f: () => void | Promise<void>): void {
    this.#tasks.push({ name, f: sampler(f) });
    this.#entrants.set(name, [name]);
  }

  /** A task of a peer's process; left out, with the reason, if it cannot do the work or finds something else. */
  async invite(peer: PeerName, work: Work, { threads = 1, layouts = ["nhwc"], probe }: Invitation): Promise<void> {
    const child = this.#peers.child(peer, threads);
    if (!child) return;
    const entrant = `${peer} ${threads}`;
    for (const layout of layouts) {
      const key = `${entrant} ${layout}`;
      try {
        const found = (await child.ask({ do: "prepare", key, work: "layout" in work ? { ...work, layout } : work })).probe ?? [];
        this.#prepared.push({ child, key });
        if (!agree(found, probe)) throw new Error(`it found ${brief(found)} where kfacet found ${brief(probe)}`);
      } catch (error) {
        if (child.ended) {
          this.#peers.drop(peer, threads, messageOf(error));
          return;
        }
        this.#peers.missing(peer, messageOf(error), this.#what);
        continue;
      }
      this.#entrants.set(entrant, [...(this.#entrants.get(entrant) ?? []), key]);
      const f = async (): Promise<number> => {
        if (this.#lost.has(key)) return 0;
        try {
          return await child.sample(key);
        } catch (error) {
          this.#lost.add(key);
          this.#peers.missing(peer, messageOf(error), this.#what);
          return 0;
        }
      };
      this.#tasks.push({ name: key, f });
    }
  }

  async run(rounds: number, warmup: number): Promise<void> {
    this.#times = await interleaved(this.#tasks, rounds, warmup);
    for (const key of this.#lost) this.#times.delete(key);
    for (const { child, key } of this.#prepared) await child.ask({ do: "release", key }).catch(() => undefined); // it may be gone
  }

  /** Milliseconds of an entrant's fastest task; undefined if there is none. */
  #time(entrant: string): number | undefined {
    const times = (this.#entrants.get(entrant) ?? []).flatMap((name) => this.#times.get(name) ?? []);
    return times.length > 0 ? Math.min(...times) : undefined;
  }

  /**
   * A row of the table.
   * @param kfacet the entrant that is kfacet's.
   * @param peers key in the row → entrant.
   */
  row(name: string, kfacet: string, peers: Readonly<Record<string, string>>, flop?: number): Row {
    const own = this.#time(kfacet);
    if (own === undefined) throw new Error(`there is no task "${kfacet}" in ${this.#what}`);
    const times = Object.entries(peers).flatMap(([key, entrant]) => {
      const time = this.#time(entrant);
      return time === undefined ? [] : [[key, time] as const];
    });
    return { case: name, metric: "ms", kfacet: own, peers: Object.fromEntries(times), ...(flop !== undefined && { flop }) };
  }
}

/** The same numbers up to rounding and Winograd. */
function agree(found: readonly number[], expected: readonly number[]): boolean {
  const scale = Math.max(...expected.map(Math.abs));
  return found.length === expected.length && found.every((value, i) => Math.abs(value - (expected[i] as number)) <= 1e-3 * scale);
}

function brief(values: readonly number[]): string {
  return `[${values
    .slice(0, 3)
    .map((value) => value.toPrecision(5))
    .join(", ")}${values.length > 3 ? ", …" : ""}]`;
}
