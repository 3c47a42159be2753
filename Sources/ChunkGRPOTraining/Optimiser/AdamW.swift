import ChunkGRPO
internal import KernelTable
internal import Platform

/// Adam with decoupled weight decay (arXiv 1711.05101), in the order of operations of `torch.optim.AdamW`:
///
///     w ← w − lr·weightDecay·w
///     m ← β1·m + (1 − β1)·g,   v ← β2·v + (1 − β2)·g²
///     w ← w − lr/(1 − β1ᵗ) · m / (√(v/(1 − β2ᵗ)) + ε)
public struct AdamW: Equatable, Sendable {
  public let beta1, beta2, epsilon, weightDecay: Double

  /// - Parameters:
  ///   - beta1, beta2: in [0, 1).
  ///   - epsilon: > 0.
  ///   - weightDecay: ≥ 0.
  public init(beta1: Double = 0.9, beta2: Double = 0.999, epsilon: Double = 1e-8, weightDecay: Double = 1e-4) throws {
    try require(beta1 >= 0 && beta1 < 1, "beta1 = \(beta1) is outside [0, 1)")
    try require(beta2 >= 0 && beta2 < 1, "beta2 = \(beta2) is outside [0, 1)")
    try require(
      Float(epsilon) > 0 && Float(epsilon).isFinite, "adam_epsilon = \(epsilon) must be positive and finite, in f32 too"
    )
    try require(weightDecay >= 0 && weightDecay.isFinite, "weight_decay = \(weightDecay) must be at least 0 and finite")
    self.beta1 = beta1
    self.beta2 = beta2
    self.epsilon = epsilon
    self.weightDecay = weightDecay
  }

  /// One step in place.
  ///
  /// - Parameters:
  ///   - step: t, counted from 1 since the moments were zero.
  ///   - gradientScale: multiplies the gradients, for clipping.
  public func update(
    parameters: UnsafeMutablePointer<Float>, gradients: UnsafePointer<Float>,
    firstMoment: UnsafeMutablePointer<Float>, secondMoment: UnsafeMutablePointer<Float>, count: Int, step: Int,
    learningRate: Double, gradientScale: Double = 1
  ) {
    var arguments = AdamWArguments(
      factors: factors(step: step, learningRate: learningRate, gradientScale: gradientScale), g: gradients,
      w: parameters, m: firstMoment, v: secondMoment, newW: parameters, newM: firstMoment, newV: secondMoment,
      count: count)
    kernelSet.adamW(&arguments)
  }

  func factors(step: Int, learningRate: Double, gradientScale: Double) -> AdamWFactors {
    let t = Double(step)
    return AdamWFactors(
      keep: Float(1 - learningRate * weightDecay), scale: Float(gradientScale),
      rate: Float(learningRate / (1 - pow(beta1, t))), correction: Float(1 / (1 - pow(beta2, t)).squareRoot()),
      beta1: Float(beta1), new1: Float(1 - beta1), beta2: Float(beta2), new2: Float(1 - beta2), epsilon: Float(epsilon))
  }
}
