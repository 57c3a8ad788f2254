import { clearBytes, copyBytes } from "./bytes";
import { Plan } from "./convolutionPlan";
import { lanes } from "./vector";

/** Windows written out as rows, and added back. */

/** Copies windows to rows; an item is an output row. Elements of either type are moved as `pixel` bytes. */
export function im2col(start: i32, end: i32, at: usize, x: usize, y: usize, pixel: usize): void {
  const plan = changetype<Plan>(at);
  const kernelWidth = plan.kernelWidth;
  const line = <usize>kernelWidth * pixel;
  for (let item = start; item < end; item++) {
    const image = item / plan.outHeight;
    const row0 = (item % plan.outHeight) * plan.strideHeight - plan.top;
    let to = y + <usize>(item * plan.outWidth) * <usize>plan.kernelHeight * line;
    for (let column = 0; column < plan.outWidth; column++) {
      const column0 = column * plan.strideWidth - plan.left;
      for (let i = 0; i < plan.kernelHeight; i++, to += line) {
        const row = row0 + i * plan.dilationHeight;
        if (row < 0 || row >= plan.height) {
          clearBytes(to, line);
          continue;
        }
        const from = x + <usize>((image * plan.height + row) * plan.width) * pixel;
        if (plan.dilationWidth == 1) {
          const left = min(max(-column0, 0), kernelWidth);
          const right = min(max(plan.width - column0, left), kernelWidth);
          clearBytes(to, <usize>left * pixel);
          copyBytes(to + <usize>left * pixel, from + <usize>(column0 + left) * pixel, <usize>(right - left) * pixel);
          clearBytes(to + <usize>right * pixel, <usize>(kernelWidth - right) * pixel);
        } else {
          for (let j = 0; j < kernelWidth; j++) {
            const source = column0 + j * plan.dilationWidth;
            if (source < 0 || source >= plan.width) clearBytes(to + <usize>j * pixel, pixel);
            else copyBytes(to + <usize>j * pixel, from + <usize>source * pixel, pixel);
          }
        }
      }
    }
  }
}

function addTo<T>(to: usize, from: usize, count: i32): void {
  let c = 0;
  for (; c + lanes<T>() <= count; c += lanes<T>()) {
    v128.store(to, v128.add<T>(v128.load(to), v128.load(from)));
    to += 16;
    from += 16;
  }
  for (; c < count; c++) {
    store<T>(to, load<T>(to) + load<T>(from));
    to += sizeof<T>();
    from += sizeof<T>();
  }
}

/** Adds rows back to their windows; an item is a row of an image, which takes from every window that covers it. */
function col2im<T>(start: i32, end: i32, at: usize, columns: usize, y: usize): void {
  const plan = changetype<Plan>(at);
  const pixel = <usize>plan.channels * sizeof<T>();
  const line = <usize>plan.kernelWidth * pixel;
  for (let item = start; item < end; item++) {
    const image = item / plan.height;
    const row = item % plan.height;
    const to = y + <usize>(item * plan.width) * pixel;
    memory.fill(to, 0, <usize>plan.width * pixel);
    for (let i = 0; i < plan.kernelHeight; i++) {
      const reach = row + plan.top - i * plan.dilationHeight;
      const outRow = reach / plan.strideHeight;
      if (reach < 0 || outRow * plan.strideHeight != reach || outRow >= plan.outHeight) continue;
      let from = columns + (<usize>((image * plan.outHeight + outRow) * plan.outWidth) * <usize>plan.kernelHeight + <usize>i) * line;
      for (let column = 0; column < plan.outWidth; column++, from += <usize>plan.kernelHeight * line) {
        const column0 = column * plan.strideWidth - plan.left;
        if (plan.dilationWidth == 1) {
          const left = min(max(-column0, 0), plan.kernelWidth);
          const right = min(max(plan.width - column0, left), plan.kernelWidth);
          addTo<T>(to + <usize>(column0 + left) * pixel, from + <usize>left * pixel, (right - left) * plan.channels);
        } else {
          for (let j = 0; j < plan.kernelWidth; j++) {
            const target = column0 + j * plan.dilationWidth;
            if (target >= 0 && target < plan.width) addTo<T>(to + <usize>target * pixel, from + <usize>j * pixel, plan.channels);
          }
        }
      }
    }
  }
}

// export col2im_T = col2im<T> for T of f32, f64
