internal import Platform

/// Quantiles of Beta(a, a), a < 1, for probabilities that follow one another closely: each starts from the last.
struct BetaQuantiles {
  private let a: Double
  /// ln(a·B(a, a))
  private let logNorm: Double
  /// ln of the last quantile, mirrored into the lower half.
  private var y: Double

  init(_ a: Double) {
    self.a = a
    logNorm = log(a) + 2 * lgamma(a) - lgamma(2 * a)
    y = log(0.5)
  }

  mutating func next(_ p: Double) -> Double {
    if p <= 0 { return 0 }
    if p >= 1 { return 1 }
    return p > 0.5 ? 1 - lower(1 - p) : lower(p)
  }

  /// Newton's method for ln I_x = ln p over y = ln x. That function is concave and rises, so that it comes from the left
  /// after one step whatever the start, and a step of 1e-8 leaves an error of the last bit.
  private mutating func lower(_ p: Double) -> Double {
    let target = log(p)
    // Below 1/1000, ln I_x is a straight line but for 1e-3 of the step.
    if y == log(0.5) && p < 0.1 { y = (target + logNorm) / a }
    for _ in 0..<100 {
      let x = min(exp(y), 0.5)
      let front = a * (y + log1p(-x)) - logNorm
      let sum = series(x)
      // d ln I / d ln x = x·f(x)/I, with f the density.
      let step = (front + log(sum) - target) * sum * (1 - x) / a
      y = min(y - step, log(0.5))
      if abs(step) < 1e-8 { break }
    }
    return exp(y)
  }

  /// a·B·I_x/(x(1 − x))^a = Σ (2a)_n/(a + 1)_n·xⁿ (DLMF 8.17.8), for x ≤ 1/2.
  private func series(_ x: Double) -> Double {
    var (term, sum, n) = (1.0, 1.0, 0.0)
    while term > 1e-17 * sum {
      term *= (2 * a + n) / (a + 1 + n) * x
      sum += term
      n += 1
    }
    return sum
  }
}
