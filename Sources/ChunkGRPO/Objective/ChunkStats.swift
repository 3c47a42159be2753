/// Over the N selected chunks that have a step. Every number is finite: what is too large for any is the largest.
public struct ChunkStats: Sendable, Equatable {
  /// N
  public var selected = 0
  /// The standard deviation is the population's.
  public var ratioMean = 0.0, ratioStd = 0.0, ratioMin = 0.0, ratioMax = 0.0
  /// Share of chunks that a bound took hold of, by whether their ratio is below or above 1. In the clipped surrogate
  /// that is A < 0 and ratio < 1 − low, or A > 0 and ratio > 1 + high: those have no gradient. A log-clipped chunk
  /// counts when any of its steps was clipped, a masked one when it was dropped.
  public var clipFractionLow = 0.0, clipFractionHigh = 0.0
  /// Mean of the KL estimate.
  public var approximateKL = 0.0
  /// (Σρ)² / (N·Σρ²), in (0, 1]; 1 on policy.
  public var effectiveSampleSize = 0.0
  /// The largest |log ρ|.
  public var logRatioMax = 0.0

  public init() {}

  /// Takes in the chunks of another loss, as if one had had them all: the same numbers, up to rounding.
  ///
  /// Throws where a number of either is none that a loss gives, or N would be too large.
  public mutating func merge(_ other: ChunkStats) throws {
    try check("total")
    try other.check("other")
    guard other.selected > 0 else { return }
    guard selected > 0 else {
      self = other
      return
    }
    let (n, overflow) = selected.addingReportingOverflow(other.selected)
    try require(!overflow, "other.selected = \(other.selected) is too many for total.selected = \(selected)")
    let share = Double(other.selected) / Double(n)
    func mean(_ a: Double, _ b: Double) -> Double { finite(a + share * (b - a)) }
    func counted(_ a: Double, _ b: Double) -> Double {
      ((a * Double(selected)).rounded() + (b * Double(other.selected)).rounded()) / Double(n)
    }
    let unit = max(ratioMax, other.ratioMax) > 1e100 ? max(ratioMax, other.ratioMax) : 1
    let (one, two, gap) = (ratioStd / unit, other.ratioStd / unit, (other.ratioMean - ratioMean) / unit)
    // The variance within, and that between both.
    let variance = (1 - share) * one * one + share * two * two + share * (1 - share) * gap * gap
    ratioStd = finite(variance.squareRoot() * unit)
    ratioMean = mean(ratioMean, other.ratioMean)
    (ratioMin, ratioMax) = (min(ratioMin, other.ratioMin), max(ratioMax, other.ratioMax))
    clipFractionLow = counted(clipFractionLow, other.clipFractionLow)
    clipFractionHigh = counted(clipFractionHigh, other.clipFractionHigh)
    approximateKL = mean(approximateKL, other.approximateKL)
    logRatioMax = max(logRatioMax, other.logRatioMax)
    let spread = ratioMean > 0 ? ratioStd / ratioMean : .infinity
    effectiveSampleSize = 1 / (1 + spread * spread)
    selected = n
  }

  private func check(_ name: String) throws {
    try require(selected >= 0, "\(name).selected = \(selected) must be at least 0")
    let numbers = [
      ("ratio_mean", ratioMean), ("ratio_std", ratioStd), ("ratio_min", ratioMin), ("ratio_max", ratioMax),
      ("clip_fraction_low", clipFractionLow), ("clip_fraction_high", clipFractionHigh),
      ("effective_sample_size", effectiveSampleSize), ("log_ratio_max", logRatioMax),
    ]
    for (field, value) in numbers {
      try require(value >= 0 && value.isFinite, "\(name).\(field) = \(value) must be finite and at least 0")
    }
    for (field, value) in numbers[4...6] { try require(value <= 1, "\(name).\(field) = \(value) is above 1") }
    try require(approximateKL.isFinite, "\(name).approximate_kl = \(approximateKL) must be finite")
  }
}

/// Sums of the chunks of a loss.
struct RatioMoments {
  private var count = 0
  private var least = Double.infinity, most = -Double.infinity
  private var kl = 0.0, furthest = 0.0
  private var low = 0, high = 0

  mutating func add(ratio: Double, logRatio: Double, kl: Double, clipped: PolicyTerm.Side?) {
    count += 1
    furthest = max(furthest, finite(abs(logRatio)))
    least = min(least, ratio)
    most = max(most, ratio)
    self.kl += finite(kl)
    if clipped == .low { low += 1 }
    if clipped == .high { high += 1 }
  }

  /// - Parameter sum: of a function of each ratio that was added.
  func stats(sum: ((Double) -> Double) -> Double) -> ChunkStats {
    let n = Double(count)
    // Sums of huge ratios and of their squares are taken relative to the largest.
    let unit = most > 1e100 ? most : 1
    let mean = sum { $0 / unit } / n
    var stats = ChunkStats()
    stats.selected = count
    stats.ratioMean = finite(mean * unit)
    stats.ratioStd = finite((sum { ($0 / unit - mean) * ($0 / unit - mean) } / n).squareRoot() * unit)
    (stats.ratioMin, stats.ratioMax) = (least, most)
    stats.logRatioMax = furthest
    stats.clipFractionLow = Double(low) / n
    stats.clipFractionHigh = Double(high) / n
    stats.approximateKL = finite(kl / n)
    // Relative to the mean, so that small ratios do not underflow.
    stats.effectiveSampleSize = mean > 0 ? min(1, n / sum { ($0 / unit / mean) * ($0 / unit / mean) }) : 0
    return stats
  }
}
