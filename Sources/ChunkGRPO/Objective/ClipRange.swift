/// Bounds on the importance ratio: [1 − low, 1 + high].
public struct ClipRange: Sendable, Equatable {
  public var low, high: Double

  public init(low: Double, high: Double) {
    self.low = low
    self.high = high
  }

  func bounded(_ ratio: Double) -> Double { min(max(ratio, 1 - low), 1 + high) }

  /// 5e-5 on both sides, GCPO's.
  public static let gcpo = ClipRange(low: 5e-5, high: 5e-5)
}
