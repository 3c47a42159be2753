internal import Platform

/// Where times come from, before shift and range.
public enum TimeDistribution: Int32, Sendable, CaseIterable {
  case uniform = 1
  /// sigmoid(mean + std·z), z ~ N(0, 1) (SD3, arXiv 2403.03206).
  case logitNormal = 2
  /// One of the given times, such as the sigmas of a schedule.
  case discrete = 3
}

/// Options of `forwardTimes`.
public struct TimeOptions: Options {
  /// Of t before shift and range.
  public var distribution = TimeDistribution.uniform
  /// The N times of a sample are one of each N-th of the distribution, in random order.
  public var isStratified = true
  /// t becomes shift·t/(1 + (shift − 1)·t); > 0. Not for `.discrete`.
  public var shift = 1.0
  /// Of `.logitNormal`; std > 0.
  public var mean = 0.0, std = 1.0
  /// Times are low + (high − low)·t, 0 ≤ low < high ≤ 1. Not for `.discrete`.
  public var low = 0.0, high = 1.0
  /// ≥ 0, in [0, 1): the least time that is given.
  public var least = 0.0
  /// The times of `.discrete`, each in (0, 1].
  public var values: Numbers<Double>?
  /// Of the times.
  public var seed: UInt64 = 0
  /// (B); nil = 0 … B − 1. Samples with one id have the same times.
  public var sampleIDs: Numbers<UInt64>?

  public init() {}

  func check(batch: Int) throws {
    try checkPositive(shift, "shift")
    try checkPositive(std, "std")
    try require(mean.isFinite, "mean = \(mean) is not finite")
    try require(low >= 0 && low < high && high <= 1, "low = \(low) and high = \(high) must be 0 ≤ low < high ≤ 1")
    try require(least >= 0 && least < 1, "least = \(least) is outside [0, 1)")
    try require(
      (values == nil) == (distribution != .discrete),
      values == nil ? "values is null, but the times are discrete" : "values are given, but the times are not discrete")
    if let values {
      try require(!values.isEmpty, "values: there are none")
      try checkTimes(values)
      try require(shift == 1 && low == 0 && high == 1, "shift, low and high do not apply to discrete times")
    }
    if let sampleIDs { try checkSampleIDs(sampleIDs.count, batch: batch) }
  }

  /// The time of a number u in (0, 1).
  func time(_ u: Double) -> Double {
    if let values { return max(least, values[min(values.count - 1, Int(u * Double(values.count)))]) }
    let drawn = distribution == .uniform ? u : sigmoid(mean + std * normalQuantile(u))
    let shifted = shift * drawn / (1 + (shift - 1) * drawn)
    // Not 0, where a distance has no meaning.
    return max(low + (high - low) * shifted, max(least, 0x1p-32))
  }
}

/// Times (B, N) for the forward process: a function of seed, sample id and draw.
///
/// - Parameters:
///   - batch, count: B and N.
///   - draw: 0 … 2²⁹ − 1, as in `forwardNoised`.
public func forwardTimes(
  batch: Int, count: Int, draw: Int = 0, options: TimeOptions = TimeOptions()
) throws -> [[Double]] {
  try require(batch >= 1 && count >= 1, "batch = \(batch) and count = \(count) must be at least 1")
  let times = try Buffer<Double>(count: checkedProduct([batch, count], "times"), for: "times")
  try forwardTimes(batch: batch, count: count, draw: draw, options: options, into: times.base)
  return (0..<batch).map { i in Array(times.values[i * count..<(i + 1) * count]) }
}

package func forwardTimes(
  batch: Int, count: Int, draw: Int, options: TimeOptions, into times: UnsafeMutablePointer<Double>
) throws {
  try ForwardDraw.check(draw)
  try options.check(batch: batch)
  let step = UInt32(truncatingIfNeeded: ForwardDraw.timesStep(draw))
  let draws = try Buffer<Double>(count: checkedProduct([2, count], "times"), for: "draws of times")
  for sample in 0..<batch {
    let own = times + sample * count
    uniforms(
      seed: options.seed, sampleID: options.sampleIDs?[sample] ?? UInt64(sample), step: step, into: draws.values)
    for j in 0..<count {
      let u = draws[j]
      own[j] = options.time(options.isStratified ? (Double(j) + u) / Double(count) : u)
    }
    guard options.isStratified else { continue }
    // Fisher–Yates, by the second half of the draws.
    for j in stride(from: count - 1, to: 0, by: -1) {
      let k = min(j, Int(draws[count + j] * Double(j + 1)))
      (own[j], own[k]) = (own[k], own[j])
    }
  }
}

/// The inverse of the normal distribution's cumulative function: a start within 4.5e-4 (Abramowitz and Stegun 26.2.23), then
/// Newton's steps on the upper tail, whose erfc stays accurate.
func normalQuantile(_ p: Double) -> Double {
  let tail = min(p, 1 - p)
  let t = (-2 * log(tail)).squareRoot()
  var x = t - (2.515517 + t * (0.802853 + t * 0.010328)) / (1 + t * (1.432788 + t * (0.189269 + t * 0.001308)))
  for _ in 0..<3 {
    let density = exp(-x * x / 2) / (2 * Double.pi).squareRoot()
    x += (erfc(x / 2.0.squareRoot()) / 2 - tail) / density
  }
  return p < 0.5 ? -x : x
}
