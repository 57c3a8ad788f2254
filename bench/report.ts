import { availableParallelism, cpus } from "node:os";
import Table from "cli-table3";

/** One figure, the median of interleaved rounds unless it is no time, with those of peers that did the same work in the same run. */
export interface Row {
  /** What, float type, size, threads, as words. */
  readonly case: string;
  /** Unit of the figures: milliseconds, or in a row of its own something else. */
  readonly metric: string;
  readonly kfacet: number;
  readonly peers: Readonly<Record<string, number>>;
  /** Floating-point operations of the work, by the definition and not by what an algorithm saves. */
  readonly flop?: number;
}

/** Why a peer is missing: altogether, or `where` it could not do one piece of work. */
export interface Absence {
  readonly peer: string;
  readonly reason: string;
  readonly where?: string;
}

export interface Suite {
  readonly rows: readonly Row[];
  /** What a reader of the table should know. */
  readonly notes: readonly string[];
  readonly absent?: readonly Absence[];
}

/** What the benches are asked for. */
export interface BenchOptions {
  readonly backend: "wasm" | "reference";
  /** Small sizes and few rounds: whether everything works, not how fast. */
  readonly small: boolean;
}

export function machine(): { cpu: string; threads: number; node: string; platform: string } {
  return {
    cpu: cpus()[0]?.model.trim() ?? "unknown",
    threads: availableParallelism(),
    node: process.versions.node,
    platform: `${process.platform} ${process.arch}`,
  };
}

/** A line for kfacet and each peer: the figure, the rate where the work is known, and how many times kfacet's figure it is. */
export function printTable({ rows, absent = [] }: Suite): void {
  const table = new Table({ head: ["case", "who", "figure", "GFLOP/s", "× kfacet"], style: { head: [], border: [], compact: true } });
  for (const row of rows) {
    const entries = Object.entries({ kfacet: row.kfacet, ...row.peers });
    for (const [i, [who, value]] of entries.entries()) {
      const rate = row.flop === undefined ? "" : (row.flop / value / 1e6).toFixed(1);
      const ratio = i === 0 ? "" : (value / row.kfacet).toFixed(2);
      const first = i === 0 ? [{ content: row.case, rowSpan: entries.length }] : [];
      table.push(
        [...first, who, `${format(value)} ${row.metric}`, rate, ratio].map((cell) => (typeof cell === "string" ? { content: cell } : cell)),
      );
    }
  }
  for (const { peer, reason, where } of absent) {
    table.push([{ content: where ?? "everywhere" }, { content: peer }, { content: inLines(`absent: ${reason}`), colSpan: 3 }]);
  }
  console.log(table.toString());
}

function format(value: number): string {
  return value !== 0 && Math.abs(value) < 0.1 ? value.toPrecision(3) : value.toFixed(2);
}

/** Broken between words, to keep a table narrow. */
function inLines(text: string, width = 60): string {
  let line = 0;
  return text.split(/\s+/).reduce((lines, word) => {
    const fits = line + word.length < width;
    line = fits ? line + word.length + 1 : word.length;
    return lines + (lines ? (fits ? " " : "\n") : "") + word;
  }, "");
}
