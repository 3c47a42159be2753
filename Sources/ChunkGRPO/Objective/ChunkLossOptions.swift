/// What of an importance ratio ρ and an advantage A is minimised.
public enum Surrogate: Int32, Sendable, CaseIterable {
  /// max(−A·ρ, −A·clip(ρ)) (PPO, arXiv 1707.06347; every flow-matching code but Flow-DPPO).
  case clipped = 1
  /// −A·ρ.
  case unclipped = 2
  /// −A·exp(mean of min(r_t, high) where A > 0, of max(r_t, −low) where A < 0), r_t the log ratios of the steps: each
  /// step is clipped, in logarithms, before the mean (GMPO, arXiv 2507.20673; verl `geo_mean`).
  case logClipped = 3
  /// −A·clip(ρ)·ℓ_new, without a gradient through clip(ρ) (CISPO, arXiv 2506.13585; verl). TRL caps only from above, at
  /// its `epsilon_high`: low = 1, high = epsilon_high − 1.
  case cispo = 4
  /// −A·ρ, or 0 where the divergence from the old policy is at least the threshold and ρ has moved the advantage's way
  /// (Flow-DPPO; verl-omni).
  case divergenceMask = 5
}

/// Estimates of KL(policy ‖ reference) from δ = ℓ_ref − ℓ_new (Schulman 2020).
public enum KLEstimator: Int32, Sendable, CaseIterable {
  /// −δ. Its mean is right, its gradient is not that of the KL divergence.
  case k1 = 1
  /// ½·δ² (MixGRPO).
  case k2 = 2
  /// e^δ − 1 − δ (GCPO, TRL).
  case k3 = 3
}

/// What a KL estimate is made from.
public enum KLLevel: Int32, Sendable {
  /// The chunk's mean log-probabilities (GCPO).
  case chunk = 1
  /// Each step's; their mean is the chunk's (TRL, also with sequence ratios).
  case step = 2
}

/// Which mean the loss is.
public enum LossAverage: Int32, Sendable {
  /// Over all selected chunks. With chunks of one step that is TRL's `bnpo` and verl's `token-mean`.
  case chunk = 1
  /// Over the selected chunks of each sample, then over the samples that have any (TRL's `grpo`, verl's
  /// `seq-mean-token-mean`).
  case sample = 2
  /// Over all selected chunks, weighted by their number of present steps.
  case step = 3
}

/// Options of `chunkLoss`. The defaults are GCPO's objective.
public struct ChunkLossOptions: Options {
  public var surrogate = Surrogate.clipped
  /// Bounds on ρ: low in [0, 1], high ≥ 0. For `.logClipped`, bounds on log ratios: both ≥ 0. Not for `.unclipped` and
  /// `.divergenceMask`.
  public var clip = ClipRange.gcpo
  /// ρ outside the clip is capped at this too, ≥ 1 (TRL's `delta`, two-sided clipping). With `.clipped` only.
  public var ratioCap = Double.infinity
  /// Where A < 0 the term is at most −A·dualClip, > 1 (dual-clip PPO, arXiv 1912.09729; verl: 3). With `.clipped` only.
  public var dualClip = Double.infinity

  /// β ≥ 0.
  public var kl = 0.0
  public var klEstimator = KLEstimator.k3
  public var klLevel = KLLevel.chunk
  /// (B, S) log-probabilities of a reference policy for the KL estimate; nil = the behaviour policy's.
  public var reference: [Double]?

  public var average = LossAverage.chunk
  /// > 0: the sum that the mean would divide by its count or weight is divided by this instead; nil = the count. With
  /// `.step` or `.chunk`, B times the longest completion is TRL's `dr_grpo`, the tokens of the global batch are its
  /// `dapo`.
  public var normaliser: Double?

  /// (B, K), non-zero = train; nil = all.
  public var selection: [UInt8]?
  /// (B, S), 0 = the step is absent: its log-probabilities are not read, means are over the others, and chunks that
  /// have none are skipped. nil = all are present.
  public var mask: [UInt8]?
  /// (K) or (B, K) weights ≥ 0 of the policy terms; KL terms have none. nil = 1.
  public var weights: [Double]?

  /// (B, S): log ratio of a step = scale·(ℓ_new − ℓ_old + bias). GRPO-Guard (arXiv 2510.22319): bias = the Gaussian
  /// divergence of the old mean, scale = s; see `Sampler.divergence`.
  public var ratioBias: [Double]?
  /// (S), ≥ 0.
  public var ratioScale: [Double]?

  /// (B, S), ≥ 0, with `.divergenceMask` only; a chunk's is the mean over its steps.
  public var divergence: [Double]?
  /// ≥ 0.
  public var divergenceThreshold = Self.defaultDivergenceThreshold

  /// verl-omni's.
  static let defaultDivergenceThreshold = 1e-5

  public init() {}
}

extension ChunkLossOptions {
  /// Everything that does not depend on the batch: each field within its bounds, and none contradicts another.
  func check() throws {
    switch surrogate {
    case .clipped, .cispo:
      try require(clip.low >= 0 && clip.low <= 1, "clip_low = \(clip.low) is outside [0, 1]")
      try require(clip.high >= 0, "clip_high = \(clip.high) must be at least 0")
    case .logClipped:
      try require(clip.low >= 0, "clip_low = \(clip.low) must be at least 0")
      try require(clip.high >= 0, "clip_high = \(clip.high) must be at least 0")
    case .unclipped, .divergenceMask:
      try require(
        clip == .gcpo,
        "clip_low = \(clip.low), clip_high = \(clip.high): this surrogate does not clip; leave them as they are by default"
      )
    }
    try require(ratioCap >= 1, "ratio_cap = \(ratioCap) must be at least 1")
    try require(dualClip > 1, "dual_clip = \(dualClip) must be above 1")
    try require(
      ratioCap == .infinity || surrogate == .clipped, "ratio_cap = \(ratioCap) is for the clipped surrogate only")
    try require(
      dualClip == .infinity || surrogate == .clipped, "dual_clip = \(dualClip) is for the clipped surrogate only")
    try require(
      ratioCap == .infinity || dualClip == .infinity,
      "ratio_cap = \(ratioCap) and dual_clip = \(dualClip) exclude each other")
    try require(kl >= 0 && kl.isFinite, "kl = \(kl) must be at least 0 and finite")
    if let normaliser {
      try require(normaliser > 0 && normaliser.isFinite, "normaliser = \(normaliser) must be positive and finite")
    }
    try require(
      surrogate != .cispo || (ratioBias == nil && ratioScale == nil),
      "ratio_bias and ratio_scale are not for CISPO, whose gradient is that of the log-probability")
    if surrogate == .divergenceMask {
      try require(divergence != nil, "divergence: the divergence mask needs one number a sample and step")
      try require(divergenceThreshold >= 0, "divergence_threshold = \(divergenceThreshold) must be at least 0")
    } else {
      try require(divergence == nil, "divergence is for the divergence mask only")
      try require(
        divergenceThreshold == Self.defaultDivergenceThreshold,
        "divergence_threshold = \(divergenceThreshold) is for the divergence mask only")
    }
  }
}
