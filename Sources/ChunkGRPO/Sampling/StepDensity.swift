internal import Platform

/// The log-probability of a step: ℓ = −precision·‖x'−m‖²/D + constant.
struct StepDensity: BitwiseCopyable {
  let precision, constant: Double

  /// A deterministic step, s = 0, has none: ℓ is 0.
  init(s: Double, _ form: LogProbForm) {
    switch form {
    case _ where s == 0: (precision, constant) = (0, 0)
    case .gaussian: (precision, constant) = (1 / (2 * s * s), -log(s) - 0.5 * log(2 * Double.pi))
    case .squaredError: (precision, constant) = (1, 0)
    }
  }

  /// The factor of x' − m in ∂ℓ/∂v.
  func slope(b: Double, elements: Int) -> Double { 2 * precision * b / Double(elements) }

  func logProb(squaredError: Double, elements: Int) -> Double {
    constant - precision * (squaredError / Double(elements))
  }
}
