package import KernelTable
internal import Platform

extension TrainerOptions {
  /// Adam with decoupled weight decay (arXiv 1711.05101), in the order of operations of `torch.optim.AdamW`:
  ///
  ///     w ← w − lr·weightDecay·w
  ///     m ← β1·m + (1 − β1)·g,   v ← β2·v + (1 − β2)·g²
  ///     w ← w − lr/(1 − β1ᵗ) · m / (√(v/(1 − β2ᵗ)) + ε)
  ///
  /// - Parameters:
  ///   - step: t, counted from 1 since the moments were zero.
  ///   - gradientScale: multiplies the gradients, for clipping.
  package func adamW(step: Int, learningRate: Double, gradientScale: Double) -> AdamWFactors {
    let t = Double(step)
    return AdamWFactors(
      keep: Float(1 - learningRate * weightDecay), scale: Float(gradientScale),
      rate: Float(learningRate / (1 - pow(beta1, t))), correction: Float(1 / (1 - pow(beta2, t)).squareRoot()),
      beta1: Float(beta1), new1: Float(1 - beta1), beta2: Float(beta2), new2: Float(1 - beta2),
      epsilon: Float(adamEpsilon))
  }
}
