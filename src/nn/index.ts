/**
 * Neural networks: modules with parameters, layers, losses, initialisers and the VGG family. May import tensor and autograd;
 * knows no optimizer and no data set. Layers do not know that curvature is captured: the tape sees their primitives.
 *
 * Reading order: module → init → layers → normalization, activations, pooling, dropout → losses → vgg → summary.
 */
export * from "./activations.ts";
export { Dropout } from "./dropout.ts";
export * from "./init.ts";
export { Conv2d, Flatten, Linear, Sequential, type WeightOptions } from "./layers.ts";
export { crossEntropy, meanSquaredError, type LossOptions } from "./losses.ts";
export { Module, observeForward, Parameter, type ForwardObserver, type LayerOptions } from "./module.ts";
export { BatchNorm1d, BatchNorm2d, type BatchNormOptions } from "./normalization.ts";
export { AdaptiveAveragePool2d, AveragePool2d, MaxPool2d } from "./pooling.ts";
export { summarize, type Summary, type SummaryOptions, type SummaryRow } from "./summary.ts";
export { vgg, vggNames, type VggOptions } from "./vgg.ts";
