import { averagesBeginAnew } from "../../optim/notFiniteStatements.ts";
import { describeByDefaultOnGpu } from "./byDefault.ts";

/* Second attempts at inversion are in float64, which the device does not have. */
describeByDefaultOnGpu("Values that are not finite, on the GPU", averagesBeginAnew);
