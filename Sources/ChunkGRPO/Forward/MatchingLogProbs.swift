internal import Platform

/// How a distance d at time t stands for a log-probability (AWM, arXiv 2509.25050; scxue/advantage_weighted_matching
/// scripts/train_sd3_awm.py compute_log_prob_awm).
public enum MatchingWeighting: Int32, Sendable, CaseIterable {
  /// −d (also FPO, arXiv 2507.21053)
  case uniform = 1
  /// −t·d
  case time = 2
  /// −t²·d
  case timeSquared = 3
  /// −t·(√(d + 1e-10) − 1e-5)
  case huber = 4
  /// −t·((d + 1e-10)^p − 1e-10^p)/p
  case generalisedHuber = 5

  func logProb(_ d: Double, _ t: Double, _ p: Double) -> (value: Double, slope: Double) {
    let epsilon = 1e-10
    switch self {
    case .uniform: return (-d, -1)
    case .time: return (-t * d, -t)
    case .timeSquared: return (-t * t * d, -t * t)
    case .huber:
      let root = (d + epsilon).squareRoot()
      return (-t * (root - 1e-5), -t / (2 * root))
    case .generalisedHuber:
      return (-t * (pow(d + epsilon, p) - pow(epsilon, p)) / p, -t * pow(d + epsilon, p - 1))
    }
  }
}

/// Log-probabilities of the matching loss and their slopes ∂ℓ/∂d, for `chunkLoss`: AWM and FPO are its clipped objective on
/// them, with single times as chunks. Chunks of several times share one ratio, exp of the mean of their differences.
///
/// - Parameters:
///   - distances: any shape.
///   - times: one for each distance, in (0, 1]; nil for `.uniform`.
///   - power: p > 0 of the generalised Huber weighting.
public func matchingLogProbs(
  _ distances: [Double], times: [Double]? = nil, weighting: MatchingWeighting = .uniform, power: Double = 0.25
) throws -> (logProbs: [Double], slopes: [Double]) {
  let (values, slopes) = (
    try Buffer<Double>(count: distances.count, for: "log-probabilities"),
    try Buffer<Double>(count: distances.count, for: "slopes")
  )
  try matchingLogProbs(
    Numbers(distances), times: times.map { Numbers($0) }, weighting: weighting, power: power, logProbs: values.base,
    slopes: slopes.base)
  return (Array(values.values), Array(slopes.values))
}

package func matchingLogProbs(
  _ distances: Numbers<Double>, times: Numbers<Double>?, weighting: MatchingWeighting, power: Double,
  logProbs: UnsafeMutablePointer<Double>, slopes: UnsafeMutablePointer<Double>?
) throws {
  try checkPositive(power, "power")
  try require(times != nil || weighting == .uniform, "times is null, but the weighting needs it")
  if let times {
    try require(times.count == distances.count, "times: \(times.count) of them for \(distances.count) distances")
    try checkTimes(times)
  }
  try checkDistances(distances, "distances", size: distances.count, 1)
  for i in 0..<distances.count {
    let (value, slope) = weighting.logProb(distances[i], times?[i] ?? 1, power)
    guard value.isFinite && slope.isFinite else {
      throw ChunkGRPOError.nonFinite(
        "distances[\(i)] = \(distances[i]) has no finite log-probability with power = \(power)")
    }
    logProbs[i] = value
    slopes?[i] = slope
  }
}
