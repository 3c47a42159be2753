internal import Platform

/// One sampling step as `x' = a·x + b·v + c·h + s·ε`, ε ~ N(0, I), with h the image that the step before predicted.
public struct StepCoefficients: Sendable, Equatable, BitwiseCopyable {
  public let a, b, s: Double
  /// 0 but for second-order steps.
  public let c: Double

  init(a: Double, b: Double, s: Double, c: Double = 0) {
    self.a = a
    self.b = b
    self.s = s
    self.c = c
  }
}

/// A sampler: a function from the sigmas around a step and η to the numbers of the step.
public enum Dynamics: Int32, Sendable, CaseIterable {
  /// Flow-SDE (Flow-GRPO, arXiv 2505.05470; GCPO `flow_grpo_step`).
  case flowSDE = 1
  /// Dance-SDE (DanceGRPO, arXiv 2505.07818; GCPO `flux_step`).
  case danceSDE = 2
  /// Coefficients-preserving sampling (FlowCPS, arXiv 2509.05952).
  case cps = 3
  /// Euler steps without noise.
  case ode = 4
  /// DPM-Solver++ with noise (arXiv 2211.01095; `sde-dpmsolver++`). Has no η.
  case dpmSDE = 5
  /// DPM-Solver++ without noise.
  case dpmODE = 6
  /// Flow-SDE's form with g = σ_min + (σ_1 − σ_min)·σ (Flow-GRPO's Wan script, where σ_min is 0; Flash-GRPO, arXiv
  /// 2605.15980). Has no η.
  case wanSDE = 7

  /// Whether η = 0, not another case, makes it deterministic.
  var followsEta: Bool { self == .flowSDE || self == .danceSDE || self == .cps }
}

/// The sigmas that the numbers of a step depend on.
struct StepSigmas {
  /// σ and σ'.
  let sigma, next: Double
  /// σ of the step before, for second-order steps; nil for the first step, and for the last, which are of first order.
  let previous: Double?
  /// σ_1 of the schedule, which stands in for σ = 1 where Flow-SDE divides by 1 − σ.
  let afterFirst: Double

  var delta: Double { sigma - next }
}

extension Dynamics {
  func coefficients(_ at: StepSigmas, _ options: SamplerOptions, eta: Double) -> StepCoefficients {
    switch self {
    case .flowSDE:
      let star = at.sigma == 1 ? at.afterFirst : at.sigma
      return .sde(at, g: eta * (at.sigma / (1 - star)).squareRoot())
    case .danceSDE:
      return .sde(at, g: eta)
    case .wanSDE:
      return .sde(at, g: options.wanSigmaMin + (at.afterFirst - options.wanSigmaMin) * at.sigma)
    case .cps:
      let s = at.next * sin(.pi * eta / 2)
      // (σ' − s)(σ' + s), not σ'² − s²: exact at η = 1, and never negative.
      let q = ((at.next - s) * (at.next + s)).squareRoot()
      return StepCoefficients(a: (1 - at.next) + q, b: -at.sigma * (1 - at.next) + (1 - at.sigma) * q, s: s)
    case .ode:
      return StepCoefficients(a: 1, b: -at.delta, s: 0)
    case .dpmSDE:
      // e^{−h} for h = λ' − λ, λ = ln((1−σ)/σ): 0 at both ends of the schedule.
      let decay = (1 - at.sigma) / at.sigma * (at.next / (1 - at.next))
      return .dpm(
        at, keep: at.next / at.sigma * decay, image: (1 - at.next) * (1 - decay * decay),
        s: at.next * (1 - decay * decay).squareRoot())
    case .dpmODE:
      let decay = (1 - at.sigma) / at.sigma * (at.next / (1 - at.next))
      return .dpm(at, keep: at.next / at.sigma, image: (1 - at.next) * (1 - decay), s: 0)
    }
  }
}

extension StepCoefficients {
  /// The Euler–Maruyama step of `dx = (v + g²/(2σ)·(x + (1−σ)·v))·dσ + g·dw`.
  fileprivate static func sde(_ at: StepSigmas, g: Double) -> StepCoefficients {
    let drift = g * g / (2 * at.sigma)
    return StepCoefficients(
      a: 1 - drift * at.delta, b: -at.delta * (1 + drift * (1 - at.sigma)), s: g * at.delta.squareRoot())
  }

  /// x' = keep·x + image·x0 + ½·image·(x0 − h)/r0 + s·ε with x0 = x − σ·v (DPM-Solver++, midpoint).
  fileprivate static func dpm(_ at: StepSigmas, keep: Double, image: Double, s: Double) -> StepCoefficients {
    let second = at.previous.map { 0.5 * image * stepRatio(before: $0, at) } ?? 0
    let x0 = image + second
    return StepCoefficients(a: keep + x0, b: -at.sigma * x0, s: s, c: -second)
  }

  /// 1/r0 = h/h_before: how much longer in λ the step is than the one before. 0 where that one began at σ = 1, λ = −∞.
  private static func stepRatio(before previous: Double, _ at: StepSigmas) -> Double {
    func lambda(_ sigma: Double) -> Double { log1p(-sigma) - log(sigma) }
    if previous == 1 { return 0 }
    return (lambda(at.next) - lambda(at.sigma)) / (lambda(at.sigma) - lambda(previous))
  }
}
