/// Which number stands for the log-probability of a step.
public enum LogProbForm: Int32, Sendable {
  /// ℓ = −‖x'−m‖²/(2·D·s²) − ln s − ½·ln 2π, the mean over the D elements.
  case gaussian = 1
  /// ℓ = −‖x'−m‖²/D: what Flow-GRPO and Flow-Factory use with CPS.
  case squaredError = 2
}

/// What the last step does, which is never trained.
public enum LastStep: Int32, Sendable {
  /// The same as the others (Flow-GRPO).
  case asOthers = 1
  /// No noise: with a final σ of 0 the result is the predicted image x0 = x − σ·v (GCPO, DanceGRPO).
  case ode = 2
}

/// How a sampler steps.
public struct SamplerOptions: Options {
  public var dynamics = Dynamics.flowSDE
  /// Noise scale, ≥ 0; for CPS at most 1. DPM-Solver++ has none.
  public var eta = 0.7
  /// One for each of the T steps instead of `eta`.
  public var etas: [Double]?
  /// The steps that take `dynamics`, in rising order; nil = all. The others take `outside`, and those after the last of
  /// them `after` (MixGRPO, arXiv 2507.21802).
  public var window: [Int]?
  public var outside = Dynamics.ode
  /// nil = the same as `outside`; `.dpmODE` is MixGRPO-Flash.
  public var after: Dynamics?
  /// Of DPM-Solver++: 1 or 2. The first and the last step are of first order.
  public var dpmOrder = 2
  public var logProbForm = LogProbForm.gaussian
  public var lastStep = LastStep.asOthers
  /// 1 … 256; 0 = one a core.
  public var threads = 1

  public init() {}
}
