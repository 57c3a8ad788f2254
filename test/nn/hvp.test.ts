import { expect, test } from "vitest";
import { hvp, valueAndGrad } from "../../src/autograd/index.ts";
import { crossEntropy, Dropout, Linear, Sequential, Tanh, vgg } from "../../src/nn/index.ts";
import { Generator, Tensor } from "../../src/tensor/index.ts";

test("the Hessian-vector product of a small VGG in training mode equals differences of its gradients", () => {
  const dtype = "float64";
  const model = vgg("vgg_tiny_bn", { classes: 3, channels: 2, size: 8, fc: [5], dtype });
  const parameters = model.parameters();
  const generator = new Generator(1);
  const x = generator.normal([5, 8, 8, 2], { dtype });
  const labels = Tensor.from(Int32Array.of(0, 1, 2, 1, 0));
  const loss = (): Tensor => crossEntropy(model.forward(x), labels, { smoothing: 0.1 });
  const directions = parameters.map((p) => generator.normal(p.shape, { dtype }));
  const statistics = [...model.namedBuffers().values()].map((b) => b.value.dataSync());

  const products = hvp(loss, parameters, directions).flatMap((t) => [...t.dataSync()]);
  // Training mode, but a derivative changes no state.
  expect([...model.namedBuffers().values()].map((b) => b.value.dataSync())).toEqual(statistics);

  const start = parameters.map((p) => p.value.keep());
  const gradientsAt = (t: number): number[] => {
    parameters.forEach((p, i) => {
      p.assign((start[i] as Tensor).add((directions[i] as Tensor).multiply(t)));
    });
    return valueAndGrad(loss, parameters).gradients.flatMap((g) => [...g.dataSync()]);
  };
  // Truncation h² against rounding ε/h; small enough that no ReLU or pooling window switches at this point.
  const h = 1e-6;
  const [ahead, behind] = [gradientsAt(h), gradientsAt(-h)];
  expect(products).toBeAllclose(
    ahead.map((g, i) => (g - (behind[i] as number)) / (2 * h)),
    { relative: 1e-6 },
  );
});

test("with two Dropouts on one stream, the Hessian-vector product equals differences of the gradients that follow", () => {
  const dtype = "float64";
  const generator = new Generator(5);
  const masks = new Generator(6);
  const model = new Sequential(
    new Linear(4, 6, { generator, dtype }),
    new Tanh(),
    new Dropout(0.5, { generator: masks }),
    new Linear(6, 6, { generator, dtype }),
    new Tanh(),
    new Dropout(0.3, { generator: masks }),
    new Linear(6, 1, { generator, dtype }),
  );
  const parameters = model.parameters();
  const x = generator.normal([5, 4], { dtype });
  const loss = (): Tensor => model.forward(x).square().sum();
  const directions = parameters.map((p) => generator.normal(p.shape, { dtype }));
  const before = masks.state();

  const products = hvp(loss, parameters, directions).flatMap((t) => [...t.dataSync()]);
  expect(masks.state()).toEqual(before);

  const start = parameters.map((p) => p.value.keep());
  const gradientsAt = (t: number): number[] => {
    parameters.forEach((p, i) => {
      p.assign((start[i] as Tensor).add((directions[i] as Tensor).multiply(t)));
    });
    masks.load(before);
    return valueAndGrad(loss, parameters).gradients.flatMap((g) => [...g.dataSync()]);
  };
  const h = 1e-5;
  const [ahead, behind] = [gradientsAt(h), gradientsAt(-h)];
  expect(products).toBeAllclose(
    ahead.map((g, i) => (g - (behind[i] as number)) / (2 * h)),
    { relative: 1e-6 },
  );
});
