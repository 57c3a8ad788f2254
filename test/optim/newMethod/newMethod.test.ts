import { readdirSync, readFileSync } from "node:fs";
import { join, resolve } from "node:path";
import { describe, expect, it } from "vitest";
import { crossEntropy, Linear, Sequential, Tanh } from "../../../src/nn/index.ts";
import * as optim from "../../../src/optim/index.ts";
import { Sgd } from "../../../src/optim/index.ts";
import { Generator, Tensor } from "../../../src/tensor/index.ts";
import { eachBackend } from "../../backends.ts";
import { minus, norm, product } from "../../linalg/dense.ts";
import { damped, direction, randomLayer } from "../properties/layer.ts";
import { InputOnly } from "./inputOnly.ts";

const root = resolve(import.meta.dirname, "../../..");
const sourceOf = (path: string): string => readFileSync(join(root, path), "utf8");
const filesIn = (folder: string): string[] => readdirSync(join(root, folder)).map((name) => `${folder}/${name}`);

/** Lines that are neither blank nor comment. */
const linesOfCode = (source: string): number => source.split("\n").filter((line) => !/^\s*($|\/\/|\/?\*)/.test(line)).length;

describe("a new curvature method", () => {
  it("takes less than 40 lines, and nothing but what the library exports", () => {
    const source = sourceOf("test/optim/newMethod/inputOnly.ts");
    expect(linesOfCode(source)).toBeLessThan(40);
    expect(linesOfCode(source)).toBeGreaterThan(20); // lines are counted
    expect(new Set([...source.matchAll(/from "([^"]+)"/g)].map(([, path]) => path))).toEqual(new Set(["../../../src/index.ts"]));
  });
});

describe("the curvature folder", () => {
  /** Classes of optimizers with curvature that blocks export, and the methods' own names in the table that shows them. */
  const names = filesIn("src/optim/blocks").flatMap((path) => {
    const source = sourceOf(path);
    const classes = [...source.matchAll(/export class (\w+) extends/g)].map(([, name]) => name as string);
    const shown = [...source.matchAll(/["`]((?:[a-z]+-)?k?fac|seng)["` ]/g)].map(([, name]) => name as string);
    return [...classes, ...shown];
  });

  it("is looked through for the names of all methods that there are", () => {
    const classes = Object.entries(optim).flatMap(([name, value]) =>
      typeof value === "function" && value !== optim.CurvatureOptimizer && value.prototype instanceof optim.CurvatureOptimizer
        ? [name]
        : [],
    );
    expect(classes.length).toBeGreaterThanOrEqual(6);
    for (const name of classes) expect(names).toContain(name);
    for (const name of ["rs-kfac", "sre-kfac", "nys-kfac", "ek-fac", "seng"]) expect(names).toContain(name);
  });

  it("names no method, and imports none", () => {
    const files = filesIn("src/optim/curvature");
    expect(files.length).toBeGreaterThan(10);
    for (const path of files) {
      const source = sourceOf(path);
      // Two libraries whose conventions are cited have the name of a method.
      for (const name of names) expect(source, path).not.toMatch(new RegExp(`\\b${name}\\b(?!-jax|-pytorch)`));
      expect(source, path).not.toMatch(/k-?fac\b(?!-jax|-pytorch)/i);
      expect(source, path).not.toContain("/blocks/");
    }
  });
});

eachBackend(() => {
  describe("the method of less than 40 lines", () => {
    it("solves P (Ω + λI) = J", async () => {
      for (const seed of [1, 2, 3]) {
        const layer = randomLayer({ n: 5, positions: 1, dIn: 4, dOut: 3, bias: true, seed });
        const p = await direction(layer, (parameters) => new InputOnly(parameters, { learningRate: 1, clip: false }));
        expect(norm(minus(product(p, damped(layer.omega, 0.1)), layer.gradient))).toBeLessThan(1e-12 * norm(layer.gradient));
      }
    });

    const options = { dtype: "float64" } as const;
    const network = (): Sequential => {
      const generator = new Generator(1);
      return new Sequential(new Linear(6, 8, { ...options, generator }), new Tanh(), new Linear(8, 3, { ...options, generator }));
    };
    /** Inputs whose scales differ by 100, so that curvature has something to do. */
    const data = (): { x: Tensor; labels: Tensor } => {
      const x = new Generator(2).normal([40, 6], options).multiply(Tensor.from(Float64Array.of(10, 3, 1, 0.5, 0.2, 0.1)));
      return { x, labels: x.slice([0, 3], [40, 3]).argmax() };
    };

    it("trains a network to a third of the loss, and further than gradient descent at any rate", async () => {
      const { x, labels } = data();
      const after = async (make: (model: Sequential) => { minimize(f: () => Tensor): Promise<Tensor> }): Promise<number[]> => {
        const model = network();
        const optimizer = make(model);
        const losses: number[] = [];
        for (let i = 0; i < 40; i++)
          losses.push((await optimizer.minimize(() => crossEntropy(model.forward(x), labels))).dataSync()[0] as number);
        return losses;
      };
      const losses = await after((model) => new InputOnly(model.parameters(), { learningRate: 0.5, clip: false }));
      expect(losses.at(-1)).toBeLessThan((losses[0] as number) / 3);
      for (const learningRate of [0.01, 0.03, 0.1, 0.3, 1, 3]) {
        const plain = await after((model) => new Sgd(model.parameters(), { learningRate }));
        expect(losses.at(-1)).toBeLessThan(plain.at(-1) as number);
      }
    });

    it("appears in the table of parameters, and goes on bit for bit from a saved state", async () => {
      const { x, labels } = data();
      const [model, other] = [network(), network()];
      const make = (own: Sequential): InputOnly => new InputOnly(own.parameters(), { learningRate: 0.1, momentum: 0.5 });
      const [optimizer, resumed] = [make(model), make(other)];
      const step = async (own: Sequential, by: InputOnly): Promise<number> =>
        (await by.minimize(() => crossEntropy(own.forward(x), labels))).dataSync()[0] as number;
      for (let i = 0; i < 13; i++) await step(model, optimizer);
      expect(new Set(optimizer.registration().map(({ block }) => block))).toEqual(new Set(["input covariance"]));
      other.parameters().forEach((parameter, i) => parameter.assign(model.parameters()[i]?.value as Tensor));
      resumed.load(optimizer.state());
      for (let i = 13; i < 24; i++) expect(await step(other, resumed)).toBe(await step(model, optimizer));
      for (const own of [optimizer, resumed]) own.dispose();
    });
  });
});
