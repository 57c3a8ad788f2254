import { eachBackend } from "../backends.ts";
import { averagesBeginAnew } from "./notFiniteStatements.ts";

eachBackend(averagesBeginAnew);
