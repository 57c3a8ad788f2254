import { frozen, untracked } from "../autograd/index.ts";
import { observeForward, type Module } from "../nn/index.ts";
import { isFloat, NumericalError, tidy, type Tensor } from "../tensor/index.ts";

/**
 * Explains a loss that is not finite: repeats the forward pass, without changing state, and names the first layer whose output
 * has a NaN or an infinity. Must be called before the parameters change.
 */
export async function explainNonFiniteLoss(model: Module, images: Tensor, step: number, loss: number): Promise<NumericalError> {
  const outputs: { path: string; layer: string; output: Tensor }[] = [];
  const paths = new Map([...model.namedModules()].map(([path, module]) => [module, path]));
  untracked(() =>
    frozen(() =>
      observeForward(
        (module, output) => {
          outputs.push({ path: paths.get(module) ?? "", layer: module.constructor.name, output: output.hold() });
        },
        () => tidy(() => void model.forward(images)),
      ),
    ),
  );
  const describe = async (): Promise<string> => {
    if (!(await allFinite(images))) return "the images themselves are not finite: check the data and its normalisation";
    for (const { path, layer, output } of outputs) {
      if (!(await allFinite(output))) return `the first layer whose output is not finite is "${path}" (${layer})`;
    }
    return "every layer's output is finite, so the loss itself overflowed: check the labels and the scale of the logits";
  };
  const place = await describe();
  for (const { output } of outputs) output.dispose();
  return new NumericalError(
    `training: the loss is ${loss} at step ${step}; ${place}. Nothing was changed by this step; lower the learning rate, raise the damping or clip`,
  );
}

async function allFinite(tensor: Tensor): Promise<boolean> {
  return !isFloat(tensor.dtype) || (await tensor.data()).every(Number.isFinite);
}
