/// The temperatures of `Surrogate.sapo`, > 0: of chunks with A > 0, and of the others. TRL's.
public struct SAPOTemperatures: Sendable, Equatable {
  /// τ where A > 0, and elsewhere.
  public var positive = 1.0, negative = 1.05

  public init() {}

  func check(isTaken: Bool) throws {
    for (name, value, own) in [
      ("sapo_temperature_pos", positive, Self().positive), ("sapo_temperature_neg", negative, Self().negative),
    ] {
      try require(value > 0 && value.isFinite, "\(name) = \(value) must be positive and finite")
      try require(isTaken || value == own, "\(name) = \(value) is for SAPO only")
    }
  }
}

/// The shape of `Surrogate.vespo`: k ≥ 0 and λ > 0 of chunks with A ≥ 0, and of the others. TRL's.
public struct VESPOShape: Sendable, Equatable {
  /// k and λ where A ≥ 0, and elsewhere.
  public var k = 2.0, lambda = 3.0, kNegative = 3.0, lambdaNegative = 2.0

  public init() {}

  func check(isTaken: Bool) throws {
    let own = Self()
    for (name, value) in [("vespo_k_pos", k), ("vespo_k_neg", kNegative)] {
      try require(value >= 0 && value.isFinite, "\(name) = \(value) must be at least 0 and finite")
    }
    for (name, value) in [("vespo_lambda_pos", lambda), ("vespo_lambda_neg", lambdaNegative)] {
      try require(value > 0 && value.isFinite, "\(name) = \(value) must be positive and finite")
    }
    try require(
      isTaken || self == own,
      "vespo_k_pos = \(k), vespo_lambda_pos = \(lambda), vespo_k_neg = \(kNegative), vespo_lambda_neg = \(lambdaNegative): "
        + "they are for VESPO only; leave them as they are by default")
  }
}
