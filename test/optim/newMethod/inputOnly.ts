import { CurvatureOptimizer, inversePositiveDefinite, MatrixAverage, Tensor, tidy } from "../../../src/index.ts";
import type * as kfacet from "../../../src/index.ts";

const [DAMPING, EVERY] = [0.1, 10];

/** P = J (Ω + λI)⁻¹: the input covariance alone, as FOOF (Benzing 2022, arXiv 2201.12250). */
class InputBlock implements kfacet.CurvatureBlock {
  readonly method = "input covariance";
  readonly #omega = new MatrixAverage();
  #inverse: Tensor | null = null;

  needs = (step: number): kfacet.CaptureNeeds => ({ curvature: this.#omega.count === 0 || step % EVERY === 0, gradient: false });
  observe(view: kfacet.CurvatureView, step: number): void {
    if (this.needs(step).curvature) this.#omega.observe(view.inputCovariance());
  }
  async refresh(step: number): Promise<void> {
    if (this.#inverse && step % EVERY !== 0) return;
    const omega = this.#omega.value;
    using damped = tidy(() => omega.add(Tensor.eye(omega.shape[0] as number, omega).multiply(DAMPING)));
    const next = await inversePositiveDefinite(damped);
    this.#inverse?.dispose();
    this.#inverse = next;
  }
  precondition = (gradient: Tensor): Tensor => gradient.matmul(this.#inverse as Tensor);
  state(): kfacet.BlockState {
    const { value, ...numbers } = this.#omega.state();
    return { tensors: new Map(value ? [["omega", value]] : []), numbers };
  }
  load({ tensors, numbers }: kfacet.BlockState): void {
    this.dispose(); // the inverse is made anew from the average, and is what it was
    this.#omega.load({ ...(numbers as Omit<kfacet.AverageState, "value">), value: tensors.get("omega") ?? null });
  }
  dispose(): void {
    this.#omega.dispose();
    this.#inverse?.dispose();
    this.#inverse = null;
  }
}

export class InputOnly extends CurvatureOptimizer {
  constructor(parameters: readonly kfacet.Parameter[], options: kfacet.CurvatureOptimizerOptions) {
    super(parameters, "input covariance", () => new InputBlock(), options);
  }
}
