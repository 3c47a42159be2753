import Glibc

/// Where the T base points lie, before shift and spacing.
public enum ScheduleBase: Int32, Sendable {
  /// t_k = 1 − k/T (GCPO, DanceGRPO; the `linspace(1, 1/n, n)` that the FLUX pipeline gives).
  case linear = 1
  /// What diffusers' `set_timesteps(n)` takes when it is given no sigmas: n points from 1 to the smallest training sigma,
  /// 1/1000, *already shifted*. With a static shift ≠ 1 the points are then shifted twice (diffusers issue 13243), and so
  /// are Flow-GRPO's on SD3.
  case diffusers = 2
}

/// How the base points are shifted towards noise.
public enum ScheduleShift: Sendable, Equatable {
  /// σ = s·t / (1 + (s − 1)·t); s = 1 leaves t (SD3, arXiv 2403.03206).
  case fixed(Double)
  /// σ = e^μ / (e^μ + 1/t − 1) (FLUX). μ from the image size: `Schedule.fluxMu`.
  case exponential(mu: Double)
  /// σ = μ / (μ + 1/t − 1) (diffusers' `time_shift_type="linear"`).
  case linear(mu: Double)

  func callAsFunction(_ t: Double) -> Double {
    switch self {
    case .fixed(let shift): shift * t / (shift * t + (1 - t))  // exactly 1 at t = 1, whatever the shift
    case .exponential(let mu): exp(mu) / (exp(mu) + (1 / t - 1))
    case .linear(let mu): mu / (mu + (1 / t - 1))
    }
  }
}

/// How the sigmas are spaced between the first and the last of the shifted points.
public enum ScheduleSpacing: Int32, Sendable {
  /// Where the shift put them.
  case shifted = 1
  /// (σ_max^{1/ρ} + k/(T−1)·(σ_min^{1/ρ} − σ_max^{1/ρ}))^ρ with ρ = 7 (arXiv 2206.00364).
  case karras = 2
  /// Evenly in ln σ.
  case exponential = 3
  /// At the quantiles of Beta(0.6, 0.6) (arXiv 2407.12173).
  case beta = 4
}

extension Schedule {
  /// Any schedule of diffusers' `FlowMatchEulerDiscreteScheduler` (0.42), in its order: base points, shift, terminal
  /// stretch, spacing, and a final 0.
  ///
  /// - Parameter terminal: the last sigma before the final 0 is stretched to this, in (0, 1); nil = none
  ///   (LTX-Video, arXiv 2305.08891's idea): 1 − σ ← (1 − σ)/((1 − σ_last)/(1 − terminal)).
  public static func make(
    steps: Int, base: ScheduleBase = .linear, shift: ScheduleShift = .fixed(1), terminal: Double? = nil,
    spacing: ScheduleSpacing = .shifted
  ) throws -> Schedule {
    try require((1...maxSteps).contains(steps), "steps = \(steps) is outside 1 … \(maxSteps)")
    try check(shift)
    if let terminal { try require(terminal > 0 && terminal < 1, "terminal = \(terminal) is outside (0, 1)") }
    try require(
      steps >= 2 || (base == .linear && spacing == .shifted && terminal == nil),
      "steps = \(steps): this base, spacing or terminal shift spreads points between two ends and needs at least 2")
    var sigmas = basePoints(steps: steps, base: base, shift: shift).map { shift($0) }
    if let terminal {
      let scale = (1 - sigmas[steps - 1]) / (1 - terminal)
      try require(scale > 0, "terminal = \(terminal) cannot be reached: no sigma is below 1")
      sigmas = sigmas.map { 1 - (1 - $0) / scale }
    }
    if spacing != .shifted { sigmas = spaced(from: sigmas[0], to: sigmas[steps - 1], steps: steps, spacing) }
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
    let rest = (0..<points).map { ScheduleShift.fixed(shift)(start * (1 - Double($0) / Double(points - 1))) }
    return try Schedule(whole.sigmas[..<kept] + rest)
  }

  /// The timestep of each of the T steps as a model wants it: scale·σ.
  ///
  /// - Parameter truncated: whole numbers, int(scale·σ): what GCPO, DanceGRPO and MixGRPO feed their model while the step
  ///   itself uses σ.
  public func timesteps(scale: Double = 1000, truncated: Bool = false) -> [Double] {
    sigmas.dropLast().map { truncated ? (scale * $0).rounded(.towardZero) : scale * $0 }
  }

  private static func check(_ shift: ScheduleShift) throws {
    switch shift {
    case .fixed(let s): try require(s > 0 && s.isFinite, "shift = \(s) must be positive and finite")
    case .exponential(let mu): try require(abs(mu) <= 30, "mu = \(mu) is outside -30 … 30")
    case .linear(let mu):
      try require(mu > 0 && mu.isFinite, "mu = \(mu) must be positive and finite for a linear shift")
    }
  }

  private static func basePoints(steps: Int, base: ScheduleBase, shift: ScheduleShift) -> [Double] {
    switch base {
    case .linear:
      return (0..<steps).map { 1 - Double($0) / Double(steps) }
    case .diffusers:
      let trained = 1.0 / 1000
      let last = if case .fixed = shift { shift(trained) } else { trained }
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

/// The p-quantile of Beta(a, a).
private func betaQuantile(_ p: Double, _ a: Double) -> Double {
  if p <= 0 { return 0 }
  if p >= 1 { return 1 }
  // The distribution function is monotone: bisection to the last bit.
  var (low, high) = (0.0, 1.0)
  while true {
    let middle = (low + high) / 2
    if middle <= low || middle >= high { return middle }
    if betaDistribution(middle, a) < p { low = middle } else { high = middle }
  }
}

/// The regularised incomplete beta function I_x(a, a), by its continued fraction (DLMF 8.17.22, Lentz's method).
private func betaDistribution(_ x: Double, _ a: Double) -> Double {
  if x > 0.5 { return 1 - betaDistribution(1 - x, a) }
  if x <= 0 { return 0 }
  let front = exp(a * log(x) + a * log1p(-x) + lgamma(2 * a) - 2 * lgamma(a)) / a
  var (c, d, f) = (1.0, 0.0, 1.0)
  for i in 0..<200 {
    let m = Double(i / 2)
    let numerator =
      i == 0
      ? 1
      : i % 2 == 0
        ? m * (a - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        : -(a + m) * (2 * a + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
    d = 1 / (1 + numerator * d)
    c = 1 + numerator / c
    f *= c * d
    if abs(c * d - 1) < 1e-16 { break }
  }
  return front * (f - 1)
}
