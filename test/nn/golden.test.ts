import { eachBackend } from "../backends.ts";
import { precisions } from "../golden.ts";
import { layersEqualPyTorch } from "./goldenStatements.ts";

eachBackend(() => layersEqualPyTorch(precisions));
