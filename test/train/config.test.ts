import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { dataNames } from "../../src/data/index.ts";
import { crossEntropy, Linear, vggNames } from "../../src/nn/index.ts";
import { Adam, AdamW, BrandKfac, EkFac, Kfac, NysKfac, RmsProp, RsKfac, Seng, Sgd, SreKfac } from "../../src/optim/index.ts";
import {
  backendNames,
  defaultBackend,
  Generator,
  KfacetError,
  openBackend,
  setDefaultBackend,
  Tensor,
  UsageError,
} from "../../src/tensor/index.ts";
import {
  configKeys,
  makeOptimizer,
  optimizerNames,
  parseComparison,
  parseConfig,
  parseJson,
  prepareRun,
  train,
  type TrainConfig,
} from "../../src/train/index.ts";
import { smallModel } from "./small.ts";

/** One valid value for every key: the compiler sees to it that none is missing. */
const full: Required<TrainConfig> = {
  model: "vgg_tiny",
  optimizer: "sgd",
  data: "synthetic",
  epochs: 3,
  batchSize: 50,
  seed: 7,
  device: "wasm",
  threads: 2,
  precision: "exact",
  out: "somewhere",
  fc: [16, 8],
  init: "pytorch",
  learningRate: 0.2,
  momentum: 0.5,
  weightDecay: 0.01,
  damping: 0.3,
  dampingKind: "pi",
  adaptDamping: 5,
  statDecay: 0.9,
  factorUpdateEvery: 2,
  inversionEvery: 4,
  inversionLag: 2,
  inverse: "cholesky",
  fisher: "type-2",
  klClip: 0.01,
  rmsClip: 0.1,
  preset: "paper",
  rank: [20, 10],
  oversampling: 4,
  exactUpTo: 6,
  tolerance: 0.1,
  negligible: [0.1, 0],
  iterations: 2,
  tail: "zero",
  thin: "off",
  variant: "b-r-c",
  truncation: "at-once",
  restartEvery: [3, 2],
  correctEvery: 4,
  eigenvalues: "intra",
  columns: 16,
  skip: ["*5.weight"],
  batchNorm: "block",
  augment: "crop-flip",
};

describe("parseConfig", () => {
  test("fills in what is left out", () => {
    expect(parseConfig({})).toEqual({
      model: "vgg_tiny_bn",
      optimizer: "rs-kfac",
      data: "mnist",
      epochs: 2,
      batchSize: 128,
      seed: 0,
      device: expect.any(String) as unknown,
      augment: "none",
    });
    expect(backendNames()).toContain(parseConfig({}).device);
  });

  test("takes every key, and a configuration that it gave", () => {
    expect(parseConfig(full)).toEqual(full);
    expect(parseConfig(parseConfig({}))).toEqual(parseConfig({}));
    expect(parseConfig(JSON.parse(JSON.stringify(parseConfig(full))))).toEqual(full);
  });

  test("lists every fault, and where the configuration came from", () => {
    const parse = (): unknown =>
      parseConfig({ epochs: 0, batchSize: 1.5, momentum: 1, learningRate: -1, fc: [4, 0], init: "he", model: 3 }, "run.json");
    expect(parse).toThrow(UsageError);
    expect(parse).toThrow(/^run\.json is not valid: /);
    for (const key of ["epochs", "batchSize", "momentum", "learningRate", "fc.1", "init", "model"]) expect(parse).toThrow(`${key}: `);
    expect(parse).toThrow('"vgg"|"pytorch"');
  });

  test("refuses unknown keys by name: a misspelt option must not be ignored", () => {
    const parse = (): unknown => parseConfig({ learningrate: 0.1, epochz: 3 });
    expect(parse).toThrow(UsageError);
    expect(parse).toThrow("learningrate");
    expect(parse).toThrow("epochz");
  });

  test.each([[null], [[]], ["kfac"], [3], [undefined]])("refuses %j: it is no object of options", (input) => {
    expect(() => parseConfig(input)).toThrow(UsageError);
  });

  test.each([
    ["epochs", Infinity],
    ["epochs", NaN],
    ["seed", -1],
    ["seed", 2 ** 53],
    ["damping", 0],
    ["statDecay", 1],
    ["weightDecay", -1e-9],
    ["factorUpdateEvery", 0],
    ["klClip", 0],
    ["exactUpTo", -1],
    ["tolerance", 0],
    ["tolerance", 1],
    ["negligible", -0.1],
    ["negligible", 1],
    ["epochs", "2"],
  ])("refuses %s = %s", (key, value) => {
    expect(() => parseConfig({ [key]: value })).toThrow(`${key}: `);
  });
});

