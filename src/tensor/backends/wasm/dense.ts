import { bytesPerElement, type DType } from "../../dtype.ts";
import type { Conv2dParams, Size2d } from "../../primitives.ts";
import type { Shape } from "../../shape.ts";
import type { Engine } from "./engine.ts";
import { imageShape, type Operand } from "./kernel.ts";
import { gemm, rowMajor, transposed } from "./product.ts";

/**
 * Convolutions of tiny images as one matrix product with whole images as rows; see assembly/dense.ts. The last layers of a VGG are
 * of this kind: of images of 2 × 2 pixels, a direct sum multiplies with padding more than half of the time.
 */

/** Images from which on the spread-out weights, of the size of as many images' products, are worth it. */
const FEWEST_IMAGES = 8;
/** Bytes that the spread-out weights may take. */
const MOST_BYTES = 2 ** 27;

/**
 * Whether a convolution is to be computed in this way. Where a window does not cover its whole image the product multiplies numbers
 * that the window does not read with zeros, which hides them only if they are finite; so that is left to fast float32.
 * @param x shape of the convolution's images. @param y shape of its output.
 */
export function denseApplies({ precision }: Engine, x: Shape, y: Shape, kernel: Size2d, params: Conv2dParams, dtype: DType): boolean {
  const { groups, stride, dilation, padding } = params;
  const [n, height, width, channels] = imageShape(x);
  const [, outHeight, outWidth, out] = imageShape(y);
  const pixels = height * width;
  const bytes = pixels * channels * outHeight * outWidth * out * 8;
  if (groups !== 1 || n < FEWEST_IMAGES || pixels >= kernel[0] * kernel[1] || bytes > MOST_BYTES) return false;
  if (precision === "fast" && dtype === "float32") return true;
  return (
    coversAll(height, outHeight, kernel[0], stride[0], dilation[0], padding.top) &&
    coversAll(width, outWidth, kernel[1], stride[1], dilation[1], padding.left)
  );
}

/** Whether, along one direction, each of the `out` windows reads all of the `extent` pixels. */
function coversAll(extent: number, out: number, kernel: number, stride: number, dilation: number, padding: number): boolean {
  for (let u = 0; u < out; u++) {
    for (let v = 0; v < extent; v++) {
      const position = (v + padding - u * stride) / dilation;
      if (!Number.isInteger(position) || position < 0 || position >= kernel) return false;
    }
  }
  return true;
}

interface Sizes {
  readonly n: number;
  /** Extent of an input image, and of an output image, as a vector. */
  readonly wide: number;
  readonly outWide: number;
  readonly dtype: "float32" | "float64";
  readonly elementBytes: number;
}

function sizesOf(x: Operand, y: Operand): Sizes {
  const [n, height, width, channels] = imageShape(x.shape);
  const [, outHeight, outWidth, out] = imageShape(y.shape);
  const dtype = x.dtype as "float32" | "float64";
  return { n, wide: height * width * channels, outWide: outHeight * outWidth * out, dtype, elementBytes: bytesPerElement[dtype] };
}

const geometryOf = (kernel: Size2d, { stride, dilation, padding }: Conv2dParams): number[] => {
  return [...kernel, ...stride, ...dilation, padding.top, padding.left];
};

/** Calls `f` with the spread-out weights, for as long as it takes. */
function withWeights(engine: Engine, x: Operand, weight: Operand, y: Operand, params: Conv2dParams, f: (dense: number) => void): void {
  const [, height, width, channels] = imageShape(x.shape);
  const [, , outWidth, out] = imageShape(y.shape);
  const { wide, outWide, elementBytes } = sizesOf(x, y);
  engine.temporary(wide * outWide * elementBytes, "conv2d", (dense) => {
    const geometry = geometryOf([weight.shape[1]!, weight.shape[2]!], params);
    const numbers = [weight.pointer, dense, channels * elementBytes, out, height, width, outWidth, ...geometry];
    engine.run("denseExpand", outWide, wide * 0.4, ...numbers);
    f(dense);
  });
}

export function denseForward(
  engine: Engine,
  x: Operand,
  weight: Operand,
  bias: Operand | undefined,
  params: Conv2dParams,
  y: Operand,
): void {
  const { n, wide, outWide, dtype, elementBytes } = sizesOf(x, y);
  withWeights(engine, x, weight, y, params, (dense) => {
    const product = (biases: number): void => {
      const matrix = transposed(rowMajor(dense, wide, dtype));
      gemm(engine, dtype, [n, outWide, wide], rowMajor(x.pointer, wide, dtype), matrix, y.pointer, { bias: biases });
    };
    if (!bias) {
      product(0);
      return;
    }
    // The bias of a channel for every pixel.
    engine.temporary(outWide * elementBytes, "conv2d", (biases) => {
      const host = engine.view(dtype, bias.pointer, bias.size);
      for (let at = 0; at < outWide; at += bias.size) engine.view(dtype, biases + at * elementBytes, bias.size).set(host);
      product(biases);
    });
  });
}

export function denseInputGradient(engine: Engine, gradient: Operand, weight: Operand, params: Conv2dParams, y: Operand): void {
  const { n, wide, outWide, dtype } = sizesOf(y, gradient);
  withWeights(engine, y, weight, gradient, params, (dense) => {
    gemm(engine, dtype, [n, wide, outWide], rowMajor(gradient.pointer, outWide, dtype), rowMajor(dense, wide, dtype), y.pointer);
  });
}

export function denseWeightGradient(
  engine: Engine,
  x: Operand,
  gradient: Operand,
  params: Conv2dParams & { readonly kernel: Size2d },
  y: Operand,
): void {
  const { n, wide, outWide, dtype, elementBytes } = sizesOf(x, gradient);
  const [, height, width, channels] = imageShape(x.shape);
  const [, outHeight, outWidth, out] = imageShape(gradient.shape);
  engine.temporary(wide * outWide * elementBytes, "conv2dWeightGradient", (dense) => {
    const left = transposed(rowMajor(gradient.pointer, outWide, dtype));
    gemm(engine, dtype, [outWide, wide, n], left, rowMajor(x.pointer, wide, dtype), dense);
    const geometry = geometryOf(params.kernel, params);
    const numbers = [y.pointer, dense, channels, out, height, width, outHeight, outWidth, ...geometry];
    engine.run(dtype === "float32" ? "denseFold_f32" : "denseFold_f64", out, (wide * outWide * 0.4) / out, ...numbers);
  });
}
