/// The sigmas of a sampling run: T + 1 of them, strictly falling from at most 1 (noise) to at least 0 (image).
public struct Schedule: Sendable, Equatable {
  /// T + 1 sigmas.
  public let sigmas: Numbers<Double>

  /// T, the number of sampling steps.
  public var steps: Int { sigmas.count - 1 }

  /// More steps than anyone samples with; keeps a wrong number from filling the memory.
  public static let maxSteps = 1_000_000

  /// A sigma of 1 that has been through float32 is off by a few roundings of 6e-8, and some samplers divide by 1 − σ.
  static let tolerance = 1e-6

  /// - Throws: `.invalidArgument` unless there are 2 … 1,000,001 sigmas that strictly fall within [0, 1]. A first sigma
  ///   closer to 1 than 1e-6 is 1.
  public init(_ sigmas: [Double]) throws {
    self = try sigmas.withUnsafeBufferPointer { try Schedule(copying: $0) }
  }

  package init(copying sigmas: UnsafeBufferPointer<Double>) throws {
    try Schedule.check(count: sigmas.count)
    try self.init(Buffer(copying: sigmas, for: "\(sigmas.count) sigmas"))
  }

  /// Takes the buffer over.
  init(_ buffer: Buffer<Double>) throws {
    let values = buffer.values
    try Schedule.check(count: values.count)
    if abs(values[0] - 1) < Schedule.tolerance { values[0] = 1 }
    for (k, sigma) in values.enumerated() {
      try require(sigma >= 0 && sigma <= 1, "sigmas[\(k)] = \(sigma) is outside [0, 1]")
      try require(
        k == 0 || sigma < values[k - 1],
        "sigmas must strictly fall, but sigmas[\(k)] = \(sigma) follows \(values[max(k, 1) - 1])")
    }
    sigmas = Numbers(buffer)
  }

  private static func check(count: Int) throws {
    try require(
      (2...maxSteps + 1).contains(count), "sigmas: a schedule has 2 to \(maxSteps + 1) of them, not \(count)")
  }

  /// t_k = 1 − k/T.
  public static func linear(steps: Int) throws -> Schedule {
    try shifted(steps: steps, shift: 1)
  }

  /// Static shift, σ = shift·t / (1 + (shift − 1)·t) with t linear (SD3, arXiv 2403.03206; GCPO uses shift 3).
  public static func shifted(steps: Int, shift: Double) throws -> Schedule {
    try make(steps: steps, ScheduleOptions { $0.shift = shift })
  }
}
