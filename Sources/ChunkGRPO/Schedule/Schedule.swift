/// The sigmas of a sampling run: T + 1 of them, strictly falling from at most 1 (noise) to at least 0 (image).
public struct Schedule: Sendable, Equatable {
  /// T + 1 sigmas.
  public let sigmas: [Double]

  /// T, the number of sampling steps.
  public var steps: Int { sigmas.count - 1 }

  /// More steps than anyone samples with; keeps a wrong number from filling the memory.
  public static let maxSteps = 1_000_000

  /// - Throws: `.invalidArgument` unless there are 2 … 1,000,001 sigmas that strictly fall within [0, 1].
  public init(_ sigmas: [Double]) throws {
    try require(
      (2...Schedule.maxSteps + 1).contains(sigmas.count),
      "sigmas: a schedule has 2 to \(Schedule.maxSteps + 1) of them, not \(sigmas.count)")
    for (k, sigma) in sigmas.enumerated() {
      try require(sigma >= 0 && sigma <= 1, "sigmas[\(k)] = \(sigma) is outside [0, 1]")
      try require(
        k == 0 || sigma < sigmas[k - 1],
        "sigmas must strictly fall, but sigmas[\(k)] = \(sigma) follows \(sigmas[max(k, 1) - 1])")
    }
    self.sigmas = sigmas
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
