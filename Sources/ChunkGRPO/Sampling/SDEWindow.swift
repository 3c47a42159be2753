internal import Platform

/// Which steps are stochastic, iteration by iteration: a window that moves along the trajectory (MixGRPO, arXiv 2507.21802;
/// Flow-GRPO-Fast). Give it to `SamplerOptions.window`.
///
/// A window is a function of the iteration alone, so a run that resumes needs no state of it.
public struct SDEWindow: Sendable, Equatable {
  /// What it was made with.
  public let options: SDEWindowOptions

  /// - Throws: `.invalidArgument` for bounds that hold no window.
  public init(_ options: SDEWindowOptions) throws {
    try options.check()
    self.options = options
  }

  /// The stochastic steps of an iteration, counted from 0, in rising order; never none.
  public func steps(iteration: Int) throws -> [Int] { try Array(stepNumbers(iteration: iteration)) }

  package func stepNumbers(iteration: Int) throws -> Numbers<Int> {
    try require((0...1 << 40).contains(iteration), "iteration = \(iteration) is outside 0 … 2^40")
    let (first, end, size) = (options.first, options.end, options.size)
    switch options.strategy {
    case .fixed: return try window(first)
    case .random:
      let starts = end - first - size + 1
      return try window(first + min(starts - 1, Int(draws(iteration, 1)[0] * Double(starts))))
    case .subset: return try subset(iteration)
    case .progressive, .linearDecay, .exponentialDecay:
      let start = try start(iteration: iteration)
      return try window(options.atEnd == .stay ? min(start, end - size) : start)
    }
  }

  private func window(_ start: Int) throws -> Numbers<Int> {
    let steps = try Buffer<Int>(count: min(options.size, options.end - start), for: "a window")
    for k in 0..<steps.count { steps.values[k] = start + k }
    return Numbers(steps)
  }

  /// The steps with the smallest draws, the first ones of those that are equal.
  private func subset(_ iteration: Int) throws -> Numbers<Int> {
    let keys = try draws(iteration, options.end - options.first)
    let order = try sorted(count: keys.count, for: "the draws of a window") { keys[$0] }
    let chosen = try sorted(count: options.size, for: "a window") { order[$0].index }
    let steps = try Buffer<Int>(count: options.size, for: "a window")
    for k in 0..<steps.count { steps[k] = options.first + chosen[k].key }
    return Numbers(steps)
  }

  private func draws(_ iteration: Int, _ count: Int) throws -> Numbers<Double> {
    let draws = try Buffer<Double>(count: count, for: "the draws of a window")
    uniforms(
      seed: options.seed, sampleID: UInt64(iteration), step: ReservedStep.sdeWindow.rawValue, into: draws.values)
    return Numbers(draws)
  }

  private func start(iteration: Int) throws -> Int {
    let starts = stride(from: options.first, to: options.end, by: options.stride ?? options.size)
    var (round, last) = (0, options.first)
    for start in starts {
      let (sum, overflow) = round.addingReportingOverflow(iterations(at: start))
      (round, last) = (overflow ? .max : sum, start)
    }
    var left = iteration
    if left >= round {
      switch options.atEnd {
      case .wrap: left %= round
      case .stay: return last
      case .stop:
        throw ChunkGRPOError.invalidArgument(
          "iteration = \(iteration): the last window ended after \(round) iterations")
      }
    }
    for start in starts {
      let count = iterations(at: start)
      if left < count { return start }
      left -= count
    }
    return last
  }

  /// How many iterations the window that starts at step `t` lasts.
  public func iterations(at t: Int) -> Int {
    let most = Double(options.iterations)
    switch options.strategy {
    case .fixed, .random, .subset: return 1
    case .progressive: return options.iterations
    case .linearDecay:
      let progress = Double(t) / Double(options.end)
      return max(options.least, Int(most * (1 - progress) + Double(options.least) * progress))
    case .exponentialDecay:
      return max(1, Int((most * exp(-options.decay * Double(max(0, t - options.threshold)))).rounded(.up)))
    }
  }
}
