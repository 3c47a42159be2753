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

  public init() {}
}

/// Sums of the chunks of a loss.
struct RatioMoments {
  private var count = 0
  private var least = Double.infinity, most = -Double.infinity
  private var kl = 0.0
  private var low = 0, high = 0

  mutating func add(ratio: Double, kl: Double, clipped: PolicyTerm.Side?) {
    count += 1
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
    stats.clipFractionLow = Double(low) / n
    stats.clipFractionHigh = Double(high) / n
    stats.approximateKL = finite(kl / n)
    // Relative to the mean, so that small ratios do not underflow.
    stats.effectiveSampleSize = mean > 0 ? n / sum { ($0 / unit / mean) * ($0 / unit / mean) } : 0
    return stats
  }
}
