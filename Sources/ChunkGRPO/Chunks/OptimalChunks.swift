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
    let (count, explained, minSize) = (options.count, options.explained, options.minSize)
    let curve = try meanCurve(relativeL1, steps: steps)
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
    let cut = Segmentation(curve.map { log($0) }, minSize: minSize, maxSize: maxSize, counts: counts.upperBound)
    let total = cut.cost(0, steps)
    // A curve that is flat to the last bits of its logarithms has nothing to explain.
    let flat = total <= 1e-24 * Double(steps)
    func share(_ k: Int) -> Double { flat ? 1 : max(0, 1 - cut.best(k) / total) }
    let feasible = counts.filter { cut.best($0).isFinite }
    guard let k = count ?? feasible.first(where: { share($0) >= explained }) ?? feasible.last, cut.best(k).isFinite
    else {
      throw ChunkGRPOError.invalidArgument(
        "chunks of \(minSize) to \(maxSize) steps cannot cover \(steps) steps\(count.map { " in \($0)" } ?? "")")
    }
    let plan = try ChunkPlan(cut.sizes(k))
    let levels = plan.ranges.map { range in curve[range].reduce(0, +) / Double(range.count) }
    return ChunkFit(plan: plan, curve: curve, levels: levels, explained: share(k))
  }

  /// The same plan on another schedule: each boundary at the step whose σ is nearest to the boundary's own.
  ///
  /// Chunks keep at least one step; the last step of either schedule is not trained.
  public func carried(from: Schedule, to: Schedule) throws -> ChunkPlan {
    try require(
      from.steps - 1 == steps, "the plan covers \(steps) steps, but its schedule trains \(from.steps - 1)")
    let target = to.steps - 1
    try require(target >= count, "the new schedule trains \(target) steps, too few for \(count) chunks")
    var boundaries = [0]
    for (j, range) in ranges.dropLast().enumerated() {
      let sigma = from.sigmas[range.upperBound]
      let nearest = to.step(nearest: sigma)
      // Room for this chunk and for those that follow.
      boundaries.append(min(max(nearest, boundaries[j] + 1), target - (count - 1 - j)))
    }
    boundaries.append(target)
    return try ChunkPlan(zip(boundaries, boundaries.dropFirst()).map { $1 - $0 })
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

/// Least-squares cuts of a sequence into 1 … `counts` segments: best[k][e] is the least cost of covering the first e values
/// with k of them.
private struct Segmentation {
  private let sums, squares: [Double]
  private var best: [[Double]] = []
  private var from: [[Int]] = []

  init(_ values: [Double], minSize: Int, maxSize: Int, counts: Int) {
    // Centred, so that the sums of squares lose nothing to a large mean.
    let mean = values.reduce(0, +) / Double(values.count)
    sums = values.reduce(into: [0]) { $0.append($0[$0.count - 1] + ($1 - mean)) }
    squares = values.reduce(into: [0]) { $0.append($0[$0.count - 1] + ($1 - mean) * ($1 - mean)) }
    let n = values.count
    best = Array(repeating: Array(repeating: .infinity, count: n + 1), count: counts + 1)
    from = Array(repeating: Array(repeating: 0, count: n + 1), count: counts + 1)
    best[0][0] = 0
    for k in 1...counts {
      for end in minSize...n {
        for start in max(0, end - maxSize)...(end - minSize) where best[k - 1][start].isFinite {
          let value = best[k - 1][start] + cost(start, end)
          if value < best[k][end] { (best[k][end], from[k][end]) = (value, start) }
        }
      }
    }
  }

  /// Sum of squared deviations from the mean over start ..< end.
  func cost(_ start: Int, _ end: Int) -> Double {
    let sum = sums[end] - sums[start]
    return max(0, squares[end] - squares[start] - sum * sum / Double(end - start))
  }

  func best(_ k: Int) -> Double { best[k][sums.count - 1] }

  func sizes(_ k: Int) -> [Int] {
    var sizes: [Int] = []
    var end = sums.count - 1
    for j in stride(from: k, through: 1, by: -1) {
      sizes.insert(end - from[j][end], at: 0)
      end = from[j][end]
    }
    return sizes
  }
}
