import { describe, expect, test } from "vitest";
import { DataError, type LabelSmoothing } from "../../../src/tensor/index.ts";
import { engines, expectAgreement, numbers, resultsOn, type Numbers } from "./against.ts";

const backends = engines();
const [single] = backends;
const sizes: [n: number, classes: number][] = [
  [0, 3],
  [3, 1],
  [128, 10],
  [1000, 37],
  [3, 5003],
];
const smoothings: LabelSmoothing[] = [
  { smoothing: 0, smoothingKind: "uniform" },
  { smoothing: 0.1, smoothingKind: "uniform" },
  { smoothing: 0, smoothingKind: "off-target" },
  { smoothing: 0.1, smoothingKind: "off-target" },
];
const labelsFor = (n: number, classes: number): Numbers => ({
  shape: [n],
  values: Array.from({ length: n }, (_, i) => (i * 7919) % classes),
  int: true,
});

describe.each(["float32", "float64"] as const)("losses in %s equal the reference, with any number of threads:", (dtype) => {
  test.each(sizes)("%d rows of %d", (n, classes) => {
    const logits = [numbers([n, classes], 1, (u) => 5 * u), numbers([n, classes], 1, (u) => 1000 + 30 * u)];
    const labels = labelsFor(n, classes);
    for (const x of logits) {
      expectAgreement(backends, dtype, "logSoftmax", [x], {});
      for (const smoothing of smoothings) {
        if (classes === 1 && smoothing.smoothing > 0) continue;
        expectAgreement(backends, dtype, "softmaxCrossEntropy", [x, labels], smoothing);
      }
    }
    const [probabilities, gradient] = [numbers([n, classes], 2, Math.abs), numbers([n], 3)];
    for (const smoothing of smoothings) {
      if (classes === 1 && smoothing.smoothing > 0) continue;
      expectAgreement(backends, dtype, "softmaxCrossEntropyGradient", [probabilities, labels, gradient], smoothing);
    }
    expectAgreement(backends, dtype, "squaredError", [numbers([n, classes], 4), numbers([n, classes], 5)], {});
  });

  test("impossible classes, infinite and missing logits", () => {
    const x = numbers([6, 5], 1, (u, i) => (i === 3 || (i > 9 && i < 14) ? -Infinity : i === 17 ? Infinity : i === 22 ? NaN : u));
    expectAgreement(backends, dtype, "logSoftmax", [x], {});
    for (const smoothing of smoothings) expectAgreement(backends, dtype, "softmaxCrossEntropy", [x, labelsFor(6, 5)], smoothing);
  });

  test("rows of several axes, and empty ones", () => {
    expectAgreement(backends, dtype, "squaredError", [numbers([3, 20, 70], 1), numbers([3, 20, 70], 2)], {});
    expectAgreement(backends, dtype, "squaredError", [numbers([3, 0], 1), numbers([3, 0], 2)], {});
    expectAgreement(backends, dtype, "logSoftmax", [numbers([0, 4], 1)], {});
    expectAgreement(backends, dtype, "logSoftmax", [numbers([4, 0], 1)], {});
    expectAgreement(backends, dtype, "logSoftmax", [numbers([2, 3, 4], 1)], {});
  });
});

test("a label out of range is reported", () => {
  for (const [row, label] of [
    [4, -1],
    [9, 3],
  ] as const) {
    const { shape, values } = labelsFor(10, 3);
    const labels = { shape, values: Array.from(values, (v, i) => (i === row ? label : v)), int: true };
    const why = `label ${label} of sample ${row} is out of range; with 3 classes labels go from 0 to 2`;
    const smoothing = { smoothing: 0, smoothingKind: "uniform" } as const;
    expect(() => resultsOn(single, "float32", "softmaxCrossEntropy", [numbers([10, 3], 1), labels], smoothing)).toThrow(
      new DataError(`softmaxCrossEntropy: ${why}`),
    );
    expect(() =>
      resultsOn(single, "float32", "softmaxCrossEntropyGradient", [numbers([10, 3], 1), labels, numbers([10], 1)], smoothing),
    ).toThrow(new DataError(`softmaxCrossEntropyGradient: ${why}`));
  }
});
