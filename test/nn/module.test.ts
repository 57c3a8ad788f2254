import { describe, expect, test } from "vitest";
import { frozen, valueAndGrad } from "../../src/autograd/index.ts";
import {
  BatchNorm1d,
  BatchNorm2d,
  Conv2d,
  Dropout,
  Flatten,
  Linear,
  MaxPool2d,
  Module,
  observeForward,
  Parameter,
  ReLU,
  Sequential,
  summarize,
} from "../../src/nn/index.ts";
import { openReference } from "../../src/tensor/backends/reference/index.ts";
import { CheckpointError, Generator, Tensor, tidy, unscoped, UsageError, Variable } from "../../src/tensor/index.ts";

const options = { generator: new Generator(1) };

function network(): Sequential {
  return new Sequential(
    new Conv2d(2, 3, 3, { padding: 1, ...options }),
    new BatchNorm2d(3, options),
    new ReLU(),
    new MaxPool2d(2),
    new Flatten(),
    new Dropout(0.5, { generator: new Generator(2) }),
    new Linear(12, 4, options),
  );
}

const batch = (): Tensor => new Generator(3).normal([5, 4, 4, 2]);

/** Modules in properties, in arrays and inside of others; parameters alone and in an array. */
class Composite extends Module {
  readonly encoder = new Sequential(new Linear(2, 2, options), new ReLU());
  readonly heads = [new Linear(2, 3, options), new Linear(2, 3, { bias: false, ...options })] as const;
  readonly scale = new Parameter("scale", Tensor.full([], 2));
  readonly shifts = [new Parameter("a", Tensor.full([3], 1)), new Parameter("b", Tensor.full([3], -1))];
  readonly count = new Variable("count", Tensor.zeros([]));
  readonly title = "neither module nor parameter";

  protected compute(input: Tensor): Tensor {
    const features = this.encoder.forward(input);
    const sum = this.heads.map((head) => head.forward(features)).reduce((a, b) => a.add(b));
    return this.shifts.reduce((x, shift) => x.add(shift.value), sum.multiply(this.scale.value));
  }
}

/** One layer at two places, and its bias a third time in a property. */
class Shared extends Module {
  readonly layer = new Linear(2, 2, options);
  readonly again = this.layer;
  readonly tied = this.layer.bias;

  protected compute(input: Tensor): Tensor {
    return this.again.forward(this.layer.forward(input));
  }
}

describe("names", () => {
  test("are positions in a Sequential", () => {
    const model = network();
    expect([...model.namedParameters().keys()]).toEqual(["0.weight", "0.bias", "1.weight", "1.bias", "6.weight", "6.bias"]);
    expect([...model.namedBuffers().keys()]).toEqual(["1.runningMean", "1.runningVariance"]);
  });

  test("are paths of properties and positions in arrays elsewhere", () => {
    const model = new Sequential(new Composite());
    expect([...model.namedParameters().keys()].sort()).toEqual([
      "0.encoder.0.bias",
      "0.encoder.0.weight",
      "0.heads.0.bias",
      "0.heads.0.weight",
      "0.heads.1.weight",
      "0.scale",
      "0.shifts.0",
      "0.shifts.1",
    ]);
    expect([...model.namedBuffers().keys()]).toEqual(["0.count"]);
    expect(new Composite().children().map(([name]) => name)).toEqual(["encoder", "heads.0", "heads.1"]);
  });

  test("become those of the parameters when parameters() is called", () => {
    const model = network();
    expect(model.parameters().map(({ name }) => name)).toEqual([...model.namedParameters().keys()]);
  });

  test("of a shared parameter: the first, once", () => {
    const model = new Shared();
    expect(model.parameters()).toEqual([model.layer.bias, model.layer.weight]);
    expect([...model.namedParameters().keys()]).toEqual(["tied", "layer.weight"]);
    expect(summarize(model, [1, 2]).parameters).toBe(6);
    const twice = new Sequential(model.layer, new ReLU(), model.layer);
    expect([...twice.stateDict().keys()]).toEqual(["0.weight", "0.bias"]);
  });
});

