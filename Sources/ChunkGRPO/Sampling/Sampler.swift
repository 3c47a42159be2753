/// An immutable sampler over one schedule. Every step is `x' = a·x + b·v + c·h + s·ε`; see `Dynamics` for the numbers.
///
/// All latents, velocities and noise of a call have one shape and one element type. Results are the same bits for any
/// number of threads and for a batch split in any way.
public struct Sampler: Sendable {
  /// In one object, for small calls have little else to do than to count references.
  private final class Parts: Sendable {
    let schedule: Schedule
    let options: SamplerOptions
    let threads: Int
    let coefficients: Numbers<StepCoefficients>
    /// Nobody writes to it.
    nonisolated(unsafe) let table: Buffer<ScheduledStep>

    init(
      _ schedule: Schedule, _ options: SamplerOptions, threads: Int, _ coefficients: Numbers<StepCoefficients>
    ) throws {
      self.schedule = schedule
      self.options = options
      self.threads = threads
      self.coefficients = coefficients
      table = try Buffer(count: schedule.steps, for: "the steps of a sampler")
      for (k, c) in coefficients.enumerated() {
        table[k] = ScheduledStep(
          coefficients: c, density: StepDensity(s: c.s, options.logProbForm), sigma: schedule.sigmas[k],
          next: schedule.sigmas[k + 1])
      }
    }
  }

  private let parts: Parts
  /// Of the T steps, for passes, which keep it.
  var table: Buffer<ScheduledStep> { parts.table }

  public var schedule: Schedule { parts.schedule }
  public var options: SamplerOptions { parts.options }
  public var threads: Int { parts.threads }
  /// T of them.
  public var coefficients: Numbers<StepCoefficients> { parts.coefficients }

  /// T
  public var steps: Int { schedule.steps }
  /// S = T − 1: the last step is left out.
  public var trainedSteps: Int { schedule.steps - 1 }
  /// The trained steps with noise; they have a log-probability.
  public var stochasticSteps: [Int] { (0..<trainedSteps).filter { coefficients[$0].s > 0 } }

  /// - Parameters:
  ///   - eta: noise scale, ≥ 0; for CPS at most 1.
  ///   - threads: 1 … 256; 0 = one per core.
  public init(
    _ schedule: Schedule, dynamics: Dynamics = SamplerOptions().dynamics, eta: Double = SamplerOptions().eta,
    logProbForm: LogProbForm = SamplerOptions().logProbForm, lastStep: LastStep = SamplerOptions().lastStep,
    threads: Int = SamplerOptions().threads
  ) throws {
    try self.init(
      schedule,
      SamplerOptions {
        ($0.dynamics, $0.eta, $0.logProbForm, $0.lastStep, $0.threads) = (
          dynamics, eta, logProbForm, lastStep, threads
        )
      })
  }

  public init(_ schedule: Schedule, _ options: SamplerOptions) throws {
    var own = options
    own.etas = try options.etas?.owned(for: "etas")
    own.window = try options.window?.owned(for: "a window")
    parts = try Parts(
      schedule, own, threads: resolvedThreads(options.threads), Sampler.coefficients(schedule, options))
  }

  private static func coefficients(_ schedule: Schedule, _ o: SamplerOptions) throws -> Numbers<StepCoefficients> {
    let (sigmas, steps) = (schedule.sigmas, schedule.steps)
    try o.check(steps: steps)
    let result = try Buffer<StepCoefficients>(count: steps, for: "the coefficients of \(steps) steps")
    let lastInside = o.window.map { $0[$0.count - 1] } ?? steps - 1
    // How many steps of the window lie before step k.
    var passed = 0
    for k in 0..<steps {
      let inside = o.window.map { passed < $0.count && $0[passed] == k } ?? true
      if inside { passed += 1 }
      let last = k == steps - 1
      let dynamics: Dynamics =
        last && o.lastStep == .ode ? .ode : inside ? o.dynamics : k > lastInside ? o.after ?? o.outside : o.outside
      let eta = o.etas.map { $0[k] } ?? o.eta
      let c = dynamics.coefficients(
        StepSigmas(
          sigma: sigmas[k], next: sigmas[k + 1], previous: o.dpmOrder == 2 && k > 0 && !last ? sigmas[k - 1] : nil,
          afterFirst: sigmas[1]), o, eta: dynamics.followsEta ? eta : 0)
      try require(
        dynamics != .sage || !c.s.isNaN,
        "dynamics = sage: step \(k) ends at sigma \(sigmas[k + 1]), within 3e-3 of 1, where SAGE's variance is negative: "
          + "take fewer steps, a smaller shift or flow_sde")
      try require(
        Float(c.a).isFinite && Float(c.b).isFinite && Float(c.s).isFinite && Float(c.c).isFinite,
        "eta = \(eta) makes step \(k), from sigma \(sigmas[k]) to \(sigmas[k + 1]), overflow")
      result.values[k] = c
    }
    return Numbers(result)
  }
}
