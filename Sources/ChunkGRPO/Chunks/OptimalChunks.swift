internal import Platform

/// Options of `ChunkPlan.optimal`.
public struct OptimalChunkOptions: Options {
  /// K, 1 … S; nil = the smallest number that explains `explained` of the curve's variance.
  public var count: Int?
  /// In (0, 1). A share, unlike a penalty on K, asks for no estimate of the curve's noise.
  public var explained = 0.9
  /// Bounds on the size of a chunk; a greatest size of 0 = none.
  public var minSize = 1, maxSize = 0

  public init() {}
}

/// A plan found from a relative-L1 curve, and how well it describes it: enough to print or to plot.
public struct ChunkFit: Sendable, CustomStringConvertible {
  /// The chunks.
  public let plan: ChunkPlan
  /// S: relative L1 of each step, averaged over the batch.
  public let curve: [Double]
  /// K: the mean of the curve over each chunk.
  public let levels: [Double]
  /// Share of the variance of ln curve that the chunks explain, in [0, 1]; 1 for a curve without variance.
  public let explained: Double

  public var description: String {
    let percent = Int((explained * 1000).rounded())
    return "\(plan); \(percent / 10).\(percent % 10) % of the curve's variance explained"
  }
}

extension ChunkPlan {
  /// The segmentation of a relative-L1 curve into `count` chunks that is optimal in the least-squares sense: of all ways to
  /// cut the steps, the one whose chunks differ least from their own means (Fisher 1958, by dynamic programming). The curve
  /// is taken in logarithms, for a relative change of the dynamics should count the same at every level.
  ///
  /// - Parameter relativeL1: (B, S), positive.
  public static func optimal(
    relativeL1: [Double], steps: Int, _ options: OptimalChunkOptions = OptimalChunkOptions()
  ) throws -> ChunkFit {
    let (plan, curve, explained) = try relativeL1.withUnsafeBufferPointer {
      try optimalFit(relativeL1: Numbers(borrowing: $0), steps: steps, options)
    }
    let levels = plan.ranges.map { range in range.reduce(0) { $0 + curve[$1] } / Double(range.count) }
    return ChunkFit(plan: plan, curve: Array(curve.values), levels: levels, explained: explained)
  }

  /// The plan, the curve (S) and the share of its variance that the plan explains.
  package static func optimalFit(
    relativeL1: Numbers<Double>, steps: Int, _ options: OptimalChunkOptions
  ) throws -> (plan: ChunkPlan, curve: Buffer<Double>, explained: Double) {
    let curve = try meanCurve(relativeL1, steps: steps)
    let (counts, sizes) = try bounds(steps: steps, options)
    let count = options.count
    var cut = try Segmentation(curve, sizes: sizes, counts: counts, only: count)
    defer { withExtendedLifetime(cut) {} }
    let total = cut.cost(0, steps)
    // A curve that is flat to the last bits of its logarithms has nothing to explain.
    let flat = total <= 1e-24 * Double(steps)
    func share(_ cost: Double) -> Double { flat ? 1 : max(0, 1 - cost / total) }
    // The last that can be done, until one explains enough.
    var best: (count: Int, share: Double)?
    for k in 1...(count ?? counts.upperBound) {
      let cost = cut.next()
      if k < counts.lowerBound || !cost.isFinite { continue }
      best = (k, share(cost))
      if count == nil && share(cost) >= options.explained { break }
    }
    guard let best, count == nil || best.count == count else {
      throw ChunkGRPOError.invalidArgument(
        "chunks of \(sizes.lowerBound) to \(sizes.upperBound) steps cannot cover \(steps) steps\(count.map { " in \($0)" } ?? "")"
      )
    }
    return (try cut.plan(best.count), curve, best.share)
  }

  /// How many chunks there may be, and of which sizes.
  private static func bounds(
    steps: Int, _ options: OptimalChunkOptions
  ) throws -> (counts: ClosedRange<Int>, sizes: ClosedRange<Int>) {
    let (count, explained, minSize) = (options.count, options.explained, options.minSize)
    try require(
      steps <= maxOptimalSteps, "steps = \(steps) is more than \(maxOptimalSteps), which segmentation can take")
    try require(explained > 0 && explained < 1, "explained = \(explained) is outside (0, 1)")
    try require(options.maxSize >= 0, "max_size = \(options.maxSize) must be at least 0")
    let maxSize = options.maxSize == 0 ? steps : min(options.maxSize, steps)
    try require(
      minSize >= 1 && minSize <= maxSize, "min_size = \(minSize) is outside 1 … \(maxSize), max_size or the steps")
    try require(
      (steps + maxSize - 1) / maxSize <= steps / minSize,
      "min_size = \(minSize), max_size = \(maxSize): no number of such chunks has \(steps) steps")
    let counts = max(1, (steps + maxSize - 1) / maxSize)...max(1, steps / minSize)
    if let count {
      try require(
        counts.contains(count),
        "chunk_count = \(count): chunks of \(minSize) to \(maxSize) steps cut \(steps) into \(counts.lowerBound) … \(counts.upperBound)"
      )
    }
    return (counts, minSize...maxSize)
  }

