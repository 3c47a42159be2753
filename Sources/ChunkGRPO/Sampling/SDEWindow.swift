internal import Platform

/// Which steps are stochastic, iteration by iteration: a window that moves along the trajectory (MixGRPO, arXiv 2507.21802;
/// Flow-GRPO-Fast). Give it to `SamplerOptions.window`.
///
/// A window is a function of the iteration alone, so a run that resumes needs no state of it.
public struct SDEWindow: Sendable, Equatable {
  public let options: SDEWindowOptions

  /// - Throws: `.invalidArgument` for bounds that hold no window.
  public init(_ options: SDEWindowOptions) throws {
    try options.check()
    self.options = options
  }

  /// The stochastic steps of an iteration, counted from 0, in rising order; never none.
  public func steps(iteration: Int) throws -> [Int] {
    try require((0...1 << 40).contains(iteration), "iteration = \(iteration) is outside 0 … 2^40")
    let (first, end, size) = (options.first, options.end, options.size)
    switch options.strategy {
    case .fixed: return window(first)
    case .random:
      let starts = end - first - size + 1
      return window(first + min(starts - 1, Int(draws(iteration, 1)[0] * Double(starts))))
    case .subset:
      let keys = draws(iteration, end - first)
      return keys.indices.sorted { keys[$0] < keys[$1] }.prefix(size).map { first + $0 }.sorted()
    case .progressive, .linearDecay, .exponentialDecay:
      let start = try start(iteration: iteration)
      return window(options.atEnd == .stay ? min(start, end - size) : start)
    }
  }

  private func window(_ start: Int) -> [Int] { Array(start..<min(start + options.size, options.end)) }

  private func draws(_ iteration: Int, _ count: Int) -> [Double] {
    uniforms(
      seed: options.seed, sampleID: UInt64(iteration), step: ReservedStep.sdeWindow.rawValue, count: count)
  }

  private func start(iteration: Int) throws -> Int {
    let starts = Array(
      stride(from: options.first, to: options.end, by: options.stride ?? options.size))
    let lasting = starts.map(iterations(at:))
    let round = lasting.reduce(0, +)
    var left = iteration
    if left >= round {
      switch options.atEnd {
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
