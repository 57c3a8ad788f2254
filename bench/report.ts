import { availableParallelism, cpus } from "node:os";
import Table from "cli-table3";

/** One figure: a median time in milliseconds, with those of peers that did the same work in the same run. */
export interface Row {
  /** What, float type, size, threads, as words. */
  readonly case: string;
  readonly metric: "ms";
  readonly kfacet: number;
  readonly peers: Readonly<Record<string, number>>;
}

export interface Suite {
  readonly rows: readonly Row[];
  /** What a reader of the table should know: settings, absent peers and why. */
  readonly notes: readonly string[];
}

export function machine(): { cpu: string; threads: number; node: string; platform: string } {
  return {
    cpu: cpus()[0]?.model.trim() ?? "unknown",
    threads: availableParallelism(),
    node: process.versions.node,
    platform: `${process.platform} ${process.arch}`,
  };
}

/** Rows with kfacet's time and, for each peer, its time and how many times kfacet's that is. */
export function printTable(rows: readonly Row[]): void {
  const peers = [...new Set(rows.flatMap((row) => Object.keys(row.peers)))];
  const table = new Table({ head: ["case", "kfacet ms", ...peers.map((peer) => `${peer} ms (ratio)`)], style: { head: [], border: [] } });
  for (const row of rows) {
    const cells = peers.map((peer) => {
      const time = row.peers[peer];
      return time === undefined ? "" : `${time.toFixed(2)} (${(time / row.kfacet).toFixed(2)}×)`;
    });
    table.push([row.case, row.kfacet.toFixed(2), ...cells]);
  }
  console.log(table.toString());
}
