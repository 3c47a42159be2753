internal import Platform

/// The term of an importance ratio ρ and an advantage A that is minimised.
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
  /// −A·ρ + |A|·(ρ − 1)²/(2ε), with ε = low where ρ < 1, and high above (SPO, arXiv 2401.16025): a parabola with its lowest
  /// point where the clip would begin.
  case spo = 6
  /// −A·(4/τ)·sigmoid(τ·(ρ − 1)), with a temperature τ for A > 0 and another (SAPO, arXiv 2511.20347; TRL, Liger-Kernel).
  case sapo = 7
  /// −A·φ(w)·ℓ_new, without a gradient through φ(w) = e^λ·w^k·e^(−λw), where w = ρ^n is the product of the n step ratios of
  /// the chunk; with k, λ for A ≥ 0 and others (VESPO; TRL, Liger-Kernel: one chunk over everything).
  case vespo = 8
}

/// The policy term of one chunk.
struct PolicyTerm {
  enum Side { case low, high }

  let value: Double
  /// ∂value/∂(the chunk's log ratio), or for CISPO ∂value/∂ℓ_j^new.
  let slope: Double
  /// Which bound took hold of the chunk, if any.
  var clipped: Side?
  /// The term itself is too large for any number.
  var overflows = false
  /// Steps whose log ratio is outside have no slope.
  var free = -Double.infinity...Double.infinity

  func slope(ofStep logRatio: Double) -> Double { free.contains(logRatio) ? slope : 0 }
}

extension Surrogate {
  /// The bounds that a surrogate sets, and the options that it takes.
  private struct Rules {
    /// Bounds on `clip.low`; nil = the surrogate does not clip.
    var low: ClosedRange<Double>?
    var isStrict = false
    var capsRatio = false
    var takesBias = true
    var takesDivergence = false
  }

  private var rules: Rules {
    switch self {
    case .clipped: Rules(low: 0...1, capsRatio: true)
    case .unclipped: Rules()
    case .logClipped: Rules(low: 0 ... .infinity)
    case .cispo: Rules(low: 0...1, takesBias: false)
    case .divergenceMask: Rules(takesDivergence: true)
    case .spo: Rules(low: 0 ... .infinity, isStrict: true)
    case .sapo: Rules()
    case .vespo: Rules(takesBias: false)
    }
  }

  func term(_ chunk: ChunkContext, _ o: ChunkLossOptions) -> PolicyTerm {
    let clip = o.clip
    let (ratio, advantage) = (chunk.ratio, chunk.advantage)
    let side = ratio > 1 ? PolicyTerm.Side.high : .low
    // Where A = 0, no ratio matters.
    let overflows = advantage != 0 && chunk.overflows
    let free = PolicyTerm(value: -advantage * ratio, slope: -advantage * ratio, overflows: overflows)
    switch self {
    case .clipped:
      // max(−A·min(ρ, cap), −A·clip(ρ)), and where A < 0 at most −A·dualClip.
      let (bounded, capped) = (clip.bounded(ratio), min(ratio, o.ratioCap))
      let chosen = -advantage * bounded > -advantage * capped ? bounded : capped
      if advantage < 0 && chosen > o.dualClip {
        return PolicyTerm(value: -advantage * o.dualClip, slope: 0, clipped: .high)
      }
      return chosen == ratio || advantage == 0
        ? PolicyTerm(value: -advantage * chosen, slope: -advantage * ratio, overflows: overflows)
        : PolicyTerm(value: -advantage * chosen, slope: 0, clipped: side)
    case .unclipped:
      return free
    case .logClipped:
      // A log ratio is bounded only where it has moved the advantage's way.
      let range = advantage > 0 ? -.infinity...clip.high : -clip.low ... .infinity
      let mean = chunk.mean { min(max(chunk.logRatio($0), range.lowerBound), range.upperBound) }
      let isClipped = advantage != 0 && chunk.contains { !range.contains(chunk.logRatio($0)) }
      let value = -advantage * min(exp(mean), .greatestFiniteMagnitude)
      return PolicyTerm(
        value: value, slope: value, clipped: isClipped ? (advantage > 0 ? .high : .low) : nil,
        overflows: advantage != 0 && !exp(mean).isFinite, free: range)
    case .cispo:
      let bounded = clip.bounded(ratio)
      return PolicyTerm(
        value: -advantage * bounded * chunk.mean { chunk.new[$0] }, slope: -advantage * bounded,
        clipped: bounded == ratio ? nil : side, overflows: overflows && bounded == ratio)
    case .divergenceMask:
      let moved = advantage > 0 && ratio > 1 || advantage < 0 && ratio < 1
      return moved && chunk.divergence >= o.divergenceThreshold
        ? PolicyTerm(value: 0, slope: 0, clipped: side) : free
    case .spo:
      let (moved, reach) = (ratio - 1, abs(advantage) / (ratio < 1 ? clip.low : clip.high))
      return PolicyTerm(
        value: -advantage * ratio + reach * moved * moved / 2, slope: (-advantage + reach * moved) * ratio,
        clipped: advantage * moved > 0 && abs(moved) > (ratio < 1 ? clip.low : clip.high) ? side : nil,
        overflows: overflows)
    case .sapo:
      let temperature = advantage > 0 ? o.sapo.positive : o.sapo.negative
      let at = temperature * (ratio - 1)
      let (gate, closed) = (1 / (1 + exp(-at)), 1 / (1 + exp(at)))
      return PolicyTerm(value: -advantage * 4 / temperature * gate, slope: -advantage * 4 * gate * closed * ratio)
    case .vespo:
      let (k, lambda) = advantage < 0 ? (o.vespo.kNegative, o.vespo.lambdaNegative) : (o.vespo.k, o.vespo.lambda)
      let logWeight = chunk.moved * Double(chunk.present)
      let weight = exp(logWeight)
      let factor = weight.isFinite ? exp(lambda + k * logWeight - lambda * weight) : 0
      return PolicyTerm(value: -advantage * factor * chunk.mean { chunk.new[$0] }, slope: -advantage * factor)
    }
  }

