internal import Platform

/// Estimates of KL(policy ‖ reference) from δ = ℓ_ref − ℓ_new (Schulman 2020).
public enum KLEstimator: Int32, Sendable, CaseIterable {
  /// −δ. Its mean is right, its gradient is not that of the KL divergence.
  case k1 = 1
  /// ½·δ² (MixGRPO).
  case k2 = 2
  /// e^δ − 1 − δ (GCPO, TRL).
  case k3 = 3

  /// The estimate and its slope in ℓ_new.
  func callAsFunction(_ delta: Double) -> (value: Double, slope: Double) {
    switch self {
    case .k1: (-delta, 1)
    case .k2: (0.5 * delta * delta, -delta)
    case .k3: (expm1(delta) - delta, -expm1(delta))
    }
  }
}

/// The numbers that a KL estimate is made from.
public enum KLLevel: Int32, Sendable {
  /// The chunk's mean log-probabilities (GCPO).
  case chunk = 1
  /// Each step's; their mean is the chunk's (TRL, also with sequence ratios).
  case step = 2
}

/// The KL term of one chunk, of the policies themselves: without scale and bias.
struct KLTerm {
  let value: Double
  private let estimator: KLEstimator
  /// Of every step alike; nil where each has its own.
  private let slope: Double?

  init(_ chunk: ChunkContext, _ estimator: KLEstimator, _ level: KLLevel) {
    self.estimator = estimator
    switch level {
    case .chunk:
      let ofChunk = estimator(chunk.mean(chunk.delta))
      (value, slope) = (ofChunk.value, ofChunk.slope)
    case .step:
      (value, slope) = (chunk.mean { estimator(chunk.delta($0)).value }, nil)
    }
  }

  func slope(ofStep delta: Double) -> Double { slope ?? estimator(delta).slope }
}
