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

/// Who has an advantage.
public enum AdvantageLevel: Int32, Sendable {
  /// Each sample: (B).
  case sample = 1
  /// Each chunk: (B, K).
  case chunk = 2
  /// Each step: (B, S). A chunk's is the mean over its present steps.
  case step = 3

  /// Advantages of one sample.
  package func row(_ plan: ChunkPlan) -> Int {
    switch self {
    case .sample: 1
    case .chunk: plan.count
    case .step: plan.steps
    }
  }

  /// B, of so many advantages.
  func batch(_ count: Int, _ plan: ChunkPlan) throws -> Int {
    let row = row(plan)
    try require(count >= 1, "advantages: there are none")
    try require(
      count % row == 0,
      "advantages: \(count) numbers are no rows of \(row), one for each \(self) of a sample; see advantage_level")
    return count / row
  }
}

/// Options of `chunkLoss`. The defaults are GCPO's objective.
public struct ChunkLossOptions: Options {
  /// What is done with a ratio and an advantage.
  public var surrogate = Surrogate.clipped
  /// Bounds on ρ: low in [0, 1], high ≥ 0. For `.logClipped`, bounds on log ratios: both ≥ 0. Not for `.unclipped` and
  /// `.divergenceMask`.
  public var clip = ClipRange.gcpo
  /// ρ outside the clip is capped at this too, ≥ 1 (TRL's `delta`, two-sided clipping). With `.clipped` only.
  public var ratioCap = Double.infinity
  /// Where A < 0 the term is at most −A·dualClip, > 1 (dual-clip PPO, arXiv 1912.09729; verl: 3). With `.clipped` only.
  public var dualClip = Double.infinity

  /// With `.sapo` only.
  public var sapo = SAPOTemperatures()
  /// With `.vespo` only.
  public var vespo = VESPOShape()

  /// β ≥ 0.
  public var kl = 0.0
  /// The estimate that `kl` weighs.
  public var klEstimator = KLEstimator.k3
  /// Whether it is of chunks or of steps.
  public var klLevel = KLLevel.chunk
  /// (B), ≥ 0: factors of β for each sample (GARDO, arXiv 2512.24138, has 1 where the reward is uncertain and 0 elsewhere).
  /// nil = 1.
  public var klWeights: Numbers<Double>?
  /// (B, S) log-probabilities of a reference policy for the KL estimate; nil = the behaviour policy's.
  public var reference: Numbers<Double>?

  /// What the advantages are of.
  public var advantageLevel = AdvantageLevel.sample

  /// How chunks, or steps, of samples become one loss.
  public var average = LossAverage.chunk
  /// > 0: divide the summed loss by this instead of by the count; nil = the count. With `.step` or `.chunk`, B times the
  /// longest completion is TRL's `dr_grpo`, the tokens of the global batch are its `dapo`.
  public var normaliser: Double?

  /// (B, K), which chunks of which sample to train: what the steps of the others are is not read. nil = all.
  public var selection: Flags?
  /// (B, S), false = the step is absent: its log-probabilities are not read, means are over the others, and chunks that
  /// have none are skipped. nil = all are present.
  public var mask: Flags?
  /// (K) or (B, K) weights ≥ 0 of the policy terms; KL terms have none. nil = 1.
  public var weights: Numbers<Double>?

  /// (B, S): log ratio of a step = scale·(ℓ_new − ℓ_old + bias). GRPO-Guard (arXiv 2510.22319): bias = the Gaussian
  /// divergence of the old mean, scale = s; see `Sampler.divergence`.
  public var ratioBias: Numbers<Double>?
  /// (S), ≥ 0.
  public var ratioScale: Numbers<Double>?

  /// (B, S), ≥ 0, with `.divergenceMask` only; a chunk's is the mean over its steps.
  public var divergence: Numbers<Double>?
  /// ≥ 0.
  public var divergenceThreshold = Self.defaultDivergenceThreshold

  /// verl-omni's.
  static let defaultDivergenceThreshold = 1e-5

  public init() {}
}

extension ChunkLossOptions {
  /// Everything that does not depend on the batch: each field within its bounds, and none contradicts another.
  func check() throws {
    try surrogate.check(self)
    try require(kl >= 0 && kl.isFinite, "kl = \(kl) must be at least 0 and finite")
    if let normaliser {
      try require(normaliser > 0 && normaliser.isFinite, "normaliser = \(normaliser) must be positive and finite")
    }
  }
}
