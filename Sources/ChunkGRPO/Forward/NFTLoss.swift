/// What a distance of NFT is multiplied by.
public enum NFTWeighting: Int32, Sendable, CaseIterable {
  /// t²·d/max(t·a, floor): the distance of the predicted images over their mean absolute one, which has no gradient
  /// (NVlabs/DiffusionNFT; Flow-Factory).
  case adaptive = 1
  /// t²·d, the distance of the predicted images x_t − t·v.
  case image = 2
  /// d
  case velocity = 3
}

/// Which advantages count (NVlabs/DiffusionNFT `adv_mode`).
public enum NFTAdvantages: Int32, Sendable, CaseIterable {
  case all = 1
  /// Negative ones are 0.
  case positiveOnly = 2
  /// Positive ones are 0.
  case negativeOnly = 3
  /// 1 where positive, else 0.
  case oneOnly = 4
  /// Their sign.
  case binary = 5

  func apply(_ a: Double) -> Double {
    switch self {
    case .all: a
    case .positiveOnly: max(a, 0)
    case .negativeOnly: min(a, 0)
    case .oneOnly: a > 0 ? 1 : 0
    case .binary: a > 0 ? 1 : a < 0 ? -1 : 0
    }
  }
}

/// Options of `nftLoss`. The defaults are NVlabs/DiffusionNFT's.
public struct NFTOptions: Options {
  /// β > 0 of the distances of v⁺ and v⁻.
  public var beta = 1.0
  /// > 0.
  public var advantageClip = 5.0
  /// Of the two distances.
  public var weighting = NFTWeighting.adaptive
  /// Which advantages count.
  public var mode = NFTAdvantages.all
  /// > 0; of the adaptive weight.
  public var floor = 1e-5
  /// (B, N) in (0, 1]; for all weightings but `.velocity`.
  public var times: Numbers<Double>?
  /// (B, N): mean |v⁺ − u| and mean |v⁻ − u|, for the adaptive weighting.
  public var positiveAbsolute, negativeAbsolute: Numbers<Double>?
  /// β ≥ 0 of the velocity KL, and its (B, N) numbers.
  public var kl = 0.0
  /// (B, N): mean |v − v_ref|², for a KL weight above 0.
  public var referenceDivergence: Numbers<Double>?

  public init() {}

  func check(size: Int, _ times: Int) throws {
    try checkPositive(beta, "beta")
    try checkPositive(advantageClip, "advantage_clip")
    try checkPositive(floor, "floor")
    if weighting != .velocity {
      guard let own = self.times else {
        throw ChunkGRPOError.invalidArgument("times is null, but the weighting needs it: give it, or weigh velocities")
      }
      try require(own.count == size, "times: \(own.count) numbers instead of \(size)")
      try checkTimes(own)
    }
    guard weighting == .adaptive else { return }
    guard let positiveAbsolute, let negativeAbsolute else {
      throw ChunkGRPOError.invalidArgument(
        "the adaptive weighting needs positive_absolute and negative_absolute: give both, or choose another weighting")
    }
    try checkDistances(positiveAbsolute, "positive_absolute", size: size, times)
    try checkDistances(negativeAbsolute, "negative_absolute", size: size, times)
  }

  /// What the distances of v⁺ and v⁻ are multiplied by.
  func weights(_ i: Int) -> (positive: Double, negative: Double) {
    if weighting == .velocity { return (1, 1) }
    let t = times?[i] ?? 1
    guard weighting == .adaptive, let positiveAbsolute, let negativeAbsolute else { return (t * t, t * t) }
    return (t * t / max(t * positiveAbsolute[i], floor), t * t / max(t * negativeAbsolute[i], floor))
  }
}

/// DiffusionNFT (arXiv 2509.16117; NVlabs/DiffusionNFT scripts/train_nft_sd3.py):
///
///     r    = clamp(A/clip/2 + ½, 0, 1)                        how good the sample is
///     loss = clip/β · mean over samples and times of r·w⁺·d⁺ + (1 − r)·w⁻·d⁻
///
/// - Parameters:
///   - positive, negative: (B, N) distances d⁺ and d⁻ of v⁺ and v⁻.
///   - advantages: (B).
public func nftLoss(
  positive: [Double], negative: [Double], advantages: [Double], options: NFTOptions = NFTOptions()
) throws -> ForwardLoss {
  try forwardLoss(size: positive.count, gradients: 2, hasReference: options.referenceDivergence != nil) {
    try nftLoss(
      positive: Numbers(positive), negative: Numbers(negative), advantages: Numbers(advantages), options: options,
      to: $0)
  }
}

package func nftLoss(
  positive: Numbers<Double>, negative: Numbers<Double>, advantages: Numbers<Double>, options: NFTOptions,
  to output: ForwardLossOutput
) throws -> (loss: Double, stats: ForwardStats) {
  let size = positive.count
  let times = try timesPerSample(size, batch: advantages.count)
  try checkDistances(positive, "positive_distance", size: size, times)
  try checkDistances(negative, "negative_distance", size: size, times)
  try checkAdvantages(advantages)
  try options.check(size: size, times)
  let kl = try ReferenceKL(options.kl, options.referenceDivergence, output, size: size, times)
  let scale = options.advantageClip / options.beta / Double(size)
  var stats = ForwardStats()
  var ofKL = 0.0
  for i in 0..<size {
    let r = optimality(options.mode.apply(advantages[i / times]), clip: options.advantageClip)
    let w = options.weights(i)
    stats.policyLoss += scale * (r * w.positive * positive[i] + (1 - r) * w.negative * negative[i])
    stats.weightMean += r / Double(size)
    output.first?[i] = scale * r * w.positive
    output.second?[i] = scale * (1 - r) * w.negative
    kl.add(i, kl.weight, size: size, to: &ofKL, &stats.kl, output)
  }
  try checkLoss(stats.policyLoss + ofKL)
  return (stats.policyLoss + ofKL, stats)
}