describe("a Sequential", () => {
  test("of nothing is the identity", () => {
    const x = batch();
    const y = new Sequential().forward(x);
    expect(y.dataSync()).toEqual(x.dataSync());
    y.dispose();
    expect(x.isDisposed).toBe(false);
  });

  test("frees what its modules hand on, but never what somebody else owns", () => {
    class Stored extends Module {
      readonly value = new Variable("value", Tensor.ones([5, 2]));
      protected compute(): Tensor {
        return this.value.value;
      }
    }
    class Same extends Module {
      protected compute(input: Tensor): Tensor {
        return input;
      }
    }
    const [x, stored] = [new Generator(4).normal([5, 2]), new Stored()];
    for (const modules of [[new Same()], [stored], [new Same(), new ReLU(), new Same()], [stored, new Same(), stored, new Same()]]) {
      const model = new Sequential(...modules, new Dropout(0.5).eval());
      expect(() => model.forward(x).dispose()).toHaveNoLeaks();
      expect([x.isDisposed, stored.value.value.isDisposed]).toEqual([false, false]);
    }
  });

  test("applies a batch norm of somebody's own by what that computes, with a ReLU behind it, too", () => {
    class Frozen extends BatchNorm1d {
      protected override compute(input: Tensor): Tensor {
        return input.subtract(this.runningMean.value);
      }
    }
    const own = new Frozen(2);
    const x = new Generator(4).normal([5, 2]);
    expect(new Sequential(own, new ReLU()).forward(x).dataSync()).toEqual(x.relu().dataSync());
    expect([...own.runningMean.value.dataSync()]).toEqual([0, 0]);
  });

  test("tells of a module that returns no tensor", () => {
    class Forgetful extends Module {
      protected compute(input: Tensor): Tensor {
        return [input.relu()].at(1) as unknown as Tensor;
      }
    }
    const forward = (): unknown => new Sequential(new Forgetful()).forward(batch());
    expect(forward).toThrow(UsageError);
    expect(forward).toThrow("Forgetful.compute returned no tensor but undefined");
  });

  test("applies its modules in order", () => {
    const [first, second] = [new Linear(2, 3, options), new Linear(3, 1, options)];
    const x = new Generator(4).normal([4, 2]);
    const expected = second.forward(first.forward(x).relu());
    expect(new Sequential(first, new ReLU(), second).forward(x).dataSync()).toEqual(expected.dataSync());
  });
});

describe("a module whose child refers back to it", () => {
  class Child extends Module {
    readonly parent: Module;
    readonly weight = new Parameter("weight", Tensor.ones([2]));
    constructor(parent: Module) {
      super();
      this.parent = parent;
    }
    protected compute(input: Tensor): Tensor {
      return input.multiply(this.weight.value);
    }
  }
  class Parent extends Module {
    readonly scale = new Parameter("scale", Tensor.ones([3, 2]));
    readonly child: Module = new Child(this);
    readonly last = new ReLU();
    protected compute(input: Tensor): Tensor {
      return this.last.forward(this.child.forward(input)).multiply(this.scale.value);
    }
  }

  test("can be walked: names, modes, state and summary", () => {
    const model = new Parent();
    expect([...model.namedModules().keys()]).toEqual(["", "child", "last"]);
    expect([...model.namedParameters().keys()]).toEqual(["scale", "child.weight"]);
    expect(model.parameters()).toHaveLength(2);
    model.eval();
    expect([model.training, model.child.training, model.last.training]).toEqual([false, false, false]);
    model.train().child.training = false;
    const summary = summarize(model, [3, 2]);
    expect([model.training, model.child.training, model.last.training]).toEqual([true, false, true]);
    expect(summary.rows.map(({ path, parameters }) => [path, parameters])).toEqual([
      ["child", 2],
      ["last", 0],
    ]);
    expect(summary.parameters).toBe(8);
    tidy(() => model.loadStateDict(model.stateDict()));
  });
});

