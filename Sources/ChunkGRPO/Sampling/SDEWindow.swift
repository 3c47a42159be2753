import Glibc

/// Which steps are stochastic, iteration by iteration: a window that moves along the trajectory (MixGRPO, arXiv 2507.21802;
/// Flow-GRPO-Fast). Give it to `SamplerOptions.window`.
///
/// A window is a function of the iteration alone, so a run that resumes needs no state of it.
public struct SDEWindow: Sendable, Equatable {
  public enum Strategy: Sendable, Equatable {
    /// The same steps throughout.
    case fixed
    /// A start drawn anew each iteration, uniformly from the windows that fit (MixGRPO `random`, Flow-GRPO-Fast). By the
    /// library's noise, for theirs is unseeded or Python's own.
    case random(seed: UInt64)
    /// `count` single steps drawn anew each iteration without replacement (Flow-Factory's seeded subset).
    case subset(count: Int, seed: UInt64)
    /// From `first` on, `iterations` a window, then `stride` steps further.
    case progressive(iterations: Int)
    /// The same with fewer iterations as it goes: ⌊most·(1 − t/end) + least·t/end⌋ at start t, at least `least` (MixGRPO
    /// `decay`).
    case linearDecay(most: Int, least: Int)
    /// ⌈iterations·e^{−k·max(0, t − threshold)}⌉ (MixGRPO `exp_decay`).
    case exponentialDecay(iterations: Int, threshold: Int, k: Double)
  }

  /// What follows the last window. MixGRPO's own goes on with windows that hold no step and train nothing: for as many
  /// iterations as a window lasts, or for ever.
  public enum AtEnd: Int32, Sendable {
    /// `first` again.
    case wrap = 1
    /// An error.
    case stop = 2
    /// The last window that fits whole, for ever (verl-omni).
    case stay = 3
  }

  /// Steps a window has; fewer where `end` cuts it.
  public var size: Int
  /// The steps that windows may cover: first ..< end.
  public var first = 0
  public var end: Int
  /// Steps from a window to the next; less than `size` lets them overlap.
  public var stride: Int
  public var strategy: Strategy
  public var atEnd = AtEnd.wrap

  /// - Throws: `.invalidArgument` for bounds that hold no window.
  public init(
    size: Int, end: Int, first: Int = 0, stride: Int? = nil, strategy: Strategy, atEnd: AtEnd = .wrap
  ) throws {
    try require(
      first >= 0 && end > first && end <= Schedule.maxSteps, "first = \(first), end = \(end): no step lies between them"
    )
    try require((1...end - first).contains(size), "size = \(size) is outside 1 … \(end - first)")
    let stride = stride ?? size
    try require(stride >= 1, "stride = \(stride) must be at least 1, or the window never moves: use fixed for that")
    switch strategy {
    case .fixed, .random: break
    case .subset(let count, _):
      try require((1...end - first).contains(count), "count = \(count) is outside 1 … \(end - first)")
    case .progressive(let iterations): try require(iterations >= 1, "iterations = \(iterations) must be at least 1")
    case .linearDecay(let most, let least):
      try require(least >= 1 && most >= least, "most = \(most), least = \(least): most ≥ least ≥ 1")
    case .exponentialDecay(let iterations, let threshold, let k):
      try require(iterations >= 1, "iterations = \(iterations) must be at least 1")
      try require(threshold >= 0, "threshold = \(threshold) must be at least 0")
      try require(k >= 0 && k.isFinite, "k = \(k) must be at least 0 and finite")
    }
    (self.size, self.first, self.end, self.stride) = (size, first, end, stride)
    (self.strategy, self.atEnd) = (strategy, atEnd)
  }

  /// The stochastic steps of an iteration, counted from 0, in rising order; never none.
  public func steps(iteration: Int) throws -> [Int] {
    try require((0...1 << 40).contains(iteration), "iteration = \(iteration) is outside 0 … 2^40")
    switch strategy {
    case .fixed: return window(first)
    case .random(let seed):
      let starts = end - first - size + 1
      return window(first + min(starts - 1, Int(draws(seed, iteration, 1)[0] * Double(starts))))
    case .subset(let count, let seed):
      let keys = draws(seed, iteration, end - first)
      return keys.indices.sorted { keys[$0] < keys[$1] }.prefix(count).map { first + $0 }.sorted()
    case .progressive, .linearDecay, .exponentialDecay:
      let start = try start(iteration: iteration)
      return window(atEnd == .stay ? min(start, end - size) : start)
    }
  }

  private func window(_ start: Int) -> [Int] { Array(start..<min(start + size, end)) }

  private func draws(_ seed: UInt64, _ iteration: Int, _ count: Int) -> [Double] {
    uniforms(seed: seed, sampleID: UInt64(iteration), step: UInt32.max - 2, count: count)
  }

  private func start(iteration: Int) throws -> Int {
    let starts = Array(Swift.stride(from: first, to: end, by: stride))
    let lasting = starts.map(iterations(at:))
    let round = lasting.reduce(0, +)
    var left = iteration
    if left >= round {
      switch atEnd {
      case .wrap: left %= round
      case .stay: return starts[starts.count - 1]
      case .stop:
        throw ChunkGRPOError.invalidArgument(
          "iteration = \(iteration): the last window ended after \(round) iterations")
      }
    }
    for (start, count) in zip(starts, lasting) {
      if left < count { return start }
      left -= count
    }
    return starts[starts.count - 1]
  }

  /// How many iterations the window that starts at step `t` lasts.
  public func iterations(at t: Int) -> Int {
    switch strategy {
    case .fixed, .random, .subset: return 1
    case .progressive(let iterations): return iterations
    case .linearDecay(let most, let least):
      let progress = Double(t) / Double(end)
      return max(least, Int(Double(most) * (1 - progress) + Double(least) * progress))
    case .exponentialDecay(let iterations, let threshold, let k):
      return max(1, Int((Double(iterations) * exp(-k * Double(max(0, t - threshold)))).rounded(.up)))
    }
  }
}
