/** kfacet in a process of its own, for its memory to be measured: `kfacet.js BACKEND`. */
import { openEngine } from "./engines.ts";
import { sampler } from "./measure.ts";
import { trainee } from "./networks.ts";
import { serve } from "./peers/protocol.ts";

const { backend } = await openEngine({ backend: process.argv[2] === "reference" ? "reference" : "wasm", small: false }, { threads: 1 });

await serve(
  async (work) => {
    if (work.kind !== "network") throw new Error("only networks are run in a process of their own");
    const { parameters, dispose, ...passes } = trainee(work, backend);
    return { probe: [parameters], sample: sampler(passes[work.pass], 0), release: dispose };
  },
  () => {
    const { bytes, peakBytes } = backend.memory();
    return { bytes, peakBytes };
  },
);
