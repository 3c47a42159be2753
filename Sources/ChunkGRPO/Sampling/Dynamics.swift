import Glibc

/// One sampling step as `x' = a·x + b·v + s·ε`, ε ~ N(0, I).
public struct StepCoefficients: Sendable, Equatable {
  public let a, b, s: Double
}

/// A sampler: a function from (σ, σ', η) to the three numbers of a step.
public enum Dynamics: Int32, Sendable, CaseIterable {
  /// Flow-SDE (Flow-GRPO, arXiv 2505.05470; GCPO `flow_grpo_step`).
  case flowSDE = 1
  /// Dance-SDE (DanceGRPO, arXiv 2505.07818; GCPO `flux_step`).
  case danceSDE = 2
  /// Coefficients-preserving sampling (FlowCPS, arXiv 2509.05952).
  case cps = 3
  /// Euler steps without noise.
  case ode = 4

  /// - Parameter sigmaAfterFirst: σ_1 of the schedule, which stands in for σ = 1 where Flow-SDE divides by 1 − σ.
  func coefficients(sigma: Double, next: Double, eta: Double, sigmaAfterFirst: Double) -> StepCoefficients {
    let delta = sigma - next
    switch self {
    case .flowSDE:
      let g = eta * (sigma / (1 - (sigma == 1 ? sigmaAfterFirst : sigma))).squareRoot()
      return .sde(sigma: sigma, delta: delta, g: g)
    case .danceSDE:
      return .sde(sigma: sigma, delta: delta, g: eta)
    case .cps:
      let s = next * sin(.pi * eta / 2)
      // (σ' − s)(σ' + s), not σ'² − s²: exact at η = 1, and never negative.
      let q = ((next - s) * (next + s)).squareRoot()
      return StepCoefficients(a: (1 - next) + q, b: -sigma * (1 - next) + (1 - sigma) * q, s: s)
    case .ode:
      return StepCoefficients(a: 1, b: -delta, s: 0)
    }
  }
}

extension StepCoefficients {
  /// The Euler–Maruyama step of `dx = (v + g²/(2σ)·(x + (1−σ)·v))·dσ + g·dw`.
  fileprivate static func sde(sigma: Double, delta: Double, g: Double) -> StepCoefficients {
    let drift = g * g / (2 * sigma)
    return StepCoefficients(a: 1 - drift * delta, b: -delta * (1 + drift * (1 - sigma)), s: g * delta.squareRoot())
  }
}
