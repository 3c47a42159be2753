/// How a window of stochastic steps moves from iteration to iteration.
public enum WindowStrategy: Int32, Sendable, CaseIterable {
  /// The same steps throughout.
  case fixed = 1
  /// A start drawn anew each iteration, uniformly from the windows that fit (MixGRPO `random`, Flow-GRPO-Fast). Drawn from
  /// the library's noise, because theirs is unseeded or Python's own.
  case random = 2
  /// `size` single steps drawn anew each iteration without replacement (Flow-Factory's seeded subset).
  case subset = 3
  /// From `first` on, `iterations` per window, then `stride` steps further.
  case progressive = 4
  /// The same with fewer iterations as it goes: ⌊iterations·(1 − t/end) + least·t/end⌋ at start t, at least `least`
  /// (MixGRPO `decay`).
  case linearDecay = 5
  /// ⌈iterations·e^{−decay·max(0, t − threshold)}⌉ (MixGRPO `exp_decay`).
  case exponentialDecay = 6
}

/// The window after the last one. MixGRPO's own goes on with windows that hold no step and train nothing: for as many
/// iterations as a window lasts, or for ever.
public enum WindowEnd: Int32, Sendable, CaseIterable {
  /// `first` again.
  case wrap = 1
  /// An error.
  case stop = 2
  /// The last window that fits whole, for ever (verl-omni).
  case stay = 3
}

/// Options of an `SDEWindow`.
public struct SDEWindowOptions: Options {
  /// Steps per window; fewer where `end` cuts it.
  public var size = 4
  /// Windows cover the steps first ..< end. `end` has no default.
  public var first = 0, end = 0
  /// Steps from a window to the next; less than `size` lets them overlap. nil = size.
  public var stride: Int?
  /// How the window moves.
  public var strategy = WindowStrategy.progressive
  /// What it does behind the last step.
  public var atEnd = WindowEnd.wrap
  /// ≥ 1.
  public var iterations = 25
  /// 1 … iterations, for linear decay.
  public var least = 1
  /// ≥ 0 both, for exponential decay.
  public var threshold = 13, decay = 0.1
  /// For random and subset.
  public var seed: UInt64 = 0

  public init() {}

  func check() throws {
    try require(
      first >= 0 && end > first && end <= Schedule.maxSteps, "first = \(first), end = \(end): no step lies between them"
    )
    try require((1...end - first).contains(size), "size = \(size) is outside 1 … \(end - first)")
    if let stride {
      try require(stride >= 1, "stride = \(stride) must be at least 1, or the window never moves: use fixed for that")
    }
    try require(iterations >= 1, "iterations = \(iterations) must be at least 1")
    if strategy == .linearDecay {
      try require((1...iterations).contains(least), "least = \(least) is outside 1 … \(iterations), the iterations")
    }
    if strategy == .exponentialDecay {
      try require(threshold >= 0, "threshold = \(threshold) must be at least 0")
      try require(decay >= 0 && decay.isFinite, "decay = \(decay) must be at least 0 and finite")
    }
  }
}
