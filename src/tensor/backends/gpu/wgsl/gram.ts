import { portable, type DeviceArray } from "../kernel.ts";
import { MOST_GROUPS, type WgslKernel, type WgslQueue } from "../queue.ts";

/*
 * scale · XᵀX for X [rows, columns]: four columns by four others a thread, of the lower triangle alone, and the rows in parts, so that a long
 * X with few columns occupies a device, too. The parts are added in their order, and the upper triangle is the lower one's mirror image.
 */

/** Threads of a workgroup, and how many of them stand along each side of a square of tiles at most. */
const [GROUP, SIDE] = [64, 8];
/** Rows that are summed apart from the others, so that rounding errors stay small. */
const BLOCK = 64;
/** About as many threads as occupy a device. */
const THREADS = 2 ** 16;
/** Numbers in a temporary: 64 MiB of them. */
const MOST_NUMBERS = 2 ** 24;

const lanes = ["x", "y", "z", "w"];

/** @param whole whether the columns are whole vectors. */
const code = (whole: boolean): string => `
struct Params { rows : u32, columns : u32, vectors : u32, side : u32, perPart : u32 }
@group(1) @binding(0) var<uniform> p : Params;
@group(0) @binding(0) var<storage, read> x : array<${whole ? "vec4<f32>" : "f32"}>;
@group(0) @binding(1) var<storage, read_write> y : array<f32>;
fn columnsOf(row : u32, vector : u32) -> vec4<f32> {
  ${
    whole
      ? "return x[row * p.vectors + vector];"
      : `let at = row * p.columns;
  let last = p.columns - 1u;
  return vec4<f32>(${[0, 1, 2, 3].map((c) => `x[at + min(4u * vector + ${c}u, last)]`).join(", ")});`
  }
}
@compute @workgroup_size(${GROUP}) fn main(@builtin(local_invocation_index) local : u32, @builtin(workgroup_id) group : vec3<u32>) {
  let square = p.side * p.side;
  let j = group.x * p.side + local % p.side;
  let i = group.y * p.side + local / p.side % p.side;
  let part = group.z * (${GROUP}u / square) + local / square;
  let begin = part * p.perPart;
  if (i >= p.vectors || j > i || (part > 0u && begin >= p.rows)) { return; }
  let end = min(p.rows, begin + p.perPart);
  ${lanes.map((lane) => `var total_${lane} = vec4<f32>();`).join("\n  ")}
  for (var block = begin; block < end; block += ${BLOCK}u) {
    ${lanes.map((lane) => `var sum_${lane} = vec4<f32>();`).join("\n    ")}
    for (var row = block; row < min(end, block + ${BLOCK}u); row++) {
      let a = columnsOf(row, i);
      let b = columnsOf(row, j);
      ${lanes.map((lane) => `sum_${lane} += a.${lane} * b;`).join("\n      ")}
    }
    ${lanes.map((lane) => `total_${lane} += sum_${lane};`).join("\n    ")}
  }
  let matrix = part * p.columns * p.columns;
  for (var c = 0u; c < 4u; c++) {
    if (4u * j + c < p.columns) {
      ${lanes.map((lane, r) => `if (4u * i + ${r}u < p.columns) { y[matrix + (4u * i + ${r}u) * p.columns + 4u * j + c] = total_${lane}[c]; }`).join("\n      ")}
    }
  }
}
`;
const ofVectors: WgslKernel = { name: "gram, products", code: code(true), reads: 1, writes: 1 };
const ofNumbers: WgslKernel = { name: "gram, products of single numbers", code: code(false), reads: 1, writes: 1 };

/** The lower triangle of a matrix, which is the sum of `parts`, on both sides. Threads: x the column, y the row. */
const mirror = portable(
  "gram, sum",
  { x: "array", parts: "integer", columns: "integer", scale: "float" },
  `let total = 0;
  for (let part = 0; part < parts; part++) {
    if (this.thread.x > this.thread.y) { total += x[(part * columns + this.thread.x) * columns + this.thread.y]; }
    else { total += x[(part * columns + this.thread.y) * columns + this.thread.x]; }
  }
  return scale * total;`,
);

const sideOf = (vectors: number): number => Math.min(SIDE, 2 ** Math.ceil(Math.log2(vectors)));

/**
 * Issues the products of the first `columns` columns of X as `parts` lower triangles [parts, columns, columns], each of `perPart` rows.
 * @param kernel `ofVectors` if the rows of X are whole vectors, with zeros at their ends.
 */
export function productsOfColumns(
  queue: WgslQueue,
  x: DeviceArray,
  [rows, columns]: readonly [number, number],
  { parts, perPart }: { readonly parts: number; readonly perPart: number },
  partial: DeviceArray,
  kernel = ofVectors,
): void {
  const vectors = Math.ceil(columns / 4);
  const side = sideOf(vectors);
  const across = Math.ceil(vectors / side);
  const groups = [across, across, Math.ceil((parts * side * side) / GROUP)] as const;
  const parameters = [rows, columns, vectors, side, perPart].map((u) => ({ u }));
  queue.runWgsl(kernel, groups, [x], [partial], parameters);
}

/**
 * Issues `gram`, unless X has more columns than a device has workgroups for.
 * @param sum adds the rows of a matrix [parts, size].
 * @returns whether it did.
 */
export function gram(
  queue: WgslQueue,
  x: DeviceArray,
  [rows, columns]: readonly [number, number],
  scale: number,
  y: DeviceArray,
  sum: (parts: DeviceArray, count: number, to: DeviceArray) => void,
): boolean {
  const vectors = Math.ceil(columns / 4);
  if (Math.ceil(vectors / sideOf(vectors)) > MOST_GROUPS || rows * columns === 0) return false;
  const tiles = (vectors * (vectors + 1)) / 2;
  const wanted = Math.min(Math.ceil(rows / BLOCK), Math.floor(THREADS / tiles), Math.floor(MOST_NUMBERS / y.size));
  const perPart = BLOCK * Math.ceil(rows / Math.max(1, wanted) / BLOCK);
  const parts = Math.ceil(rows / perPart);
  queue.temporary(parts * y.size, "gram", (partial) => {
    // A copy in whole vectors would be no faster.
    productsOfColumns(queue, x, [rows, columns], { parts, perPart }, partial, columns % 4 === 0 ? ofVectors : ofNumbers);
    const finish = (from: DeviceArray, count: number): void => {
      queue.run(mirror, [columns, columns], y, { x: from, parts: count, columns, scale });
    };
    if (parts <= BLOCK) finish(partial, parts);
    else {
      queue.temporary(y.size, "gram", (total) => {
        sum(partial, parts, total);
        finish(total, 1);
      });
    }
  });
  return true;
}
