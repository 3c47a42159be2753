internal import Platform

extension Schedule {
  /// Any schedule of diffusers' `FlowMatchEulerDiscreteScheduler` (0.42), in its order: base points, shift, terminal
  /// stretch, spacing, and a final 0.
  public static func make(steps: Int, _ options: ScheduleOptions = ScheduleOptions()) throws -> Schedule {
    let o = options
    try require((1...maxSteps).contains(steps), "steps = \(steps) is outside 1 … \(maxSteps)")
    try o.check()
    let result = try Buffer<Double>(count: steps + 1, for: "a schedule of \(steps) steps")
    let sigmas = UnsafeMutableBufferPointer(rebasing: result.values[..<steps])  // and the final 0
    fillBasePoints(sigmas, o)
    for k in 0..<steps { sigmas[k] = o.shifted(sigmas[k]) }
    if let terminal = o.terminal {
      let scale = (1 - sigmas[steps - 1]) / (1 - terminal)
      try require(scale > 0, "terminal = \(terminal) cannot be reached: no sigma is below 1")
      for k in 0..<steps { sigmas[k] = 1 - (1 - sigmas[k]) / scale }
    }
    if o.spacing != .shifted { space(sigmas, o.spacing) }
    return try Schedule(result)
  }

  /// FLUX's μ for an image, whose sides the pipelines round down to multiples of 16: a token is 16 × 16 pixels.
  public static func fluxMu(width: Int, height: Int, baseShift: Double = 0.5, maxShift: Double = 1.15) throws -> Double
  {
    try require(width >= 16 && height >= 16, "width = \(width), height = \(height): a side has at least 16 pixels")
    let pixels = Double(width / 16 * 16) * Double(height / 16 * 16)
    return try fluxMu(pixels: pixels, baseShift: baseShift, maxShift: maxShift)
  }

  /// The same for `pixels` = width × height of sides that are multiples of 16: linear in the sequence length
  /// L = pixels/16², from 0.5 at 256 tokens to 1.15 at 4,096 (black-forest-labs/flux `get_schedule`; diffusers
  /// `calculate_shift`).
  public static func fluxMu(
    pixels: Double, baseShift: Double = 0.5, maxShift: Double = 1.15
  ) throws -> Double {
    try require(pixels > 0 && pixels.isFinite, "pixels = \(pixels) must be positive and finite")
    try require(baseShift.isFinite, "base_shift = \(baseShift) is not finite")
    try require(maxShift.isFinite, "max_shift = \(maxShift) is not finite")
    let slope = (maxShift - baseShift) / (4096 - 256)
    let mu = pixels / 256 * slope + baseShift - slope * 256
    try require(
      mu.isFinite, "pixels = \(pixels), base_shift = \(baseShift), max_shift = \(maxShift): mu overflows")
    return mu
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
    let result = try Buffer<Double>(count: kept + points, for: "a schedule of \(kept + points - 1) steps")
    for k in 0..<kept { result.values[k] = whole.sigmas[k] }
    for k in 0..<points {
      result.values[kept + k] = options.shifted(start * (1 - Double(k) / Double(points - 1)))
    }
    return try Schedule(result)
  }

  /// The timestep of each of the T steps as a model wants it: scale·σ.
  ///
  /// - Parameter truncated: whole numbers, int(scale·σ): what GCPO, DanceGRPO and MixGRPO feed their model while the step
  ///   itself uses σ.
  public func timesteps(scale: Double = 1000, truncated: Bool = false) -> [Double] {
    (0..<steps).map { timestep($0, scale: scale, truncated: truncated) }
  }

  /// The same of one step.
  package func timestep(_ step: Int, scale: Double, truncated: Bool) -> Double {
    truncated ? (scale * sigmas[step]).rounded(.towardZero) : scale * sigmas[step]
  }

  private static func fillBasePoints(_ points: UnsafeMutableBufferPointer<Double>, _ o: ScheduleOptions) {
    let steps = points.count
    let trained = 1.0 / 1000
    let last = o.shiftKind == .static ? o.shifted(trained) : trained
    for k in 0..<steps {
      switch o.base {
      case .linear: points[k] = 1 - Double(k) / Double(steps)
      case .diffusers: points[k] = 1 + share(k, of: steps) * (last - 1)
      case .unipc: points[k] = 1 - Double(k) / Double(steps) * (1 - trained)
      }
    }
  }

  private static func space(_ sigmas: UnsafeMutableBufferPointer<Double>, _ spacing: ScheduleSpacing) {
    let steps = sigmas.count
    let (first, last) = (sigmas[0], sigmas[steps - 1])
    var quantiles = BetaQuantiles(0.6)
    for k in 0..<steps {
      let u = share(k, of: steps)
      switch spacing {
      case .shifted: sigmas[k] = first + u * (last - first)
      case .karras: sigmas[k] = pow(pow(first, 1.0 / 7) + u * (pow(last, 1.0 / 7) - pow(first, 1.0 / 7)), 7)
      case .exponential: sigmas[k] = exp(log(first) + u * (log(last) - log(first)))
      case .beta: sigmas[k] = last + quantiles.next(1 - u) * (first - last)
      }
    }
  }

  /// How far the k-th of points between two ends lies from the first; a point alone is the first.
  private static func share(_ k: Int, of steps: Int) -> Double { Double(k) / Double(max(1, steps - 1)) }
}
