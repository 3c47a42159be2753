/// Contiguous chunks of the trained steps: K sizes, each at least 1, that sum to S.
///
/// Sizes of 1 are step-level GRPO, one chunk of S is GSPO's sequence ratio. GCPO's plan for T = 17 is 2, 3, 4, 7.
public struct ChunkPlan: Sendable, Equatable, CustomStringConvertible {
  /// Where each chunk begins, and S.
  private let boundaries: Numbers<Int>

  /// S
  public var steps: Int { boundaries[count] }
  /// K
  public var count: Int { boundaries.count - 1 }
  public var sizes: [Int] { (0..<count).map(size) }
  /// The steps of each chunk.
  public var ranges: [Range<Int>] { (0..<count).map(range) }

  package func size(_ chunk: Int) -> Int { boundaries[chunk + 1] - boundaries[chunk] }
  package func range(_ chunk: Int) -> Range<Int> { boundaries[chunk]..<boundaries[chunk + 1] }

  /// By bisection.
  package func chunk(ofStep step: Int) -> Int {
    var (low, high) = (0, count)
    while high - low > 1 {
      let middle = (low + high) / 2
      if boundaries[middle] <= step { low = middle } else { high = middle }
    }
    return low
  }

  /// - Throws: `.invalidArgument` for no sizes, a size below 1, or more than `Schedule.maxSteps` steps.
  public init(_ sizes: [Int]) throws {
    try self.init(count: sizes.count) { sizes[$0] }
  }

  package init(count: Int, size: (Int) throws -> Int) throws {
    try require(count >= 1, "sizes: a plan has at least one chunk")
    let boundaries = try Buffer<Int>(count: count + 1, for: "a plan")
    for j in 0..<count {
      let size = try size(j)
      try require(size >= 1, "sizes[\(j)] = \(size) must be at least 1")
      let (end, overflow) = boundaries[j].addingReportingOverflow(size)
      try require(
        !overflow && end <= Schedule.maxSteps, "sizes sum to more than \(Schedule.maxSteps) steps, at sizes[\(j)]")
      boundaries[j + 1] = end
    }
    self.boundaries = Numbers(boundaries)
  }

  public var description: String {
    var text = ""
    describe { text += $0 }
    return text
  }

  /// The description in pieces, which are short for any plan.
  package func describe(_ write: (String) -> Void) {
    func counted(_ n: Int, _ noun: String) -> String { n == 1 ? "1 \(noun)" : "\(n) \(noun)s" }
    write("\(counted(count, "chunk")) over \(counted(steps, "step")): ")
    for j in 0..<count {
      let range = range(j)
      if j > 0 { write(" | ") }
      write(range.count == 1 ? "\(range.lowerBound)" : "\(range.lowerBound)-\(range.upperBound - 1)")
    }
  }

  /// Chunks of `size` steps and, where it does not divide, a last one with the remainder.
  public static func fixed(steps: Int, size: Int) throws -> ChunkPlan {
    try require((1...Schedule.maxSteps).contains(steps), "steps = \(steps) is outside 1 … \(Schedule.maxSteps)")
    try require((1...steps).contains(size), "size = \(size) is outside 1 … \(steps), the number of steps")
    return try ChunkPlan(count: (steps + size - 1) / size) { min(size, steps - $0 * size) }
  }

  /// w_j = mean of relative L1 over the chunk + 1e-8, (B, K) from relative L1 (B, S) (GCPO).
  public func weights(relativeL1: [Double]) throws -> [Double] {
    try relativeL1.withUnsafeBufferPointer { relativeL1 in
      var result = [Double](repeating: 0, count: relativeL1.count / steps * count)
      try weights(relativeL1: Numbers(borrowing: relativeL1), into: &result)
      return result
    }
  }

  package func weights(relativeL1: Numbers<Double>, into result: UnsafeMutablePointer<Double>) throws {
    let (steps, count) = (self.steps, self.count)
    for sample in 0..<(try rows(relativeL1, steps: steps)) {
      for j in 0..<count {
        let range = range(j)
        var sum = 0.0
        for t in range { sum += try dynamics(relativeL1, sample, t, steps: steps) }
        guard sum.isFinite else {
          throw ChunkGRPOError.nonFinite("relative_l1 of sample \(sample) is too large to sum")
        }
        result[sample * count + j] = sum / Double(range.count) + 1e-8
      }
    }
  }
}

/// How many samples (B, S) has.
func rows(_ relativeL1: Numbers<Double>, steps: Int) throws -> Int {
  try require(
    !relativeL1.isEmpty && relativeL1.count % steps == 0,
    "relative_l1 has \(relativeL1.count) numbers, which are no rows of \(steps) steps")
  return relativeL1.count / steps
}

/// Relative L1 of a sample at a step.
func dynamics(_ relativeL1: Numbers<Double>, _ sample: Int, _ step: Int, steps: Int) throws -> Double {
  let d = relativeL1[sample * steps + step]
  guard d >= 0 && d.isFinite else {
    throw ChunkGRPOError.nonFinite("relative_l1 of sample \(sample) at step \(step) is \(d)")
  }
  return d
}
