internal import Platform

/// The log-probability of a step: ℓ = −precision·‖x'−m‖²/D + constant.
struct StepDensity {
  let precision, constant: Double

  /// nil where s = 0: a deterministic step has none.
  init?(s: Double, _ form: LogProbForm) {
    if s == 0 { return nil }
    switch form {
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
