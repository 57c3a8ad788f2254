/** What plain JavaScript can do: a blocked product of packed panels, its inner tile in sixteen local variables. */

const TILE = 4;
/** Depth of a panel: a panel of each operand stays in the first-level cache. */
const DEPTH = 256;

/** C = A B for row-major n × n matrices, n a multiple of 4. */
export function plainMatmul(n: number): (a: Float32Array, b: Float32Array, c: Float32Array) => void {
  if (n % TILE !== 0) throw new Error(`plainMatmul: n must be a multiple of ${TILE} but is ${n}`);
  const packedA = new Float32Array(n * DEPTH);
  const packedB = new Float32Array(n * DEPTH);
  return (a, b, c) => {
    c.fill(0);
    for (let start = 0; start < n; start += DEPTH) {
      const depth = Math.min(DEPTH, n - start);
      packRows(a, n, start, depth, packedA);
      packColumns(b, n, start, depth, packedB);
      const rowPanels = panels(packedA, n, depth);
      const columnPanels = panels(packedB, n, depth);
      for (const [j, columns] of columnPanels.entries()) {
        for (const [i, rows] of rowPanels.entries()) tile(rows, columns, depth, c, TILE * (i * n + j), n);
      }
    }
  };
}

/** A view a panel: an index that starts at zero lets V8 drop checks, half as fast again. */
function panels(packed: Float32Array, n: number, depth: number): Float32Array[] {
  return Array.from({ length: n / TILE }, (_, i) => packed.subarray(i * TILE * depth, (i + 1) * TILE * depth));
}

/** Four rows a panel, the four elements of each column side by side. */
function packRows(a: Float32Array, n: number, start: number, depth: number, packed: Float32Array): void {
  let at = 0;
  for (let row = 0; row < n; row += TILE) {
    for (let k = start; k < start + depth; k++) {
      for (let i = 0; i < TILE; i++) packed[at++] = a[(row + i) * n + k] as number;
    }
  }
}

/** Four columns a panel. */
function packColumns(b: Float32Array, n: number, start: number, depth: number, packed: Float32Array): void {
  let at = 0;
  for (let column = 0; column < n; column += TILE) {
    for (let k = start; k < start + depth; k++) {
      for (let j = 0; j < TILE; j++) packed[at++] = b[k * n + column + j] as number;
    }
  }
}

/** Adds the product of a panel of A and one of B to the 4 × 4 tile of C at `at`. */
function tile(a: Float32Array, b: Float32Array, depth: number, c: Float32Array, at: number, n: number): void {
  let c00 = 0,
    c01 = 0,
    c02 = 0,
    c03 = 0,
    c10 = 0,
    c11 = 0,
    c12 = 0,
    c13 = 0;
  let c20 = 0,
    c21 = 0,
    c22 = 0,
    c23 = 0,
    c30 = 0,
    c31 = 0,
    c32 = 0,
    c33 = 0;
  for (let k = 0; k < depth; k++) {
    const b0 = b[k * TILE] as number;
    const b1 = b[k * TILE + 1] as number;
    const b2 = b[k * TILE + 2] as number;
    const b3 = b[k * TILE + 3] as number;
    const a0 = a[k * TILE] as number;
    c00 += a0 * b0;
    c01 += a0 * b1;
    c02 += a0 * b2;
    c03 += a0 * b3;
    const a1 = a[k * TILE + 1] as number;
    c10 += a1 * b0;
    c11 += a1 * b1;
    c12 += a1 * b2;
    c13 += a1 * b3;
    const a2 = a[k * TILE + 2] as number;
    c20 += a2 * b0;
    c21 += a2 * b1;
    c22 += a2 * b2;
    c23 += a2 * b3;
    const a3 = a[k * TILE + 3] as number;
    c30 += a3 * b0;
    c31 += a3 * b1;
    c32 += a3 * b2;
    c33 += a3 * b3;
  }
  addRow(c, at, c00, c01, c02, c03);
  addRow(c, at + n, c10, c11, c12, c13);
  addRow(c, at + 2 * n, c20, c21, c22, c23);
  addRow(c, at + 3 * n, c30, c31, c32, c33);
}

function addRow(c: Float32Array, at: number, c0: number, c1: number, c2: number, c3: number): void {
  c[at] = (c[at] as number) + c0;
  c[at + 1] = (c[at + 1] as number) + c1;
  c[at + 2] = (c[at + 2] as number) + c2;
  c[at + 3] = (c[at + 3] as number) + c3;
}
