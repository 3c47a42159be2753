/// Every convention of a published recipe in one value, named after its source. Change what you like; print it to see what
/// it sets.
///
/// Numbers are the defaults of the source's own scripts; `Tests/fixtures/README.md` names repositories and commits.
public struct Recipe: Sendable, CustomStringConvertible {
  /// Of the source, as `Recipe(named:)` takes it.
  public let name: String
  /// Repository and script.
  public let source: String

  /// T, before `flashRatio` shortens it.
  public var steps: Int
  /// Of its T steps.
  public var schedule: ScheduleOptions
  /// Timesteps that the model sees are whole numbers, int(1000·σ), while the step uses σ.
  public var truncatedTimesteps = false
  /// η, dynamics, log-probability, last step; the window comes from `window`.
  public var sampler: SamplerOptions
  /// Where the stochastic and trained steps lie; nil = all trained steps.
  public var window: SDEWindowOptions?
  /// Less than 1: the share of the steps that is left after the window (MixGRPO-Flash).
  public var flashRatio = 1.0

  /// Samples per prompt.
  public var groupSize: Int
  /// One initial noise per prompt.
  public var sharesNoise: Bool
  /// Of the rewards.
  public var advantages: AdvantageOptions
  /// Sizes over the S trained steps; nil = step level: chunks of one step over the trained ones.
  public var chunkSizes: [Int]?
  /// Share of its chunks that a sample trains.
  public var chunkFraction = 1.0
  /// Surrogate, clip, KL, average.
  public var loss: ChunkLossOptions

  /// AdamW's, and the bound on the gradient norm.
  public var learningRate: Double, weightDecay = 1e-4, maxGradNorm: Double

  /// Quirks of the source that these settings follow.
  public var follows: [String] = []
  /// Quirks that they do not follow, and why.
  public var refuses: [String] = []

  /// The schedule of an iteration: with `flashRatio`, it depends on the window.
  public func schedule(iteration: Int = 0) throws -> Schedule {
    guard flashRatio < 1, let window, schedule.shiftKind == .static else {
      return try Schedule.make(steps: steps, schedule)
    }
    let kept = (try SDEWindow(window).steps(iteration: iteration).last ?? 0) + 1
    // At least one step is left to reach σ = 0.
    let ratio = max(flashRatio, min(1, 2 / Double(steps + 1 - kept)))
    return try Schedule.flash(steps: steps, shift: schedule.shift, kept: kept, ratio: ratio)
  }

  /// The sampler of an iteration.
  public func sampler(iteration: Int = 0, threads: Int = 1) throws -> Sampler {
    var options = sampler
    options.window = try window.map { try SDEWindow($0).stepNumbers(iteration: iteration) }
    options.threads = threads
    return try Sampler(schedule(iteration: iteration), options)
  }

  /// The steps of an iteration that are trained: those with noise, but for the last.
  public func trainedSteps(iteration: Int = 0) throws -> [Int] { try sampler(iteration: iteration).stochasticSteps }

  /// The plan over `trainedSteps`.
  public func plan(iteration: Int = 0) throws -> ChunkPlan {
    try chunkSizes.map { try ChunkPlan($0) } ?? .fixed(steps: trainedSteps(iteration: iteration).count, size: 1)
  }

  public var description: String {
    var text = ""
    describe { text += $0 }
    return text
  }

  /// The description in pieces.
  ///
  /// - Parameter spelled: how it writes a text with words of enumerations in it, which are Swift's.
  package func describe(spelled: (String) -> String = { $0 }, _ write: (String) -> Void) {
    func line(_ name: String, _ value: String) {
      write("\n  \(name)\(String(repeating: " ", count: max(1, 14 - name.count)))")
      write(value)
    }
    write("\(name)  (\(source))")
    line("schedule", "\(steps) steps, \(shiftText)\(schedule.base == .diffusers ? ", diffusers' base points" : "")")
    line("timesteps", truncatedTimesteps ? "int(1000 sigma)" : "1000 sigma")
    line("sampler", spelled(samplerText))
    line(
      "rollout",
      "\(groupSize) samples per prompt, \(sharesNoise ? "one initial noise per prompt" : "noise of their own")")
    line("advantages", spelled(advantageText))
    line(
      "chunks",
      chunkSizes.map { "\($0.map(String.init).joined(separator: ", "))" } ?? "single steps"
        + (chunkFraction < 1 ? ", \(chunkFraction) of them trained" : ""))
    line("objective", spelled(lossText))
    line("optimiser", "AdamW, learning rate \(learningRate), weight decay \(weightDecay), gradient norm \(maxGradNorm)")
    for quirk in follows { line("follows", quirk) }
    for quirk in refuses { line("refuses", quirk) }
  }

  private var shiftText: String {
    switch schedule.shiftKind {
    case .static: "shift \(schedule.shift)"
    case .exponential: "exponential shift, mu \(schedule.mu)"
    case .linear: "linear shift, mu \(schedule.mu)"
    }
  }

  private var samplerText: String {
    var text = "\(sampler.dynamics), eta \(sampler.eta)"
    if sampler.logProbForm == .squaredError { text += ", log-prob without 1/(2 s^2)" }
    if sampler.lastStep == .ode { text += ", last step without noise" }
    if let window {
      let every = window.strategy == .progressive ? ", \(window.iterations) iterations each" : ""
      text += ", \(window.strategy) window of \(window.size) within \(window.first) ..< \(window.end)\(every)"
      text += ", then \(sampler.after ?? sampler.outside)"
      if flashRatio < 1 { text += " with \(flashRatio) of the steps" }
    }
    return text
  }

  private var advantageText: String {
    let a = advantages
    var text = "(r - mean of \(a.baseline)) / "
    text += a.scale == .none ? "1" : "(\(a.deviation) std of \(a.scale) + \(a.epsilon))"
    if a.floor > 0 { text += ", std at least \(a.floor)" }
    if a.mixing != .sum { text += ", several rewards by \(a.mixing)" }
    return text + (a.clamp.isFinite ? ", clamped to \(a.clamp)" : "")
  }

  private var lossText: String {
    loss.surrogate.described(loss) + (loss.kl > 0 ? ", KL \(loss.klEstimator) x \(loss.kl)" : ", no KL")
  }
}