  /// The same plan on another schedule: each boundary at the step whose σ is nearest to the boundary's own.
  ///
  /// Chunks keep at least one step; the last step of either schedule is not trained.
  public func carried(from: Schedule, to: Schedule) throws -> ChunkPlan {
    try require(
      from.steps - 1 == steps, "the plan covers \(steps) steps, but its schedule trains \(from.steps - 1)")
    let target = to.steps - 1
    try require(target >= count, "the new schedule trains \(target) steps, too few for \(count) chunks")
    var start = 0
    return try ChunkPlan(count: count) { j in
      let nearest = j == count - 1 ? target : to.step(nearest: from.sigmas[range(j).upperBound])
      // Room for this chunk and for those that follow.
      let end = min(max(nearest, start + 1), target - (count - 1 - j))
      defer { start = end }
      return end - start
    }
  }

  private static let maxOptimalSteps = 2000
}

extension Schedule {
  /// The step whose σ is nearest; sigmas fall, so by bisection.
  fileprivate func step(nearest sigma: Double) -> Int {
    var (low, high) = (0, steps)
    while high - low > 1 {
      let middle = (low + high) / 2
      if sigmas[middle] >= sigma { low = middle } else { high = middle }
    }
    return min(steps - 1, abs(sigmas[low] - sigma) <= abs(sigmas[high] - sigma) ? low : high)
  }
}

/// Least-squares cuts of the logarithms of a curve into 1, 2, … segments, one count after the other: best[e] is the least
/// cost of covering the first e values with as many segments as `count` says.
private struct Segmentation {
  private let n, minSize, maxSize, last: Int
  private let only: Int?
  /// Running sums of the values and of their squares, and 1/n.
  private let sums, squares, inverse: Buffer<Double>
  private var before, best: Buffer<Double>
  /// (counts, n + 1): where the last of the segments begins.
  private let from: Buffer<Int32>
  private var count = 0

  /// - Parameter only: the count that is asked for; nil = several are.
  init(_ curve: Buffer<Double>, sizes: ClosedRange<Int>, counts: ClosedRange<Int>, only: Int?) throws {
    let purpose = "the segmentation of a curve"
    n = curve.count
    self.only = only
    (minSize, maxSize) = (sizes.lowerBound, sizes.upperBound)
    last = only ?? counts.upperBound
    sums = try Buffer(count: n + 1, for: purpose)
    squares = try Buffer(count: n + 1, for: purpose)
    inverse = try Buffer(count: n + 1, for: purpose)
    before = try Buffer(count: n + 1, for: purpose)
    best = try Buffer(count: n + 1, for: purpose)
    from = try Buffer(count: checkedProduct([last + 1, n + 1], purpose), for: purpose)
    // Centred, so that the sums of squares lose nothing to a large mean.
    let mean = curve.values.reduce(0) { $0 + log($1) } / Double(n)
    for i in 0..<n {
      let value = log(curve[i]) - mean
      sums[i + 1] = sums[i] + value
      squares[i + 1] = squares[i] + value * value
      inverse[i + 1] = 1 / Double(i + 1)
      best[i + 1] = .infinity
    }
  }

  /// Sum of squared deviations from the mean over start ..< end.
  @inline(__always)
  func cost(_ start: Int, _ end: Int) -> Double {
    let (sums, squares, inverse) = (sums.base, squares.base, inverse.base)
    let sum = sums[end] - sums[start]
    return max(0, squares[end] - squares[start] - sum * sum * inverse[end - start])
  }

  /// Cuts into one more segment; returns the cost for the whole curve.
  mutating func next() -> Double {
    count += 1
    swap(&before, &best)
    best.values.update(repeating: .infinity)
    let row = from.base + count * (n + 1)
    let firstStart = (count - 1) * minSize
    // Where the number of segments is known, those that are left have room.
    let lastEnd = only.map { n - ($0 - count) * minSize } ?? n
    defer { withExtendedLifetime(self) {} }
    let (before, best) = (before.base, best.base)
    for end in stride(from: firstStart + minSize, through: lastEnd, by: 1) {
      var (least, chosen) = (Double.infinity, 0)
      var start = end - minSize
      // A segment that alone costs more than the best way does so however much longer it grows.
      while start >= max(firstStart, end - maxSize) {
        let own = cost(start, end)
        if own > least { break }
        let value = before[start] + own
        if value <= least { (least, chosen) = (value, start) }
        start -= 1
      }
      best[end] = least
      row[end] = Int32(truncatingIfNeeded: chosen)
    }
    return best[n]
  }

  func plan(_ k: Int) throws -> ChunkPlan {
    let ends = try Buffer<Int>(count: k + 1, for: "a plan")
    ends[k] = n
    for j in stride(from: k, through: 1, by: -1) {
      ends[j - 1] = Int(from[j * (n + 1) + ends[j]])
    }
    return try ChunkPlan(count: k) { ends[$0 + 1] - ends[$0] }
  }
}
