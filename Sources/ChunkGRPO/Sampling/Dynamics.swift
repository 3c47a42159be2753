internal import Platform

/// One sampling step as `x' = a·x + b·v + c·h + s·ε`, ε ~ N(0, I), with h the image that the step before predicted.
public struct StepCoefficients: Sendable, Equatable, BitwiseCopyable {
  /// Of the latents, of the velocity, and the standard deviation of the noise.
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
  /// CPS whose noise is that of the exact reverse SDE (Precise, arXiv 2605.23522). η = √2 is first-order `dpmSDE`.
  case precise = 8
  /// The same for Dance-SDE's constant g (Precise's code, `dance_precise`).
  case preciseDance = 9
  /// Flow-SDE whose variance is integrated over the step (SAGE-GRPO; its code's `sage_grpo` with `sde_solver`).
  case sage = 10
  /// Wan's SDE with η: g = η·(σ_min + (σ_1 − σ_min)·σ) (Flash-GRPO, arXiv 2605.15980; Tencent-Hunyuan/UniRL).
  case flashSDE = 11
  /// CPS with EDM's churn γ = η, any number ≥ 0: the step goes past σ' and comes back by new noise (arXiv 2206.00364;
  /// FDFO, arXiv 2603.12893, `edm_step`).
  case edmChurn = 12
  /// CPS whose noise is all new: the predicted image, noised anew (consistency models; CM-GRPO, arXiv 2605.15190). Has
  /// no η.
  case consistency = 13

  /// Whether η = 0, not another case, makes it deterministic.
  package var followsEta: Bool {
    switch self {
    case .flowSDE, .danceSDE, .cps, .precise, .preciseDance, .sage, .flashSDE, .edmChurn: true
    case .ode, .dpmSDE, .dpmODE, .wanSDE, .consistency: false
    }
  }
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
  /// e^{−h} for h = λ' − λ, λ = ln((1−σ)/σ): 0 at both ends of the schedule.
  var decay: Double { (1 - sigma) / sigma * (next / (1 - next)) }
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
    case .flashSDE:
      return .sde(at, g: eta * (options.wanSigmaMin + (at.afterFirst - options.wanSigmaMin) * at.sigma))
    case .sage:
      // ∫ σ/(1 − σ) dσ over the step, away from its pole at σ = 1.
      let variance = log((1 - at.next) / (1 - min(at.sigma, 1 - 3e-3))) - at.delta
      return .sde(at, g: eta == 0 ? 0 : eta * (variance / at.delta).squareRoot())
    case .cps:
      let s = at.next * sin(.pi * eta / 2)
      // (σ' − s)(σ' + s), not σ'² − s²: exact at η = 1, and never negative.
      return .preserving(at, kept: ((at.next - s) * (at.next + s)).squareRoot(), s: s)
    case .precise:
      return .preserving(at, logKept: eta == 0 ? 0 : eta * eta / 2 * log(at.decay))
    case .preciseDance:
      return .preserving(at, logKept: eta == 0 ? 0 : -eta * eta / 2 * (1 / at.next - 1 / at.sigma))
    case .edmChurn:
      return .preserving(at, logKept: -log1p(eta))
    case .consistency:
      return .preserving(at, kept: 0, s: at.next)
    case .ode:
      return StepCoefficients(a: 1, b: -at.delta, s: 0)
    case .dpmSDE:
      let decay = at.decay
      return .dpm(
        at, keep: at.next / at.sigma * decay, image: (1 - at.next) * (1 - decay * decay),
        s: at.next * (1 - decay * decay).squareRoot())
    case .dpmODE:
      return .dpm(at, keep: at.next / at.sigma, image: (1 - at.next) * (1 - at.decay), s: 0)
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

  /// x' = (1 − σ')·x0 + kept·x1 + s·ε with x0 = x − σ·v, x1 = x + (1 − σ)·v and kept² + s² = σ'² (FlowCPS).
  fileprivate static func preserving(_ at: StepSigmas, kept: Double, s: Double) -> StepCoefficients {
    StepCoefficients(a: (1 - at.next) + kept, b: -at.sigma * (1 - at.next) + (1 - at.sigma) * kept, s: s)
  }

  /// The same by the logarithm of kept/σ'.
  fileprivate static func preserving(_ at: StepSigmas, logKept: Double) -> StepCoefficients {
    .preserving(at, kept: at.next * exp(logKept), s: at.next * (-expm1(2 * logKept)).squareRoot())
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