describe("configKeys", () => {
  test("are the keys of the configuration, each described", () => {
    expect(configKeys.map(({ key }) => key).sort()).toEqual(Object.keys(full).sort());
    for (const { description } of configKeys) expect(description).not.toBe("");
  });

  test("tell the defaults that parseConfig fills in", () => {
    const defaults = configKeys.flatMap((entry) => (entry.default === undefined ? [] : [[entry.key, entry.default]]));
    expect(Object.fromEntries(defaults)).toEqual(parseConfig({}));
  });

  test("tell kind and choices", () => {
    for (const { key, kind, choices } of configKeys) {
      const value = full[key];
      const own = Array.isArray(value) ? (typeof value[0] === "string" ? "names" : "list") : typeof value;
      // Those of a schedule take either.
      expect([key, kind === "number or list" ? ["number", "list"] : [kind]]).toEqual([key, expect.arrayContaining([own])]);
      if (choices) expect(choices).toContain(value);
    }
    expect(configKeys.filter(({ choices }) => choices).map(({ key }) => key)).toEqual([
      ...[
        "precision",
        "init",
        "preset",
        "dampingKind",
        "inverse",
        "fisher",
        "tail",
        "thin",
        "variant",
        "truncation",
        "eigenvalues",
        "batchNorm",
        "augment",
      ],
    ]);
    expect(configKeys.filter(({ kind }) => kind === "number or list").map(({ key }) => key)).toEqual([
      ...[
        "learningRate",
        "damping",
        "factorUpdateEvery",
        "inversionEvery",
        "rank",
        "oversampling",
        "tolerance",
        "negligible",
        "restartEvery",
        "correctEvery",
        "klClip",
        "rmsClip",
      ],
    ]);
  });

  test("name every model and optimizer that there is", () => {
    const describe = (key: string): string => configKeys.find((entry) => entry.key === key)?.description ?? "";
    for (const name of optimizerNames) expect(describe("optimizer")).toContain(name);
    expect(describe("model")).toContain("vgg_tiny_bn, vgg_small_bn, vgg11_bn … vgg19_bn, or without _bn");
    expect(vggNames).toContain("vgg19");
  });
});

test("text that is not JSON is a UsageError that names the file", () => {
  expect(parseJson('{"epochs": 3}', "a.json")).toEqual({ epochs: 3 });
  expect(() => parseJson("{epochs: 3}", "a.json")).toThrow(UsageError);
  expect(() => parseJson("{epochs: 3}", "a.json")).toThrow("a.json is not JSON");
});

function omit<T extends object, K extends keyof T>(object: T, ...keys: K[]): Omit<T, K> {
  const left = { ...object };
  for (const key of keys) Reflect.deleteProperty(left, key);
  return left;
}

const comparisons = join(import.meta.dirname, "../../bench/comparisons");

