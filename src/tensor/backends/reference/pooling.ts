import { DataError } from "../../errors.ts";
import type { AveragePoolParams } from "../../primitives.ts";
import { sizeOf, type WindowGeometry } from "../../shape.ts";
import type { Kernels, Operand } from "./kernel.ts";

type ImageShape = readonly [n: number, height: number, width: number, channels: number];

/** Calls `visit` for each output pixel with the positions (row · width + column) of its window's points inside the image. */
function forEachWindow(
  [, height, width]: ImageShape,
  [, outHeight, outWidth]: ImageShape,
  { kernel, stride, padding, dilation }: WindowGeometry,
  visit: (out: number, pixels: readonly number[]) => void,
): void {
  for (let oh = 0; oh < outHeight; oh++) {
    for (let ow = 0; ow < outWidth; ow++) {
      const pixels: number[] = [];
      for (let kh = 0; kh < kernel[0]; kh++) {
        const h = oh * stride[0] + kh * dilation[0] - padding.top;
        for (let kw = 0; kw < kernel[1]; kw++) {
          const w = ow * stride[1] + kw * dilation[1] - padding.left;
          if (h >= 0 && h < height && w >= 0 && w < width) pixels.push(h * width + w);
        }
      }
      visit(oh * outWidth + ow, pixels);
    }
  }
}

const shape4 = (x: Operand): ImageShape => x.shape as unknown as ImageShape;

/** Shared by the two average poolings, which are each other's transpose. */
function average(
  image: ImageShape,
  out: ImageShape,
  params: AveragePoolParams,
  add: (out: number, pixel: number, weight: number) => void,
): void {
  forEachWindow(image, out, params, (place, pixels) => {
    // Outputs are floored, so no window reaches beyond the padding.
    const weight = 1 / (params.countPadding ? params.kernel[0] * params.kernel[1] : pixels.length);
    for (const pixel of pixels) add(place, pixel, weight);
  });
}

/** The pixel that element `i` of an index tensor names. @throws DataError if there is none. */
function pixelOf(operation: string, indices: Operand, i: number, pixels: number): number {
  const pixel = indices.data[i]!;
  if (pixel < 0 || pixel >= pixels) {
    throw new DataError(`${operation}: index ${pixel} at position ${i} is outside of an image of ${pixels} pixels`);
  }
  return pixel;
}

export const pooling: Kernels<"maxPool2d" | "maxPool2dScatter" | "maxPool2dGather" | "averagePool2d" | "averagePool2dGradient"> = {
  maxPool2d: ([x], geometry, [y, indices]) => {
    const [from, to] = [shape4(x), shape4(y)];
    const [n, height, width, channels] = from;
    const [inSize, outSize] = [height * width * channels, to[1] * to[2] * channels];
    forEachWindow(from, to, geometry, (out, pixels) => {
      for (let i = 0; i < n; i++) {
        for (let c = 0; c < channels; c++) {
          let best = pixels[0]!;
          let value = x.data[i * inSize + best * channels + c]!;
          for (const pixel of pixels) {
            const candidate = x.data[i * inSize + pixel * channels + c]!;
            if (candidate > value || Number.isNaN(candidate)) [best, value] = [pixel, candidate];
          }
          y.data[i * outSize + out * channels + c] = value;
          indices.data[i * outSize + out * channels + c] = best;
        }
      }
    });
  },
  maxPool2dScatter: ([y, indices], _, [x]) => {
    const [, height, width, channels] = shape4(x);
    const [inSize, outSize] = [height * width * channels, sizeOf(y.shape.slice(1))];
    x.data.fill(0);
    for (let i = 0; i < y.data.length; i++) {
      const pixel = pixelOf("maxPool2dScatter", indices, i, height * width);
      const at = Math.floor(i / outSize) * inSize + pixel * channels + (i % channels);
      x.data[at] = x.data[at]! + y.data[i]!;
    }
  },
  maxPool2dGather: ([x, indices], _, [y]) => {
    const [, height, width, channels] = shape4(x);
    const [inSize, outSize] = [height * width * channels, sizeOf(y.shape.slice(1))];
    for (let i = 0; i < y.data.length; i++) {
      const pixel = pixelOf("maxPool2dGather", indices, i, height * width);
      y.data[i] = x.data[Math.floor(i / outSize) * inSize + pixel * channels + (i % channels)]!;
    }
  },
  averagePool2d: ([x], params, [y]) => {
    const [from, to] = [shape4(x), shape4(y)];
    const channels = from[3];
    const [inSize, outSize] = [from[1] * from[2] * channels, to[1] * to[2] * channels];
    const total = new Float64Array(y.data.length);
    average(from, to, params, (out, pixel, weight) => {
      for (let i = 0; i < from[0]; i++) {
        for (let c = 0; c < channels; c++) {
          const at = i * outSize + out * channels + c;
          total[at] = total[at]! + weight * x.data[i * inSize + pixel * channels + c]!;
        }
      }
    });
    y.data.set(total);
  },
  averagePool2dGradient: ([gradient], params, [x]) => {
    const [out, to] = [shape4(gradient), shape4(x)];
    const channels = to[3];
    const [inSize, outSize] = [to[1] * to[2] * channels, out[1] * out[2] * channels];
    const total = new Float64Array(x.data.length);
    average(to, out, params, (place, pixel, weight) => {
      for (let i = 0; i < to[0]; i++) {
        for (let c = 0; c < channels; c++) {
          const at = i * inSize + pixel * channels + c;
          total[at] = total[at]! + weight * gradient.data[i * outSize + place * channels + c]!;
        }
      }
    });
    x.data.set(total);
  },
};
