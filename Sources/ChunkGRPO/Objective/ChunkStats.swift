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