describe("train() and eval()", () => {
  test("reach every module inside", () => {
    const modes = (module: Module): boolean[] => [module.training, ...module.children().flatMap(([, child]) => modes(child))];
    const model = new Sequential(new Composite(), network());
    expect(modes(model)).toHaveLength(15);
    expect(new Set(modes(model))).toEqual(new Set([true]));
    expect(model.eval()).toBe(model);
    expect(new Set(modes(model))).toEqual(new Set([false]));
    expect(model.train()).toBe(model);
    expect(new Set(modes(model))).toEqual(new Set([true]));
  });

  test("of one module leave those around it alone", () => {
    const model = network();
    model.children()[1]?.[1].eval();
    expect(model.training).toBe(true);
    expect(model.children().map(([, { training }]) => training)).toEqual([true, false, true, true, true, true, true]);
  });
});

describe("stateDict", () => {
  test("into another model of the same architecture gives the same function, bit for bit", () => {
    const [from, to, x] = [network(), network(), batch()];
    from.forward(x);
    expect(to.eval().forward(x).dataSync()).not.toEqual(from.eval().forward(x).dataSync());
    tidy(() => to.loadStateDict(from.stateDict()));
    expect(to.forward(x).dataSync()).toEqual(from.forward(x).dataSync());
  });

  test("keeps its values when the model goes on learning", () => {
    const model = network();
    const state = model.stateDict();
    const before = state.get("0.bias")?.dataSync();
    tidy(() =>
      model
        .namedParameters()
        .get("0.bias")
        ?.assign(Tensor.full([3], 7)),
    );
    expect(state.get("0.bias")?.dataSync()).toEqual(before);
    model.loadStateDict(state);
    expect(model.namedParameters().get("0.bias")?.value.dataSync()).toEqual(before);
  });

  test("copies nothing, and its handles are the caller's", () => {
    const model = network();
    expect(() => model.stateDict().forEach((tensor) => tensor.dispose())).toHaveNoLeaks();
    expect(() => tidy(() => model.loadStateDict(model.stateDict()))).toHaveNoLeaks();
  });

  test("may exchange the values of two variables", () => {
    const model = new BatchNorm2d(2, options);
    const { weight, bias } = model;
    const state = new Map(model.stateDict());
    state.set("weight", bias.value).set("bias", weight.value);
    model.loadStateDict(state);
    expect([[...weight.value.dataSync()], [...bias.value.dataSync()]]).toEqual([
      [0, 0],
      [1, 1],
    ]);
  });

  test("that does not fit is refused with every fault named, and nothing changes", () => {
    const model = network();
    const before = [...model.stateDict()].map(([name, tensor]) => [name, tensor.id, [...tensor.dataSync()]]);
    const state = new Map(network().stateDict());
    state.delete("0.bias");
    state.delete("1.runningMean");
    state.set("1.runningVariance", Tensor.ones([4]));
    state.set("6.weight", Tensor.ones([4, 12], { dtype: "float64" }));
    state.set("7.weight", Tensor.ones([4]));
    const load = (): void => model.loadStateDict(state);
    expect(load).toThrow(CheckpointError);
    for (const fault of [
      '"0.bias" is missing',
      '"1.runningMean" is missing',
      '"1.runningVariance" is float32 [4] but the model has float32 [3]',
      '"6.weight" is float64 [4, 12] but the model has float32 [4, 12]',
      '"7.weight" is not in the model',
    ]) {
      expect(load).toThrow(fault);
    }
    expect([...model.stateDict()].map(([name, tensor]) => [name, tensor.id, [...tensor.dataSync()]])).toEqual(before);
  });
});

describe("loadStateDict changes nothing where one entry cannot be assigned:", () => {
  const last = "6.weight";
  const attempt = (spoil: (model: Sequential, state: Map<string, Tensor>) => void): { load: () => void; unchanged: () => void } => {
    const [model, state] = [network(), new Map(network().stateDict())];
    spoil(model, state);
    const ids = (): unknown[] => [...model.stateDict()].map(([name, { id }]) => [name, id]);
    const before = ids();
    return {
      load: () => {
        model.loadStateDict(state);
      },
      unchanged: () => {
        expect(ids()).toEqual(before);
      },
    };
  };

  test("one that was disposed", () => {
    const { load, unchanged } = attempt((_, state) => state.get(last)?.dispose());
    expect(load).toThrow(CheckpointError);
    expect(load).toThrow('"6.weight" was disposed');
    unchanged();
  });

  test("one on another backend", () => {
    const { load, unchanged } = attempt((_, state) => state.set(last, Tensor.ones([4, 12], { backend: openReference() })));
    expect(load).toThrow(CheckpointError);
    expect(load).toThrow('"6.weight" lives on "reference" but the model on "wasm"');
    unchanged();
  });

  test("one that an open tape differentiates", () => {
    let model: Sequential | undefined;
    const { load, unchanged } = attempt((made) => void (model = made));
    const weight = model?.namedParameters().get(last) as Parameter;
    const loading = (): unknown =>
      valueAndGrad(() => {
        load();
        return weight.value.sum();
      }, [weight]);
    expect(loading).toThrow(CheckpointError);
    expect(loading).toThrow('"6.weight" is being differentiated by an open tape');
    unchanged();
    expect(load).not.toThrow();
  });
});

