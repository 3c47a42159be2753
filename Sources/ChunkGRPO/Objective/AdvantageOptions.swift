/// How rewards become advantages. The defaults are those of GCPO, DanceGRPO and MixGRPO; `README` of `Tests/fixtures` names
/// the code that each of the others was checked against.
public struct AdvantageOptions: Options {
  /// The number subtracted from a reward.
  public enum Baseline: Int32, Sendable {
    /// The mean of its group.
    case group = 1
    /// The mean of the others of its group (RLOO, arXiv 2402.14740; TRL, verl).
    case leaveOneOut = 2
    /// The mean of all samples (GCPO and DanceGRPO without `use_group`).
    case batch = 3
  }

  /// The divisor of the difference.
  public enum Scale: Int32, Sendable {
    /// The standard deviation of its group.
    case group = 1
    /// That of all samples (Flow-GRPO's `global_std`, Flow-Factory, verl-omni).
    case batch = 2
    /// Nothing (Dr. GRPO, arXiv 2503.20783).
    case none = 3
  }

  public enum Deviation: Int32, Sendable {
    /// Divided by n − 1 (GCPO, DanceGRPO, MixGRPO, TRL, verl).
    case unbiased = 1
    /// Divided by n (Flow-GRPO, Flow-Factory).
    case population = 2
  }

  /// How several rewards per sample become one number.
  public enum Mixing: Int32, Sendable {
    /// Their weighted sum is normalised.
    case sum = 1
    /// Each is normalised, then summed by weight (MixGRPO's `advantage_aggr`).
    case normalisedSum = 2
    /// The same, and the sum is normalised over the batch (GDPO, arXiv 2601.05242; Flow-Factory, TRL).
    case gdpo = 3
  }

  /// Consecutive runs of this many samples, those of one prompt, are compared; it must divide the number of samples. nil =
  /// all are one group.
  public var groupSize: Int?
  /// One id per sample instead: any order, unequal sizes.
  public var groupIDs: Numbers<Int>?
  /// What is taken from a reward.
  public var baseline = Baseline.group
  /// What the difference is divided by.
  public var scale = Scale.group
  /// Which standard deviation `scale` takes.
  public var deviation = Deviation.unbiased
  /// Added to the standard deviation, ≥ 0.
  public var epsilon = 1e-8
  /// The standard deviation is at least this, ≥ 0 (Flow-Factory: 1e-6, with epsilon 0).
  public var floor = 0.0
  /// Share of a group's *lowest* rewards that its mean and deviation leave out, in [0, 1): ⌊n·trim⌋ of them (MixGRPO).
  public var trim = 0.0
  /// The median of a group's advantages is subtracted from them, so that half are positive (GCPO's half-half).
  public var subtractsMedian = false
  /// > 0, `.infinity` for none. The last thing done.
  public var clamp = 5.0
  /// How several rewards become one advantage.
  public var mixing = Mixing.sum
  /// R, rewards per sample, where `rewardWeights` are nil.
  public var rewardCount = 1
  /// R of them; nil = 1 each.
  public var rewardWeights: Numbers<Double>?
  /// (n, R), false = the reward does not apply to the sample and is not read: its group's mean and deviation and the
  /// sample's sum leave it out. Each sample has one that does. nil = all do.
  public var present: Flags?

  /// More rewards per sample than anyone has; keeps a wrong number from filling the memory.
  package static let rewardCounts = 1...1 << 20

  public init() {}

  /// R
  var kinds: Int { rewardWeights?.count ?? rewardCount }
  func weight(_ kind: Int) -> Double { rewardWeights?[kind] ?? 1 }

  /// Checks all that does not depend on the number of samples.
  func check() throws {
    let counts = Self.rewardCounts
    try require(
      counts.contains(rewardCount),
      "reward_count = \(rewardCount) is outside \(counts.lowerBound) … \(counts.upperBound)")
    try require(
      rewardCount == 1 || rewardCount == kinds,
      "reward_weights: \(kinds) of them for reward_count = \(rewardCount)")
    try require(clamp > 0, "clamp = \(clamp) must be positive")
    try require(epsilon >= 0 && epsilon.isFinite, "epsilon = \(epsilon) must be at least 0 and finite")
    try require(floor >= 0 && floor.isFinite, "floor = \(floor) must be at least 0 and finite")
    try require(trim >= 0 && trim < 1, "trim = \(trim) is outside [0, 1)")
    try require(
      baseline != .leaveOneOut || trim == 0, "trim = \(trim) and a leave-one-out baseline exclude each other")
    try require(
      groupIDs == nil || groupSize == nil, "group_ids and group_size = \(groupSize ?? 0) exclude each other")
    if let weights = rewardWeights, let j = weights.firstIndex(where: { !$0.isFinite }) {
      throw ChunkGRPOError.nonFinite("reward_weights[\(j)] = \(weights[j]) is not finite")
    }
  }

  func isPresent(_ sample: Int, _ kind: Int) -> Bool { present?[sample * kinds + kind] ?? true }
}
