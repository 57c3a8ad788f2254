import { eachBackend } from "../backends.ts";
import { precisions } from "../golden.ts";
import {
  firstOrderFollowsPyTorch,
  iteratedTrajectoriesEqualPaperCode,
  kfacLayersEqualDenseSolves,
  smallVggDirectionsEqualDenseSolves,
  smallVggEqualsPyTorch,
  trajectoriesEqualPaperCode,
} from "./goldenStatements.ts";

eachBackend(() => {
  firstOrderFollowsPyTorch(precisions);
  kfacLayersEqualDenseSolves(precisions);
  smallVggEqualsPyTorch(precisions);
  smallVggDirectionsEqualDenseSolves(precisions);
  trajectoriesEqualPaperCode(precisions);
  iteratedTrajectoriesEqualPaperCode(precisions);
});
