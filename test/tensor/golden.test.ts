import { eachBackend } from "../backends.ts";
import { precisions } from "../golden.ts";
import { primitivesEqualPyTorch } from "./goldenStatements.ts";

eachBackend(() => primitivesEqualPyTorch(precisions));