  /// Throws where an option is out of the surrogate's bounds, or none that it takes.
  func check(_ o: ChunkLossOptions) throws {
    if let low = rules.low {
      try o.clip.check(low: low)
      try require(
        !rules.isStrict || o.clip.low > 0 && o.clip.high > 0 && o.clip.low < .infinity && o.clip.high < .infinity,
        "clip_low = \(o.clip.low), clip_high = \(o.clip.high) must be above 0 and finite: SPO divides by them")
    } else {
      try require(
        o.clip == .gcpo,
        "clip_low = \(o.clip.low), clip_high = \(o.clip.high): this surrogate does not clip; leave them as they are by default"
      )
    }
    try require(o.ratioCap >= 1, "ratio_cap = \(o.ratioCap) must be at least 1")
    try require(o.dualClip > 1, "dual_clip = \(o.dualClip) must be above 1")
    try require(
      o.ratioCap == .infinity || rules.capsRatio, "ratio_cap = \(o.ratioCap) is for the clipped surrogate only")
    try require(
      o.dualClip == .infinity || rules.capsRatio, "dual_clip = \(o.dualClip) is for the clipped surrogate only")
    try require(
      o.ratioCap == .infinity || o.dualClip == .infinity,
      "ratio_cap = \(o.ratioCap) and dual_clip = \(o.dualClip) exclude each other")
    try require(
      rules.takesBias || (o.ratioBias == nil && o.ratioScale == nil),
      "ratio_bias and ratio_scale are not for CISPO and VESPO, whose gradient is that of the log-probability")
    try o.sapo.check(isTaken: self == .sapo)
    try o.vespo.check(isTaken: self == .vespo)
    if rules.takesDivergence {
      try require(o.divergence != nil, "divergence: the divergence mask needs one number per sample and step")
      try require(o.divergenceThreshold >= 0, "divergence_threshold = \(o.divergenceThreshold) must be at least 0")
    } else {
      try require(o.divergence == nil, "divergence is for the divergence mask only")
      try require(
        o.divergenceThreshold == ChunkLossOptions.defaultDivergenceThreshold,
        "divergence_threshold = \(o.divergenceThreshold) is for the divergence mask only")
    }
  }

  /// With its bounds, for people.
  func described(_ o: ChunkLossOptions) -> String {
    if rules.low != nil { return "\(self) to -\(o.clip.low), +\(o.clip.high)" }
    return rules.takesDivergence ? "\(self) from \(o.divergenceThreshold) on" : "\(self)"
  }
}
