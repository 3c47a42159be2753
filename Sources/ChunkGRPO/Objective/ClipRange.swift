/// Bounds on the importance ratio: [1 − low, 1 + high].
public struct ClipRange: Sendable, Equatable {
  /// Distances from 1 below and above.
  public var low, high: Double

  public init(low: Double, high: Double) {
    self.low = low
    self.high = high
  }

  /// Refuses 1 − low and 1 + high in place of the distances too, such as (0.999, 1.001): nothing would be clipped any
  /// more.
  package func check(low bounds: ClosedRange<Double> = 0...1) throws {
    let rule = bounds.upperBound.isFinite ? "is outside [0, 1]" : "must be at least 0"
    try require(bounds.contains(low), "clip_low = \(low) \(rule)")
    try require(high >= 0, "clip_high = \(high) must be at least 0")
    try require(
      !(low >= 0.5 && low < 1 && high > 1),
      "clip_low = \(low), clip_high = \(high) look like bounds; they are distances from 1: \(1 - low) and \(high - 1)")
  }

  func bounded(_ ratio: Double) -> Double { min(max(ratio, 1 - low), 1 + high) }

  /// 5e-5 on both sides, GCPO's.
  public static let gcpo = ClipRange(low: 5e-5, high: 5e-5)
}
