import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { compareRuns, curveOf, firstReaching, meanCurve, statistic, type EpochEvent, type Outcome } from "../../src/train/index.ts";

/** Epochs with the test accuracies given in %, each of so many seconds. */
function epochs(accuracies: readonly number[], seconds = 2): EpochEvent[] {
  return accuracies.map((accuracy, epoch) => ({
    type: "epoch",
    epoch,
    trainLoss: 1 / (epoch + 1),
    trainAccuracy: 0.5,
    testLoss: 1,
    testAccuracy: accuracy / 100,
    seconds,
  }));
}
const finished = (seed: number, accuracies: readonly number[], seconds?: number): Outcome => ({
  seed,
  epochs: epochs(accuracies, seconds),
});

const accuracies = fc.array(fc.integer({ min: 0, max: 1000 }), { minLength: 1, maxLength: 12 }).map((list) => list.map((n) => n / 10));

describe("statistic", () => {
  test("has the sample standard deviation, none of a single number, and nothing of none", () => {
    expect(statistic([2, 4, 4, 4, 5, 5, 7, 9])).toEqual({ mean: 5, std: Math.sqrt(32 / 7), count: 8 });
    expect(statistic([3])).toEqual({ mean: 3, std: null, count: 1 });
    expect(statistic([])).toBeNull();
  });
});

describe("learning curves", () => {
  test("count epochs from 1 and add up the seconds of training", () => {
    expect(curveOf(epochs([10, 20, 30], 1.5)).map(({ epoch, seconds }) => [epoch, seconds])).toEqual([
      [1, 1.5],
      [2, 3],
      [3, 4.5],
    ]);
  });

  test("reach a target at the first epoch with at least that accuracy, and never without one", () => {
    fc.assert(
      fc.property(accuracies, fc.integer({ min: 1, max: 1000 }), (list, tenths) => {
        const target = tenths / 10;
        const at = list.findIndex((accuracy) => Math.round(10 * accuracy) >= tenths);
        expect(firstReaching(curveOf(epochs(list)), target)?.epoch).toBe(at < 0 ? undefined : at + 1);
      }),
    );
  });

  test("of several seeds have their mean between the extremes, for as long as the shortest", () => {
    fc.assert(
      fc.property(fc.array(accuracies, { minLength: 1, maxLength: 4 }), (lists) => {
        const curves = lists.map((list, seed) => ({ seed, points: curveOf(epochs(list, seed + 1)) }));
        const mean = meanCurve(curves, "testAccuracy");
        expect(mean).toHaveLength(Math.min(...lists.map(({ length }) => length)));
        for (const [i, point] of mean.entries()) {
          const values = lists.map((list) => (list[i] ?? NaN) / 100);
          expect([point.low, point.high]).toEqual([Math.min(...values), Math.max(...values)]);
          expect(point.mean).toBeCloseTo(values.reduce((a, b) => a + b, 0) / values.length, 12);
          expect(point.seconds).toBeCloseTo(((i + 1) * (lists.length + 1)) / 2, 12); // seed k needs k + 1 seconds an epoch
        }
      }),
    );
    expect(meanCurve([], "trainLoss")).toEqual([]);
  });
});

describe("compareRuns", () => {
  const slow = { name: "slow", outcomes: [finished(0, [10, 50, 60], 4), finished(1, [20, 40, 52], 4)] };
  const fast = { name: "fast", outcomes: [finished(0, [50, 58, 56], 6), finished(1, [30, 54, 54], 6)] };

  test("gives final and best accuracy, seconds per epoch, and the way to each target, with ratios to the first run", () => {
    const [first, second] = compareRuns([slow, fast], [50, 55, 99]);
    expect(first).toMatchObject({ name: "slow", seeds: 2, finished: 2, failures: [], ratio: 1 });
    expect(first?.finalAccuracy?.mean).toBeCloseTo(0.56, 12);
    expect(first?.finalAccuracy?.std).toBeCloseTo(0.08 / Math.SQRT2, 12);
    expect(second?.finalAccuracy?.mean).toBeCloseTo(0.55, 12);
    expect(second?.bestAccuracy?.mean).toBeCloseTo(0.56, 12);
    expect(second?.secondsPerEpoch).toEqual({ mean: 6, std: 0, count: 6 });
    expect(second?.ratio).toBe(1.5);

    expect(first?.targets).toEqual([
      {
        target: 50,
        reached: 2,
        epochs: { mean: 2.5, std: Math.SQRT1_2, count: 2 },
        seconds: { mean: 10, std: Math.sqrt(8), count: 2 },
        ratio: 1,
      },
      { target: 55, reached: 1, epochs: { mean: 3, std: null, count: 1 }, seconds: { mean: 12, std: null, count: 1 }, ratio: 1 },
      { target: 99, reached: 0, epochs: null, seconds: null, ratio: null },
    ]);
    expect(second?.targets[0]).toMatchObject({ reached: 2, epochs: { mean: 1.5 }, seconds: { mean: 9 }, ratio: 0.9 });
    expect(second?.targets[1]).toMatchObject({ reached: 1, epochs: { mean: 2 }, seconds: { mean: 12 }, ratio: 1 });
  });

  test("leaves failed seeds out of the figures and tells why they failed", () => {
    const partly = { name: "partly", outcomes: [finished(0, [50]), { seed: 1, failure: "the loss is NaN" }] };
    const [figures] = compareRuns([partly], []);
    expect(figures).toMatchObject({ seeds: 2, finished: 1, finalAccuracy: { mean: 0.5, std: null, count: 1 } });
    expect(figures?.failures).toEqual([{ seed: 1, message: "the loss is NaN" }]);
    expect(figures?.curves.map(({ seed }) => seed)).toEqual([0]);
  });

  test("has no figures of a run that failed with every seed, and no ratios to it", () => {
    const failed = { name: "failed", outcomes: [{ seed: 0, failure: "no memory" }] };
    const [first, second] = compareRuns([failed, fast], [50]);
    expect(first).toMatchObject({ finished: 0, finalAccuracy: null, bestAccuracy: null, secondsPerEpoch: null, ratio: null, curves: [] });
    expect(first?.targets).toEqual([{ target: 50, reached: 0, epochs: null, seconds: null, ratio: null }]);
    expect(second).toMatchObject({ ratio: null, targets: [{ reached: 2, ratio: null }] });
  });
});
