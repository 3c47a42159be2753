internal import Platform

extension Schedule {
  /// Any schedule of diffusers' `FlowMatchEulerDiscreteScheduler` (0.42), in its order: base points, shift, terminal
  /// stretch, spacing, and a final 0.
  public static func make(steps: Int, _ options: ScheduleOptions = ScheduleOptions()) throws -> Schedule {
    let o = options
    try require((1...maxSteps).contains(steps), "steps = \(steps) is outside 1 … \(maxSteps)")
    try o.check()
    try require(
      steps >= 2 || (o.base == .linear && o.spacing == .shifted && o.terminal == nil),
      "steps = \(steps): this base, spacing or terminal shift spreads points between two ends and needs at least 2")
    var sigmas = basePoints(steps: steps, o).map(o.shifted)
    if let terminal = o.terminal {
      let scale = (1 - sigmas[steps - 1]) / (1 - terminal)
      try require(scale > 0, "terminal = \(terminal) cannot be reached: no sigma is below 1")
      sigmas = sigmas.map { 1 - (1 - $0) / scale }
    }
    if o.spacing != .shifted { sigmas = spaced(from: sigmas[0], to: sigmas[steps - 1], steps: steps, o.spacing) }
    return try Schedule(sigmas + [0])
  }

  /// FLUX's μ for an image of `pixels` = width × height: linear in the sequence length L = pixels/16², from 0.5 at 256
  /// tokens to 1.15 at 4,096 (black-forest-labs/flux `get_schedule`; diffusers `calculate_shift`).
  public static func fluxMu(
    pixels: Double, baseShift: Double = 0.5, maxShift: Double = 1.15
  ) throws -> Double {
    try require(pixels > 0 && pixels.isFinite, "pixels = \(pixels) must be positive and finite")
    try require(baseShift.isFinite, "base_shift = \(baseShift) is not finite")
    try require(maxShift.isFinite, "max_shift = \(maxShift) is not finite")
    let slope = (maxShift - baseShift) / (4096 - 256)
    return pixels / 256 * slope + baseShift - slope * 256
  }

  /// MixGRPO-Flash's schedule (arXiv 2507.21802; Tencent-Hunyuan/MixGRPO `run_sample_step`): the first `kept` of T shifted
  /// steps as they are, and fewer of them from there to 0.
  ///
  /// The rest starts at the time of step `kept` and has ⌊(T + 1 − kept)·ratio⌋ evenly spaced times, shifted: so one
  /// step fewer than that.
  ///
  /// - Parameters:
  ///   - kept: the end of the SDE window, 1 … T − 1.
  ///   - ratio: in (0, 1]; refused where it leaves no step, where MixGRPO would stop short of σ = 0.
  public static func flash(steps: Int, shift: Double, kept: Int, ratio: Double) throws -> Schedule {
    let whole = try shifted(steps: steps, shift: shift)
    try require((1..<max(2, steps)).contains(kept) && steps >= 2, "kept = \(kept) is outside 1 … \(steps - 1)")
    try require(ratio > 0 && ratio <= 1, "ratio = \(ratio) is outside (0, 1]")
    let points = Int(Double(steps + 1 - kept) * ratio)
    try require(points >= 2, "ratio = \(ratio) leaves no step after the first \(kept) of \(steps)")
    let start = 1 - Double(kept) / Double(steps)
    let options = ScheduleOptions { $0.shift = shift }
    let rest = (0..<points).map { options.shifted(start * (1 - Double($0) / Double(points - 1))) }
    return try Schedule(whole.sigmas[..<kept] + rest)
  }

  /// The timestep of each of the T steps as a model wants it: scale·σ.
  ///
  /// - Parameter truncated: whole numbers, int(scale·σ): what GCPO, DanceGRPO and MixGRPO feed their model while the step
  ///   itself uses σ.
  public func timesteps(scale: Double = 1000, truncated: Bool = false) -> [Double] {
    sigmas.dropLast().map { truncated ? (scale * $0).rounded(.towardZero) : scale * $0 }
  }

  private static func basePoints(steps: Int, _ o: ScheduleOptions) -> [Double] {
    switch o.base {
    case .linear:
      return (0..<steps).map { 1 - Double($0) / Double(steps) }
    case .diffusers:
      let trained = 1.0 / 1000
      let last = o.shiftKind == .static ? o.shifted(trained) : trained
      return (0..<steps).map { 1 + Double($0) / Double(steps - 1) * (last - 1) }
    }
  }

  private static func spaced(from first: Double, to last: Double, steps: Int, _ spacing: ScheduleSpacing) -> [Double] {
    (0..<steps).map { k in
      let u = Double(k) / Double(steps - 1)
      switch spacing {
      case .shifted: return first + u * (last - first)
      case .karras: return pow(pow(first, 1.0 / 7) + u * (pow(last, 1.0 / 7) - pow(first, 1.0 / 7)), 7)
      case .exponential: return exp(log(first) + u * (log(last) - log(first)))
      case .beta: return last + betaQuantile(1 - u, 0.6) * (first - last)
      }
    }
  }
}