describe("makeOptimizer", () => {
  const parameters = smallModel().parameters();

  test("makes what the name says, with defaults and with every option", () => {
    const classes = {
      sgd: Sgd,
      adam: Adam,
      adamw: AdamW,
      rmsprop: RmsProp,
      kfac: Kfac,
      "rs-kfac": RsKfac,
      "sre-kfac": SreKfac,
      "nys-kfac": NysKfac,
      "b-kfac": BrandKfac,
      "ek-fac": EkFac,
      seng: Seng,
    };
    expect(Object.keys(classes)).toEqual(optimizerNames);
    for (const [name, type] of Object.entries(classes)) {
      expect(optimizerNames).toContain(name);
      const optimizer = makeOptimizer(parameters, parseConfig({ optimizer: name }), 10);
      expect(optimizer).toBeInstanceOf(type);
      optimizer.dispose();
      for (const preset of ["paper", "wide"]) {
        if (name === "ek-fac" && preset === "paper") continue;
        makeOptimizer(parameters, parseConfig({ optimizer: name, preset }), 10).dispose();
      }
    }
    const {
      klClip,
      rmsClip,
      rank,
      oversampling,
      exactUpTo,
      tolerance,
      negligible,
      iterations,
      tail,
      thin,
      eigenvalues,
      columns,
      preset,
      ...others
    } = full;
    const { variant, truncation, restartEvery, correctEvery, ...kfac } = others;
    const brand = { variant, truncation, restartEvery, correctEvery };
    expect([rmsClip, preset]).toEqual([0.1, "paper"]);
    const given: Partial<TrainConfig>[] = [
      { ...kfac, klClip, thin, optimizer: "kfac" },
      { ...kfac, rmsClip, preset, thin, optimizer: "kfac" },
      { ...omit(kfac, "inverse"), klClip, rank, oversampling, exactUpTo, iterations, tail, thin, optimizer: "rs-kfac" },
      { ...omit(kfac, "inverse"), klClip, rank, oversampling, exactUpTo, tolerance, iterations, tail, thin, optimizer: "sre-kfac" },
      { ...omit(kfac, "inverse"), klClip, rank, oversampling, exactUpTo, negligible, thin, optimizer: "nys-kfac" },
      { ...omit(kfac, "inverse"), klClip, rank, oversampling, exactUpTo, iterations, tail, thin, ...brand, optimizer: "b-kfac" },
      { ...omit(kfac, "inverse"), dampingKind: "absolute", klClip, eigenvalues, optimizer: "ek-fac" },
      {
        ...omit(kfac, "inverse", "dampingKind", "adaptDamping", "statDecay", "factorUpdateEvery", "inversionLag", "fisher", "batchNorm"),
        columns,
        thin,
        optimizer: "seng",
      },
    ];
    for (const config of given) makeOptimizer(parameters, parseConfig(config), 10).dispose();
  });

  test("one value an epoch is a schedule whose last value holds on", async () => {
    const model = smallModel();
    const rates = [0.5, 0.25];
    const optimizer = makeOptimizer(
      model.parameters(),
      parseConfig({ optimizer: "sgd", learningRate: rates, momentum: 0, weightDecay: 0 }),
      2,
    );
    const [p] = model.parameters();
    if (!p) throw new Error("the model has no parameter");
    for (const rate of [0.5, 0.5, 0.25, 0.25, 0.25]) {
      const before = p.value.dataSync()[0] as number;
      // The gradient of every element of p is 1.
      await optimizer.minimize(() => p.value.sum());
      expect(before - (p.value.dataSync()[0] as number)).toBeCloseTo(rate, 5);
    }
    optimizer.dispose();
  });

  test("settings that contradict each other, or are known to diverge, are refused", () => {
    const make = (config: Partial<TrainConfig>): unknown => makeOptimizer(parameters, parseConfig({ optimizer: "kfac", ...config }), 10);
    expect(() => make({ klClip: 0.1, rmsClip: 0.1 })).toThrow("klClip and rmsClip are two clips in place of each other");
    expect(() => make({ rmsClip: 0.07 })).toThrow("diverge on wide layers");
    expect(() => make({ rmsClip: 0.07, preset: "wide" })).toThrow("diverge on wide layers");
    expect(() => make({ inverse: "cholesky", dampingKind: "absolute" })).toThrow("inverts the factors one by one");
    expect(() => make({ optimizer: "rs-kfac", dampingKind: "absolute" })).toThrow(
      "dampingKind must be relative, factored, pi, not absolute",
    );
    expect(() => make({ optimizer: "ek-fac", dampingKind: "pi" })).toThrow("dampingKind must be relative, absolute, not pi");
  });

  test("a hyper-parameter that the optimizer would ignore is refused, with those that it takes", () => {
    const config = parseConfig({ optimizer: "sgd", damping: 1, klClip: 1, momentum: 0.5 });
    expect(() => makeOptimizer(parameters, config, 10)).toThrow(
      'optimizer "sgd" does not take damping, klClip; it takes learningRate, momentum, weightDecay',
    );
  });

  test("a tolerance is for SRE-KFAC, one for each epoch if wanted, and keeps as many eigenpairs as it takes", async () => {
    for (const optimizer of optimizerNames.filter((name) => name !== "sre-kfac")) {
      expect(() => makeOptimizer(parameters, parseConfig({ optimizer, tolerance: 0.1 }), 10)).toThrow("does not take tolerance; it takes");
    }
    const layer = new Linear(12, 6, { generator: new Generator(1) });
    const [x, labels] = [new Generator(2).normal([20, 12]), Tensor.from(Int32Array.from({ length: 20 }, (_, i) => i % 6))];
    const optimizer = makeOptimizer(
      layer.parameters(),
      parseConfig({ optimizer: "sre-kfac", tolerance: [0.9, 1e-4], factorUpdateEvery: 1, inversionEvery: 1 }),
      2,
    );
    const ranks: (number | undefined)[] = [];
    for (let step = 0; step < 3; step++) {
      await optimizer.minimize(() => crossEntropy(layer.forward(x), labels));
      ranks.push(optimizer.reports?.()[0]?.figures["input.rank"]);
    }
    optimizer.dispose();
    expect(ranks.slice(0, 2)).toEqual([1, 1]);
    expect(ranks[2]).toBeGreaterThan(8);
  });

  test("the preset paper leaves to chance what the randomized methods keep of a flat spectrum, unless told otherwise", async () => {
    const layer = new Linear(12, 6, { generator: new Generator(1) });
    const [x, labels] = [new Generator(2).normal([20, 12]), Tensor.from(Int32Array.from({ length: 20 }, (_, i) => i % 6))];
    const smallestKept = async (settings: Partial<TrainConfig>): Promise<number | undefined> => {
      const config = { preset: "paper", rank: 6, oversampling: 2, iterations: 1, learningRate: 1e-9, ...settings };
      const optimizer = makeOptimizer(layer.parameters(), parseConfig(config), 10);
      await optimizer.minimize(() => crossEntropy(layer.forward(x), labels));
      const kept = optimizer.reports?.()[0]?.figures["input.smallest"];
      optimizer.dispose();
      return kept;
    };
    for (const optimizer of ["rs-kfac", "sre-kfac"]) {
      const [one, another] = [await smallestKept({ optimizer, seed: 1 }), await smallestKept({ optimizer, seed: 2 })];
      expect(one).not.toBe(another);
      const exactly = { optimizer, exactUpTo: 13 };
      const exact = await smallestKept({ ...exactly, seed: 1 });
      expect(await smallestKept({ ...exactly, seed: 2 })).toBe(exact);
      expect(Math.max(one ?? NaN, another ?? NaN)).toBeLessThan(exact ?? NaN); // Cauchy: no sixth eigenvalue of a projection is above
    }
    for (const resource of [layer, x, labels]) resource.dispose();
  });

  test("what is negligible is for NysKfac, one value for each epoch if wanted, and needs no eigenpair", async () => {
    for (const optimizer of optimizerNames.filter((name) => name !== "nys-kfac")) {
      expect(() => makeOptimizer(parameters, parseConfig({ optimizer, negligible: 0.1 }), 10)).toThrow(
        "does not take negligible; it takes",
      );
    }
    const layer = new Linear(12, 6, { generator: new Generator(1) });
    const [x, labels] = [new Generator(2).normal([20, 12]), Tensor.from(Int32Array.from({ length: 20 }, (_, i) => i % 6))];
    const optimizer = makeOptimizer(
      layer.parameters(),
      parseConfig({ optimizer: "nys-kfac", damping: 1, negligible: [0, 0.9], factorUpdateEvery: 1, inversionEvery: 1 }),
      1,
    );
    const ranks: (number | undefined)[] = [];
    for (let step = 0; step < 2; step++) {
      await optimizer.minimize(() => crossEntropy(layer.forward(x), labels));
      ranks.push(optimizer.reports?.()[0]?.figures["input.rank"]);
    }
    expect(ranks[0]).toBe(13);
    expect(ranks[1]).toBeLessThan(13);
    for (const resource of [optimizer, layer, x, labels]) resource.dispose();
  });

  test("a lag that some epoch's inversions do not leave is an error before the first step", () => {
    const make = (settings: object): void => {
      makeOptimizer(parameters, parseConfig({ optimizer: "rs-kfac", inversionLag: 40, ...settings }), 10).dispose();
    };
    expect(() => make({})).toThrow("inversionLag must be below inversionEvery, which is 20 in some epoch, but is 40");
    expect(() => make({ inversionEvery: [50, 30], epochs: 2 })).toThrow("which is 30 in some epoch");
    expect(() => make({ preset: "paper", epochs: 20 })).toThrow("which is 30 in some epoch");
    make({ inversionEvery: [50, 30], epochs: 1 });
    make({ preset: "paper", epochs: 19 });
  });

  test("a preset that has no settings for a curvature method is refused, with the methods that it is for", () => {
    const make = (optimizer: string): unknown => makeOptimizer(parameters, parseConfig({ optimizer, preset: "paper" }), 10);
    expect(() => make("ek-fac")).toThrow(UsageError);
    expect(() => make("ek-fac")).toThrow(
      'preset "paper" has no settings for ek-fac, but for kfac, rs-kfac, sre-kfac, nys-kfac, b-kfac, seng; leave the preset out, or take wide',
    );
  });

  test.each(readdirSync(comparisons))("the runs of bench/comparisons/%s are made with the preset that they share", (file) => {
    const { runs } = parseComparison(parseJson(readFileSync(join(comparisons, file), "utf8"), file), file);
    for (const { config } of runs) makeOptimizer(parameters, config, 10).dispose();
  });

  test.each(["sgd", "adam", "adamw", "rmsprop"])("a preset leaves %s as it is, so that comparisons can share one", async (optimizer) => {
    const after = async (preset: Pick<TrainConfig, "preset">): Promise<number[]> => {
      const model = smallModel();
      const [p] = model.parameters();
      if (!p) throw new Error("the model has no parameter");
      const own = makeOptimizer(model.parameters(), parseConfig({ optimizer, ...preset }), 10);
      for (let step = 0; step < 2; step++) await own.minimize(() => p.value.sum());
      return [...p.value.dataSync()];
    };
    const plain = await after({});
    for (const preset of ["paper", "wide"] as const) expect(await after({ preset })).toEqual(plain);
    expect(configKeys.find(({ key }) => key === "preset")?.description).toContain("first-order optimizers take nothing from either");
  });

  test("without a preset the K-FAC family trains as docs/optimizers.md says", async () => {
    const after = async (settings: Partial<TrainConfig>): Promise<number[]> => {
      const layer = new Linear(3, 2, { generator: new Generator(1) });
      const x = new Generator(2).normal([8, 3]);
      const own = makeOptimizer(layer.parameters(), parseConfig({ optimizer: "kfac", epochs: 3, ...settings }), 10);
      for (let step = 0; step < 30; step++) await own.minimize(() => layer.forward(x).square().sum());
      own.dispose();
      return layer.parameters().flatMap(({ value }) => [...value.dataSync()]);
    };
    const plain = await after({});
    const documented = { learningRate: 0.15, momentum: 0.5, inversionEvery: 20, klClip: 1e-2, damping: 0.03 };
    expect(await after(documented)).toEqual(plain);
    for (const [key, value] of Object.entries(documented)) expect(await after({ [key]: value / 2 })).not.toEqual(plain);
  });

  test.each<[factorUpdateEvery: number | number[], start: number]>([
    [1, 20],
    [2, 40],
    [[2, 1], 20], // that of the step counts: 1 from step 10 on
  ])(
    "with factor updates every %j steps the preset paper decays weights from step %d on, 20 updates later",
    async (factorUpdateEvery, start) => {
      const layer = new Linear(3, 2, { generator: new Generator(1) });
      const config = parseConfig({ optimizer: "kfac", preset: "paper", factorUpdateEvery, learningRate: 0.1, weightDecay: 0.5 });
      const optimizer = makeOptimizer(layer.parameters(), config, 10);
      const x = Tensor.ones([4, 3]);
      const weight = (): number => layer.parameters()[0]?.value.dataSync()[0] as number;
      const initial = weight();
      // Without a gradient nothing moves the weights but their decay.
      while (weight() === initial && optimizer.steps < 100) await optimizer.minimize(() => layer.forward(x).multiply(0).sum());
      expect(optimizer.steps).toBe(start + 1);
      optimizer.dispose();
    },
  );

  test.each(["adagrad", "", "constructor", "toString", "__proto__"])('"%s" is a UsageError that lists the known names', (optimizer) => {
    const make = (): unknown => makeOptimizer(parameters, { ...parseConfig({}), optimizer }, 10);
    expect(make).toThrow(UsageError);
    expect(make).toThrow(`there is no optimizer "${optimizer}"; known: ${optimizerNames.join(", ")}`);
  });
});

