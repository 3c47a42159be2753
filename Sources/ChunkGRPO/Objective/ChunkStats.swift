/// Over the N selected chunks that have a step.
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
  private var ratios: [Double] = []
  private var kl = 0.0
  private var low = 0, high = 0

  mutating func add(ratio: Double, kl: Double, clipped: PolicyTerm.Side?) {
    ratios.append(ratio)
    self.kl += kl
    if clipped == .low { low += 1 }
    if clipped == .high { high += 1 }
  }

  var stats: ChunkStats {
    let n = Double(ratios.count)
    let sum = ratios.reduce(0, +)
    let mean = sum / n
    var stats = ChunkStats()
    stats.selected = ratios.count
    stats.ratioMean = mean
    stats.ratioStd = (ratios.reduce(0) { $0 + ($1 - mean) * ($1 - mean) } / n).squareRoot()
    stats.ratioMin = ratios.min() ?? 0
    stats.ratioMax = ratios.max() ?? 0
    stats.clipFractionLow = Double(low) / n
    stats.clipFractionHigh = Double(high) / n
    stats.approximateKL = kl / n
    // Relative to the mean, so that small ratios do not underflow.
    stats.effectiveSampleSize = mean > 0 ? n / ratios.reduce(0) { $0 + ($1 / mean) * ($1 / mean) } : 0
    return stats
  }
}
