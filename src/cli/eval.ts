import { evaluate, prepareRun, RunFolder } from "../train/index.ts";

/** `kfacet eval`: loss and accuracy of a run's newest checkpoint. */
export async function evalCommand(directory: string, json: boolean): Promise<void> {
  const { folder, config } = await RunFolder.open(directory);
  const { model, test } = await prepareRun(config);
  const { epochs, steps } = await folder.loadCheckpoint(model);
  const { loss, accuracy } = await evaluate(model, test);
  if (json)
    console.log(JSON.stringify({ model: config.model, data: config.data, epochs, steps, samples: test.dataset.length, loss, accuracy }));
  else
    console.log(
      `${config.model} after ${epochs} epochs (${steps} steps) on ${test.dataset.length} images of ${config.data}: accuracy ${(100 * accuracy).toFixed(2)} %, loss ${loss.toFixed(4)}`,
    );
}
