/// Which number stands for the log-probability of a step.
public enum LogProbForm: Int32, Sendable {
  /// ℓ = −‖x'−m‖²/(2·D·s²) − ln s − ½·ln 2π, the mean over the D elements.
  case gaussian = 1
  /// ℓ = −‖x'−m‖²/D: what Flow-GRPO and Flow-Factory use with CPS.
  case squaredError = 2
}

/// How the last step is taken, which is never trained.
public enum LastStep: Int32, Sendable {
  /// The same as the others (Flow-GRPO).
  case asOthers = 1
  /// No noise: with a final σ of 0 the result is the predicted image x0 = x − σ·v (GCPO, DanceGRPO).
  case ode = 2
}

/// How a sampler steps.
public struct SamplerOptions: Options {
  /// How a step is taken.
  public var dynamics = Dynamics.flowSDE
  /// Noise scale, ≥ 0; for CPS at most 1; γ for `.edmChurn`. DPM-Solver++, `.wanSDE` and `.consistency` have none.
  public var eta = 0.7
  /// The noise scale of Wan's SDE falls from σ_1 to this, in [0, 1]. For `.wanSDE` and `.flashSDE` only.
  public var wanSigmaMin = 0.0
  /// One for each of the T steps instead of `eta`.
  public var etas: Numbers<Double>?
  /// The steps that take `dynamics`, in rising order; nil = all. The others take `outside`, and those after the last of
  /// them `after` (MixGRPO, arXiv 2507.21802). The last step of the schedule is not trained, so that a window of it alone
  /// is refused.
  public var window: Numbers<Int>?
  /// How the steps outside of `window` are taken.
  public var outside = Dynamics.ode
  /// nil = the same as `outside`; `.dpmODE` is MixGRPO-Flash.
  public var after: Dynamics?
  /// Of DPM-Solver++: 1 or 2. The first and the last step are of first order.
  public var dpmOrder = 2
  /// Gaussian, or the squared error alone.
  public var logProbForm = LogProbForm.gaussian
  /// Flow-GRPO's, as `dynamics` and `eta` are. The embedded policy, which makes pictures, has `.ode`.
  public var lastStep = LastStep.asOthers
  /// 1 … 256; 0 = one per core.
  public var threads = 1

  public init() {}
}

extension SamplerOptions {
  /// Every field within its bounds, for a schedule of `steps`.
  func check(steps: Int) throws {
    try require(etas == nil || etas?.count == steps, "etas: \(etas?.count ?? 0) of them for \(steps) steps")
    if let etas {
      for (k, eta) in etas.enumerated() { try check(eta: eta, "etas[\(k)]") }
    } else {
      try check(eta: eta, "eta")
    }
    try require(
      (0...1).contains(wanSigmaMin) && (wanSigmaMin == 0 || dynamics == .wanSDE || dynamics == .flashSDE),
      "wan_sigma_min = \(wanSigmaMin) is for wan_sde and flash_sde alone, and in [0, 1]")
    try require((1...2).contains(dpmOrder), "dpm_order = \(dpmOrder) is neither 1 nor 2")
    for (name, dynamics) in [("outside", outside), ("after", after ?? outside)] {
      try require(
        dynamics == .ode || dynamics == .dpmODE,
        "\(name): steps outside of the window are deterministic, ode or dpm_ode")
    }
    if let window { try check(window, steps: steps) }
  }

  private func check(eta: Double, _ name: @autoclosure () -> String) throws {
    try require(eta >= 0 && eta.isFinite, "\(name()) = \(eta) must be at least 0 and finite")
    try require(
      dynamics != .cps || eta <= 1, "\(name()) = \(eta): CPS takes at most 1, where all of the noise is new")
  }

  private func check(_ window: Numbers<Int>, steps: Int) throws {
    try require(!window.isEmpty, "window: no step is in it, so nothing would be trained")
    for (i, k) in window.enumerated() {
      try require((0..<steps).contains(k), "window[\(i)] = \(k) is outside 0 … \(steps - 1)")
      try require(
        i == 0 || k > window[i - 1], "window[\(i)] = \(k) does not follow \(window[max(i, 1) - 1]): steps rise")
    }
    try require(
      window[0] < steps - 1, "window: only the last step, \(steps - 1), is in it, which is never trained")
  }
}