describe("prepareRun", () => {
  test("makes model and loaders that fit the data, reproducibly from the seed", async () => {
    const config = parseConfig({ data: "synthetic", batchSize: 300, fc: [8], seed: 5 });
    const [one, two] = [await prepareRun(config), await prepareRun(config)];
    expect(one.train.batches).toBe(4);
    expect(one.test.dataset).toBe(one.data.test);
    expect([...one.model.stateDict().values()].map((tensor) => [...tensor.dataSync()])).toEqual(
      [...two.model.stateDict().values()].map((tensor) => [...tensor.dataSync()]),
    );
    expect(one.model.namedParameters().get("24.weight")?.shape).toEqual([10, 8]);
    expect(one.train.order(0)).toEqual(two.train.order(0));
    expect(one.train.order(0)).not.toEqual(one.train.order(1));
  });

  test.each(["sgd", "kfac", "rs-kfac", "seng"])(
    "of %s is disposed with all that training made, and a device of its own",
    async (optimizer) => {
      const config = parseConfig({ optimizer, data: "synthetic", batchSize: 500, fc: [8], threads: 1 });
      const run = await prepareRun(config);
      const own = defaultBackend();
      for await (const { type } of train({ ...run, epochs: 1 })) if (type === "step") expect(own.memory().buffers).toBeGreaterThan(0);
      expect(own.closed).toBe(false);
      run.dispose();
      expect(own.memory().buffers).toBe(0);
      expect(own.closed).toBe(true);
    },
  );

  test("with a device of its own leaves the default as it was, also when it fails", async () => {
    const shared = await openBackend("wasm");
    setDefaultBackend(shared);
    const own = { data: "synthetic", fc: [8], threads: 1 };
    const run = await prepareRun(parseConfig(own));
    expect(defaultBackend()).not.toBe(shared);
    run.dispose();
    expect(defaultBackend()).toBe(shared);
    for (const fault of [{ optimizer: "adagrad" }, { model: "vgg11" }, { batchSize: 100_000 }]) {
      await expect(prepareRun(parseConfig({ ...own, ...fault }))).rejects.toThrow(KfacetError);
      expect(defaultBackend()).toBe(shared);
    }
    // Of two, whichever ends first.
    const [first, second] = [await prepareRun(parseConfig(own)), await prepareRun(parseConfig(own))];
    first.dispose();
    expect(defaultBackend().closed).toBe(false);
    second.dispose();
    expect(defaultBackend().closed).toBe(false);
  });

  test("leaves a device that others use when it is disposed", async () => {
    (await prepareRun(parseConfig({ data: "synthetic", fc: [8] }))).dispose();
    expect(defaultBackend()).toBe(await openBackend("wasm"));
    expect(defaultBackend().closed).toBe(false);
  });

  test.each([
    [{ device: "abacus" }, `there is no device "abacus"; known: ${backendNames().join(", ")}`],
    [{ device: "constructor" }, 'there is no device "constructor"'],
    [{ data: "cifar" }, `known: ${dataNames().join(", ")}`],
    [{ model: "resnet" }, "known: vgg_tiny_bn, vgg_tiny,"],
    [{ model: "vgg11" }, "model vgg11 does not take the images of synthetic: vgg: vgg11 halves the image 5 times"],
    [{ optimizer: "adagrad" }, "known: sgd,"],
  ])("%j is a UsageError", async (fault, message) => {
    const run = prepareRun(parseConfig({ data: "synthetic", ...fault }));
    await expect(run).rejects.toThrow(UsageError);
    await expect(run).rejects.toThrow(message);
  });
});