describe("memory", () => {
  const x = batch();

  test("a forward pass leaves nothing behind but its output", () => {
    for (const model of [network(), network().eval()]) {
      expect(() => model.forward(x).dispose()).toHaveNoLeaks();
      expect(() => frozen(() => model.forward(x)).dispose()).toHaveNoLeaks();
    }
    const composite = new Composite();
    const features = new Generator(5).normal([3, 2]);
    expect(() => composite.forward(features).dispose()).toHaveNoLeaks();
  });

  test("inside of a user's tidy the output lives until the tidy ends", () => {
    const model = network();
    expect(() =>
      tidy(() => {
        const y = model.forward(x);
        expect(y.isDisposed).toBe(false);
        expect(y.shape).toEqual([5, 4]);
      }),
    ).toHaveNoLeaks();
  });

  test("a forward pass that fails leaves nothing behind, and its input to the caller", () => {
    const model = new Sequential(new Flatten(), new Linear(32, 3, options), new Linear(4, 3, options));
    expect(() => {
      expect(() => model.forward(x)).toThrow();
    }).toHaveNoLeaks();
    expect(x.isDisposed).toBe(false);
  });

  test("parameters made inside of a tidy outlive it; dispose() frees them all", () => {
    expect(() => {
      const model = tidy(() => network());
      expect(model.namedParameters().get("0.weight")?.value.isDisposed).toBe(false);
      model.dispose();
      expect(() => model.forward(x)).toThrow(UsageError);
    }).toHaveNoLeaks();
  });
});

describe("observeForward", () => {
  test("sees every module's output, inner ones first, and only while it runs", () => {
    const model = new Sequential(new Sequential(new Flatten(), new ReLU()), new Linear(32, 2, options));
    const x = batch();
    const seen: [string, readonly number[]][] = [];
    const observer = (module: Module, output: Tensor): void => {
      seen.push([module.constructor.name, output.shape]);
    };
    const y = observeForward(observer, () => model.forward(x));
    expect(y.shape).toEqual([5, 2]);
    const expected = [
      ["Flatten", [5, 32]],
      ["ReLU", [5, 32]],
      ["Sequential", [5, 32]],
      ["Linear", [5, 2]],
      ["Sequential", [5, 2]],
    ];
    expect(seen).toEqual(expected);
    model.forward(x);
    expect(() =>
      observeForward(observer, () => {
        throw new Error("stop");
      }),
    ).toThrow("stop");
    model.forward(x);
    expect(seen).toEqual(expected);
  });

  test("and forward refuse a Promise", () => {
    const model = network();
    const observer = (): void => undefined;
    expect(() => observeForward(observer, () => Promise.resolve(model))).toThrow(UsageError);
    class Later extends Module {
      protected compute(input: Tensor): Tensor {
        return Promise.resolve(input) as unknown as Tensor;
      }
    }
    expect(() => new Later().forward(batch())).toThrow(/Later.forward: the function returned a Promise/);
  });

  test("may keep an output", () => {
    const model = network();
    const x = batch();
    const kept: Tensor[] = [];
    observeForward(
      (_, output) => kept.push(unscoped(() => output.keep())),
      () => model.forward(x).dispose(),
    );
    expect(kept.map((tensor) => tensor.isDisposed)).not.toContain(true);
    expect(kept.at(-1)?.shape).toEqual([5, 4]);
    for (const tensor of kept) tensor.dispose();
  });
});
