internal import Platform

/// Where the T base points lie, before shift and spacing.
public enum ScheduleBase: Int32, Sendable {
  /// t_k = 1 − k/T (GCPO, DanceGRPO; the `linspace(1, 1/n, n)` that the FLUX pipeline gives).
  case linear = 1
  /// As diffusers' `set_timesteps(n)` without sigmas: n points from 1 to the smallest training sigma,
  /// 1/1000, *already shifted*. With a static shift ≠ 1 the points are then shifted twice (diffusers issue 13243), and so
  /// are Flow-GRPO's on SD3.
  case diffusers = 2
  /// t_k = 1 − k/T·(1 − 1/1000): diffusers' `UniPCMultistepScheduler` with `use_flow_sigmas`, so Wan's pipelines and
  /// Flow-Factory's UniPC scheduler. They lower a first sigma of 1 by 1e-6, for UniPC's logarithms; here it is 1.
  case unipc = 3
}

/// How the base points are shifted towards noise.
public enum ScheduleShift: Int32, Sendable, CaseIterable {
  /// σ = s·t / (1 + (s − 1)·t) with s = `ScheduleOptions.shift`; s = 1 leaves t (SD3, arXiv 2403.03206).
  case `static` = 1
  /// σ = e^μ / (e^μ + 1/t − 1) (FLUX). μ from the image size: `Schedule.fluxMu`.
  case exponential = 2
  /// σ = μ / (μ + 1/t − 1) (diffusers' `time_shift_type="linear"`).
  case linear = 3
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

/// Options of `Schedule.make`: by default t_k = 1 − k/T.
public struct ScheduleOptions: Options {
  /// The sigmas before they are shifted.
  public var base = ScheduleBase.linear
  /// How they are shifted.
  public var shiftKind = ScheduleShift.static
  /// s > 0, for a static shift.
  public var shift = 1.0
  /// For the other shifts: −30 … 30 (exponential), > 0 (linear).
  public var mu = 0.0
  /// In (0, 1): the last sigma before the final 0 is stretched to this (LTX-Video, arXiv 2305.08891's idea); nil = none:
  /// 1 − σ ← (1 − σ)/((1 − σ_last)/(1 − terminal)).
  public var terminal: Double?
  /// Of the points between the first and the last of the shifted ones.
  public var spacing = ScheduleSpacing.shifted

  public init() {}

  func check() throws {
    switch shiftKind {
    case .static: try require(shift > 0 && shift.isFinite, "shift = \(shift) must be positive and finite")
    case .exponential: try require(abs(mu) <= 30, "mu = \(mu) is outside -30 … 30")
    case .linear: try require(mu > 0 && mu.isFinite, "mu = \(mu) must be positive and finite for a linear shift")
    }
    if let terminal { try require(terminal > 0 && terminal < 1, "terminal = \(terminal) is outside (0, 1)") }
  }

  /// σ of the time t.
  func shifted(_ t: Double) -> Double {
    switch shiftKind {
    case .static: shift * t / (shift * t + (1 - t))  // exactly 1 at t = 1, whatever the shift
    case .exponential: exp(mu) / (exp(mu) + (1 / t - 1))
    case .linear: mu / (mu + (1 / t - 1))
    }
  }
}
