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
    try relativeL1.withUnsafeBufferPointer {
      try adaptive(relativeL1: Numbers(borrowing: $0), steps: steps, options)
    }
  }

  package static func adaptive(
    relativeL1: Numbers<Double>, steps: Int, _ options: AdaptiveChunkOptions
  ) throws -> ChunkPlan {
    try options.check()
    let curve = try meanCurve(relativeL1, steps: steps)
    let runs = try Buffer<Int>(count: steps, for: "the runs of a curve")
    var count = monotoneRuns(curve, sizes: runs.base)
    count = merge(runs.base, count, minSize: options.minSize)
    if options.maxSize == 0 { return try ChunkPlan(count: count) { runs[$0] } }
    let halves = try Buffer<Int>(count: steps, for: "the runs of a curve")
    var halfCount = 0
    for run in 0..<count {
      halve(runs[run], maxSize: options.maxSize) {
        halves[halfCount] = $0
        halfCount += 1
      }
    }
    return try ChunkPlan(count: halfCount) { halves[$0] }
  }

  /// S: the curve averaged over the batch, plus the 1e-8 of the weights, so that it is positive.
  static func meanCurve(_ relativeL1: Numbers<Double>, steps: Int) throws -> Buffer<Double> {
    try require((1...Schedule.maxSteps).contains(steps), "steps = \(steps) is outside 1 … \(Schedule.maxSteps)")
    let batch = try rows(relativeL1, steps: steps)
    let curve = try Buffer<Double>(count: steps, for: "a curve")
    for sample in 0..<batch {
      // Divided before they are summed, so that the sum cannot overflow.
      for t in 0..<steps { curve[t] += (try dynamics(relativeL1, sample, t, steps: steps) + 1e-8) / Double(batch) }
    }
    return curve
  }

  /// Sizes of the maximal runs within which the curve only rises or only falls; returns how many.
  private static func monotoneRuns(_ curve: Buffer<Double>, sizes: UnsafeMutablePointer<Int>) -> Int {
    sizes[0] = 1
    var (last, direction) = (0, 0)
    for t in curve.values.indices.dropFirst() {
      let (before, now) = (curve[t - 1], curve[t])
      let turn = now > before ? 1 : now < before ? -1 : 0
      if turn == 0 || direction == 0 || turn == direction {
        sizes[last] += 1
        if turn != 0 { direction = turn }
      } else {
        last += 1
        sizes[last] = 1
        direction = 0  // the first difference inside the new run gives its direction
      }
    }
    return last + 1
  }

  /// From the left: a run that is too short joins the shorter of its neighbours, of equal ones the left. In place; returns
  /// how many are left.
  private static func merge(_ sizes: UnsafeMutablePointer<Int>, _ count: Int, minSize: Int) -> Int {
    var (merged, next) = (0, 0)
    while next < count {
      var size = sizes[next]
      next += 1
      var joined = false
      while size < minSize && !joined && (merged > 0 || next < count) {
        if merged > 0 && (next == count || sizes[merged - 1] <= sizes[next]) {
          sizes[merged - 1] += size
          joined = true
        } else {
          size += sizes[next]
          next += 1
        }
      }
      if !joined {
        sizes[merged] = size
        merged += 1
      }
    }
    return merged
  }

  private static func halve(_ size: Int, maxSize: Int, _ take: (Int) -> Void) {
    if size <= maxSize { return take(size) }
    halve(size / 2, maxSize: maxSize, take)
    halve(size - size / 2, maxSize: maxSize, take)
  }
}
