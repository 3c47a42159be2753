internal import Platform

/// The p-quantile of Beta(a, a).
func betaQuantile(_ p: Double, _ a: Double) -> Double {
  if p <= 0 { return 0 }
  if p >= 1 { return 1 }
  // The distribution function is monotone: bisection to the last bit.
  var (low, high) = (0.0, 1.0)
  while true {
    let middle = (low + high) / 2
    if middle <= low || middle >= high { return middle }
    if betaDistribution(middle, a) < p { low = middle } else { high = middle }
  }
}

/// The regularised incomplete beta function I_x(a, a), by its continued fraction (DLMF 8.17.22, Lentz's method).
private func betaDistribution(_ x: Double, _ a: Double) -> Double {
  if x > 0.5 { return 1 - betaDistribution(1 - x, a) }
  if x <= 0 { return 0 }
  let front = exp(a * log(x) + a * log1p(-x) + lgamma(2 * a) - 2 * lgamma(a)) / a
  var (c, d, f) = (1.0, 0.0, 1.0)
  for i in 0..<200 {
    let m = Double(i / 2)
    let numerator =
      i == 0
      ? 1
      : i % 2 == 0
        ? m * (a - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        : -(a + m) * (2 * a + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
    d = 1 / (1 + numerator * d)
    c = 1 + numerator / c
    f *= c * d
    if abs(c * d - 1) < 1e-16 { break }
  }
  return front * (f - 1)
}
