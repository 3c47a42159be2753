/// Contiguous chunks of the trained steps: K sizes, each at least 1, that sum to S.
///
/// Sizes of 1 are step-level GRPO, one chunk of S is GSPO's sequence ratio. GCPO's plan for T = 17 is 2, 3, 4, 7.
public struct ChunkPlan: Sendable, Equatable, CustomStringConvertible {
  public let sizes: [Int]

  /// S
  public var steps: Int { sizes.reduce(0, +) }
  /// K
  public var count: Int { sizes.count }

  /// - Throws: `.invalidArgument` for no sizes, a size below 1, or more than `Schedule.maxSteps` steps.
  public init(_ sizes: [Int]) throws {
    try require(!sizes.isEmpty, "sizes: a plan has at least one chunk")
    var sum = 0
    for (j, size) in sizes.enumerated() {
      try require(size >= 1, "sizes[\(j)] = \(size) must be at least 1")
      let (next, overflow) = sum.addingReportingOverflow(size)
      try require(
        !overflow && next <= Schedule.maxSteps, "sizes sum to more than \(Schedule.maxSteps) steps, at sizes[\(j)]")
      sum = next
    }
    self.sizes = sizes
  }

  /// The steps of each chunk.
  public var ranges: [Range<Int>] {
    var start = 0
    return sizes.map { size in
      defer { start += size }
      return start..<start + size
    }
  }

  public var description: String {
    let parts = zip(sizes, ranges).map { size, range in
      size == 1 ? "\(range.lowerBound)" : "\(range.lowerBound)-\(range.upperBound - 1)"
    }
    func counted(_ n: Int, _ noun: String) -> String { n == 1 ? "1 \(noun)" : "\(n) \(noun)s" }
    return "\(counted(count, "chunk")) over \(counted(steps, "step")): " + parts.joined(separator: " | ")
  }

  /// Chunks of `size` steps and, where it does not divide, a last one with the remainder.
  public static func fixed(steps: Int, size: Int) throws -> ChunkPlan {
    try require((1...Schedule.maxSteps).contains(steps), "steps = \(steps) is outside 1 … \(Schedule.maxSteps)")
    try require((1...steps).contains(size), "size = \(size) is outside 1 … \(steps), the number of steps")
    let remainder = steps % size
    return try ChunkPlan(
      Array(repeating: size, count: steps / size) + (remainder == 0 ? [] : [remainder]))
  }

  /// w_j = mean of relative L1 over the chunk + 1e-8, (B, K) from relative L1 (B, S) (GCPO).
  public func weights(relativeL1: [Double]) throws -> [Double] {
    let steps = self.steps
    try require(
      !relativeL1.isEmpty && relativeL1.count % steps == 0,
      "relative_l1 has \(relativeL1.count) numbers, which are no rows of \(steps) steps")
    let ranges = self.ranges
    var result: [Double] = []
    result.reserveCapacity(relativeL1.count / steps * count)
    for row in stride(from: 0, to: relativeL1.count, by: steps) {
      for range in ranges {
        var sum = 0.0
        for t in range {
          let d = relativeL1[row + t]
          guard d >= 0 && d.isFinite else {
            throw ChunkGRPOError.nonFinite("relative_l1 of sample \(row / steps) at step \(t) is \(d)")
          }
          sum += d
        }
        guard sum.isFinite else {
          throw ChunkGRPOError.nonFinite("relative_l1 of sample \(row / steps) is too large to sum")
        }
        result.append(sum / Double(range.count) + 1e-8)
      }
    }
    return result
  }
}
