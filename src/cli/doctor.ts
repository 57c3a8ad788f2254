import { availableParallelism } from "node:os";
import { setTimeout } from "node:timers/promises";
import Table from "cli-table3";
import { dataNames, loadData } from "../data/index.ts";
import { factsOf, type DeviceFacts } from "../tensor/backends/gpu/device.ts";
import type { WebGpuBackend } from "../tensor/backends/gpu/index.ts";
import { backendNames, openBackend, Tensor } from "../tensor/index.ts";
import { version } from "./version.ts";

interface Finding {
  readonly name: string;
  readonly works: boolean;
  readonly detail: string;
  /** Of a GPU. */
  readonly device?: DeviceFacts;
}

/** `kfacet doctor`: tries every backend and data source. Returns 1 if no backend works. */
export async function doctorCommand(json: boolean): Promise<number> {
  const backends = await Promise.all(backendNames().map(tryBackend));
  const data = await Promise.all(dataNames().map(tryData));
  const machine = {
    kfacet: version,
    node: process.version,
    platform: `${process.platform} ${process.arch}`,
    cores: availableParallelism(),
  };
  if (json) console.log(JSON.stringify({ machine, backends, data }));
  else {
    console.log(
      Object.entries(machine)
        .map(([key, value]) => `${key} ${value}`)
        .join(" · "),
    );
    const table = new Table({ head: ["", "works", ""], style: { head: [], border: [] } });
    for (const finding of [...backends, ...data]) table.push([finding.name, finding.works ? "yes" : "no", linesOf(finding).join("\n")]);
    console.log(table.toString());
  }
  return backends.some(({ works }) => works) ? 0 : 1;
}

function linesOf({ detail, device }: Finding): string[] {
  if (!device) return [detail];
  const { driver, software, limits } = device;
  const mebibytes = (bytes: number): string => `${Math.floor(bytes / 2 ** 20)} MiB`;
  return [
    detail,
    `${software ? "software, of which a CPU does the work" : "hardware"}; driver: ${driver ?? "not told"}`,
    `limits: buffer ${mebibytes(limits.maxBufferSize)}, binding (a tensor) ${mebibytes(limits.maxStorageBufferBindingSize)}, ` +
      `${limits.maxComputeWorkgroupsPerDimension} workgroups an axis`,
  ];
}

/** A side from which on a product is shared among threads. */
const SIDE = 300;

/** Products with a known result in each float type that it has: twice, as threads that cannot live are known dead a little later. */
async function tryBackend(name: string): Promise<Finding> {
  try {
    const backend = await openBackend(name);
    const { dtypes = ["float32", "float64"] } = backend;
    for (const dtype of ["float32", "float64", "float32"] as const) {
      if (!dtypes.includes(dtype)) continue;
      using rows = Tensor.arange(SIDE, { dtype, backend });
      using column = rows.reshape([SIDE, 1]);
      using ones = Tensor.ones([SIDE, SIDE], { dtype, backend });
      using matrix = ones.multiply(column);
      using product = matrix.matmul(ones); // row i is i · SIDE
      const found = await product.data();
      if (!found.every((value, i) => value === Math.floor(i / SIDE) * SIDE)) {
        return { name, works: false, detail: `a ${dtype} matrix product came out wrong` };
      }
      await setTimeout(100);
    }
    const { device } = backend as Partial<WebGpuBackend>;
    return { name, works: true, detail: backend.describe(), ...(device && { device: factsOf(device) }) };
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
