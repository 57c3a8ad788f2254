import { availableParallelism } from "node:os";
import Table from "cli-table3";
import { dataNames, loadData } from "../data/index.ts";
import { backendNames, openBackend, Tensor } from "../tensor/index.ts";
import { version } from "./version.ts";

interface Finding {
  readonly name: string;
  readonly works: boolean;
  readonly detail: string;
}

/** `kfacet doctor`: tries every backend and data source. Returns 1 if no backend works. */
export async function doctorCommand(json: boolean): Promise<number> {
  const backends = await Promise.all(backendNames().map(tryBackend));
  const data = await Promise.all(dataNames().map(tryData));
  const machine = {
    kfacet: version,
    node: process.version,
    platform: `${process.platform} ${process.arch}`,
    threads: availableParallelism(),
  };
  if (json) console.log(JSON.stringify({ machine, backends, data }));
  else {
    console.log(
      Object.entries(machine)
        .map(([key, value]) => `${key} ${value}`)
        .join(" · "),
    );
    const table = new Table({ head: ["", "works", ""], style: { head: [], border: [] } });
    for (const { name, works, detail } of [...backends, ...data]) table.push([name, works ? "yes" : "no", detail]);
    console.log(table.toString());
  }
  return backends.some(({ works }) => works) ? 0 : 1;
}

/** A product with a known result in each float type. */
async function tryBackend(name: string): Promise<Finding> {
  try {
    const backend = await openBackend(name);
    for (const dtype of ["float32", "float64"] as const) {
      using a = Tensor.from(
        [
          [1, 2],
          [3, 4],
        ],
        { dtype, backend },
      );
      using b = a.matmul(a);
      const [p, q, r, s] = await b.data();
      if (p !== 7 || q !== 10 || r !== 15 || s !== 22) return { name, works: false, detail: `a ${dtype} matrix product came out wrong` };
    }
    return { name, works: true, detail: backend.describe() };
  } catch (error) {
    return { name, works: false, detail: String(error) };
  }
}

async function tryData(name: string): Promise<Finding> {
  try {
    const { train, test } = await loadData(name);
    const { height, width, channels } = train;
    return { name, works: true, detail: `${train.length} + ${test.length} images of ${height} × ${width} × ${channels}` };
  } catch (error) {
    return { name, works: false, detail: error instanceof Error ? error.message : String(error) };
  }
}
