/// Options of `ChunkPlan.adaptive`.
public struct AdaptiveChunkOptions: Options {
  /// A longer run is halved until it fits; 0 = no bound.
  public var maxSize = 7
  /// A shorter run joins its shorter neighbour. At most (maxSize + 1)/2, so that halves keep it.
  public var minSize = 2

  public init() {}

  func check() throws {
    try require(maxSize >= 0, "max_size = \(maxSize) must be at least 0")
    let most = maxSize == 0 ? Int.max : (maxSize &+ 1) / 2
    try require(
      minSize >= 1 && minSize <= most, "min_size = \(minSize) is outside 1 … \(most), half of max_size rounded up")
  }
}

extension ChunkPlan {
  /// Boundaries from the temporal dynamics (arXiv 2510.21583): consecutive steps whose relative L1, averaged over the
  /// batch, moves in the same direction form a run; a turning point closes its run.
  ///
  /// - Parameter relativeL1: (B, S).
  public static func adaptive(
    relativeL1: [Double], steps: Int, _ options: AdaptiveChunkOptions = AdaptiveChunkOptions()
  ) throws -> ChunkPlan {
    try options.check()
    let maxSize = options.maxSize
    let curve = try meanCurve(relativeL1, steps: steps)
    let runs = merged(monotoneRuns(curve), minSize: options.minSize)
    return try ChunkPlan(maxSize == 0 ? runs : runs.flatMap { halved($0, maxSize: maxSize) })
  }

  /// S: the curve averaged over the batch, plus the 1e-8 of the weights, so that it is positive.
  static func meanCurve(_ relativeL1: [Double], steps: Int) throws -> [Double] {
    try require((1...Schedule.maxSteps).contains(steps), "steps = \(steps) is outside 1 … \(Schedule.maxSteps)")
    // One chunk over everything has the mean of the curve as its weight; single steps have the curve itself.
    let weights = try ChunkPlan.fixed(steps: steps, size: 1).weights(relativeL1: relativeL1)
    let batch = Double(weights.count / steps)
    // Divided before they are summed, so that the sum cannot overflow.
    return (0..<steps).map { t in stride(from: t, to: weights.count, by: steps).reduce(0) { $0 + weights[$1] / batch } }
  }

  /// Sizes of the maximal runs within which the curve only rises or only falls.
  private static func monotoneRuns(_ curve: [Double]) -> [Int] {
    var sizes = [1]
    var direction = 0
    for t in curve.indices.dropFirst() {
      let turn = curve[t] > curve[t - 1] ? 1 : curve[t] < curve[t - 1] ? -1 : 0
      if turn == 0 || direction == 0 || turn == direction {
        sizes[sizes.count - 1] += 1
        if turn != 0 { direction = turn }
      } else {
        sizes.append(1)
        direction = 0  // the first difference inside the new run gives its direction
      }
    }
    return sizes
  }

  private static func merged(_ runs: [Int], minSize: Int) -> [Int] {
    var sizes = runs
    while sizes.count > 1, let j = sizes.firstIndex(where: { $0 < minSize }) {
      let left = j > 0 ? sizes[j - 1] : Int.max
      let right = j + 1 < sizes.count ? sizes[j + 1] : Int.max
      sizes[left <= right ? j - 1 : j + 1] += sizes[j]
      sizes.remove(at: j)
    }
    return sizes
  }

  private static func halved(_ size: Int, maxSize: Int) -> [Int] {
    if size <= maxSize { return [size] }
    return halved(size / 2, maxSize: maxSize) + halved(size - size / 2, maxSize: maxSize)
  }
}
