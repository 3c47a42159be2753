/// How rewards become advantages. The defaults are those of GCPO, DanceGRPO and MixGRPO; `README` of `Tests/fixtures` names
/// the code that each of the others was checked against.
public struct AdvantageOptions: Sendable, Equatable {
  /// Which samples are compared: those of one prompt.
  public enum Groups: Sendable, Equatable {
    case all
    /// Neighbours, so many a group; must divide the number of samples.
    case size(Int)
    /// One id a sample, in any order; groups may be of unequal size.
    case ids([Int])
  }

  /// What is subtracted from a reward.
  public enum Baseline: Int32, Sendable {
    /// The mean of its group.
    case group = 1
    /// The mean of the others of its group (RLOO, arXiv 2402.14740; TRL, verl).
    case leaveOneOut = 2
    /// The mean of all samples (GCPO and DanceGRPO without `use_group`).
    case batch = 3
  }

  /// What the difference is divided by.
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

  /// How several rewards a sample become one number.
  public enum Mixing: Int32, Sendable {
    /// Their weighted sum is normalised.
    case sum = 1
    /// Each is normalised, then summed by weight (MixGRPO's `advantage_aggr`).
    case normalisedSum = 2
    /// The same, and the sum is normalised over the batch (GDPO, arXiv 2601.05242; Flow-Factory, TRL).
    case gdpo = 3
  }

  public var groups = Groups.all
  public var baseline = Baseline.group
  public var scale = Scale.group
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
  public var mixing = Mixing.sum
  /// One a reward; nil = 1 each.
  public var rewardWeights: [Double]?

  public init() {}
}

/// Group-relative advantages: (r − mean_g) / (std_g + ε) with the unbiased standard deviation, then clamped
/// (GCPO, DanceGRPO, MixGRPO).
///
/// **Edge cases**: a group of one, or whose rewards are all equal, gives zeros.
///
/// - Parameters:
///   - rewards: one a sample; the samples of a group are neighbours.
///   - groupSize: must divide the number of rewards; nil = all are one group.
///   - clamp: > 0, `.infinity` for none.
public func advantages(
  _ rewards: [Double], groupSize: Int? = nil, clamp: Double = 5, epsilon: Double = 1e-8
) throws -> [Double] {
  var options = AdvantageOptions()
  options.groups = groupSize.map { .size($0) } ?? .all
  options.clamp = clamp
  options.epsilon = epsilon
  return try advantages(rewards, options)
}

/// Advantages (n) of rewards (n, R), row-major: R = the number of `rewardWeights`, 1 without.
///
/// **Edge cases**: a group of one, or whose rewards are all equal, gives zeros, where GCPO has NaN and verl the raw reward.
public func advantages(_ rewards: [Double], _ options: AdvantageOptions) throws -> [Double] {
  let weights = options.rewardWeights ?? [1]
  let kinds = weights.count
  try require(kinds >= 1 && !rewards.isEmpty, "rewards: there are none")
  try require(
    rewards.count % kinds == 0, "rewards: \(rewards.count) numbers are no rows of \(kinds), one for each reward weight")
  let count = rewards.count / kinds
  try check(options, weights)
  if let i = rewards.firstIndex(where: { !$0.isFinite }) {
    throw ChunkGRPOError.nonFinite("rewards[\(i)] = \(rewards[i]) is not finite")
  }
  let groups = try members(options.groups, count: count)
  func column(_ j: Int) -> [Double] { (0..<count).map { rewards[$0 * kinds + j] } }

  var result: [Double]
  switch options.mixing {
  case .sum:
    let mixed = (0..<count).map { i in (0..<kinds).reduce(0) { $0 + weights[$1] * rewards[i * kinds + $1] } }
    try checkFinite(mixed, "the weighted sum of the rewards")
    result = try normalised(mixed, groups, options)
  case .normalisedSum, .gdpo:
    result = [Double](repeating: 0, count: count)
    for j in 0..<kinds {
      let part = try normalised(column(j), groups, options)
      for i in 0..<count { result[i] += weights[j] * part[i] }
    }
    if options.mixing == .gdpo {
      var whole = options
      (whole.baseline, whole.scale, whole.trim, whole.subtractsMedian) = (.batch, .batch, 0, false)
      result = try normalised(result, [Array(0..<count)], whole)
    }
  }
  try checkFinite(result, "the advantage")
  return result.map { max(-options.clamp, min(options.clamp, $0)) }
}

private func checkFinite(_ values: [Double], _ what: String) throws {
  if let i = values.firstIndex(where: { !$0.isFinite }) {
    throw ChunkGRPOError.nonFinite("\(what) of sample \(i) is \(values[i]): rewards are too far apart")
  }
}

/// The best and the worst of n scores: which `keep` of them to train on, ⌈keep/2⌉ of the highest and ⌊keep/2⌋ of the lowest
/// (DanceGRPO's best-of-n, over the whole batch). 1 or 0 for each score; of equal scores the earlier count as lower.
public func bestOfN(_ scores: [Double], keep: Int) throws -> [UInt8] {
  try require((1...max(1, scores.count)).contains(keep), "keep = \(keep) is outside 1 … \(scores.count)")
  if let i = scores.firstIndex(where: { !$0.isFinite }) {
    throw ChunkGRPOError.nonFinite("scores[\(i)] = \(scores[i]) is not finite")
  }
  let order = scores.indices.sorted { (scores[$0], $0) < (scores[$1], $1) }
  var chosen = [UInt8](repeating: 0, count: scores.count)
  for i in order.suffix((keep + 1) / 2) + order.prefix(keep / 2) { chosen[i] = 1 }
  return chosen
}

/// Advantages against each prompt's own recent rewards (kvablack/ddpo-pytorch `PerPromptStatTracker`, arXiv 2305.13301):
/// (r − mean) / (std + 1e-6) with the population's standard deviation, over the latest `capacity` rewards of the prompt, or
/// over the batch while there are fewer than `minCount`.
///
/// Flow-GRPO's tracker descends from it, but fails on a second update.
public struct RewardHistory: Sendable {
  public let capacity, minCount: Int
  private var latest: [Int: [Double]] = [:]

  public init(capacity: Int, minCount: Int) throws {
    try require((1...1 << 24).contains(capacity), "capacity = \(capacity) is outside 1 … 2^24")
    try require(
      (1...capacity).contains(minCount), "min_count = \(minCount) is outside 1 … \(capacity), the capacity")
    self.capacity = capacity
    self.minCount = minCount
  }

  /// Takes the rewards of a batch in and returns their advantages.
  public mutating func update(prompts: [Int], rewards: [Double]) throws -> [Double] {
    try require(
      !rewards.isEmpty && prompts.count == rewards.count, "\(prompts.count) prompts for \(rewards.count) rewards")
    if let i = rewards.firstIndex(where: { !$0.isFinite }) {
      throw ChunkGRPOError.nonFinite("rewards[\(i)] = \(rewards[i]) is not finite")
    }
    var updated = latest
    for (prompt, reward) in zip(prompts, rewards) { updated[prompt, default: []].append(reward) }
    for prompt in Set(prompts) { updated[prompt] = updated[prompt].map { Array($0.suffix(capacity)) } }
    let advantages = zip(prompts, rewards).map { prompt, reward in
      let own = updated[prompt] ?? []
      let basis = own.count < minCount ? rewards : own
      let mean = basis.reduce(0, +) / Double(basis.count)
      let deviation = deviation(basis, mean, .population)
      return deviation.isFinite ? (reward - mean) / (deviation + 1e-6) : .nan
    }
    try checkFinite(advantages, "the advantage")
    latest = updated
    return advantages
  }
}

// MARK: - Parts

private func check(_ o: AdvantageOptions, _ weights: [Double]) throws {
  try require(o.clamp > 0, "clamp = \(o.clamp) must be positive")
  try require(o.epsilon >= 0 && o.epsilon.isFinite, "epsilon = \(o.epsilon) must be at least 0 and finite")
  try require(o.floor >= 0 && o.floor.isFinite, "floor = \(o.floor) must be at least 0 and finite")
  try require(o.trim >= 0 && o.trim < 1, "trim = \(o.trim) is outside [0, 1)")
  try require(
    o.baseline != .leaveOneOut || o.trim == 0, "trim = \(o.trim) and a leave-one-out baseline exclude each other")
  if let j = weights.firstIndex(where: { !$0.isFinite }) {
    throw ChunkGRPOError.nonFinite("reward_weights[\(j)] = \(weights[j]) is not finite")
  }
}

/// Indices of each group.
private func members(_ groups: AdvantageOptions.Groups, count: Int) throws -> [[Int]] {
  switch groups {
  case .all: return [Array(0..<count)]
  case .size(let size):
    try require(
      size >= 1 && count % size == 0, "group_size = \(size) does not divide the \(count) rewards")
    return stride(from: 0, to: count, by: size).map { Array($0..<$0 + size) }
  case .ids(let ids):
    try require(ids.count == count, "group_ids: \(ids.count) of them for \(count) rewards")
    return Array(Dictionary(grouping: 0..<count) { ids[$0] }.values)
  }
}

private func normalised(_ rewards: [Double], _ groups: [[Int]], _ o: AdvantageOptions) throws -> [Double] {
  var result = [Double](repeating: 0, count: rewards.count)
  let batch = try statistics(rewards, o)
  for group in groups {
    let own = group.map { rewards[$0] }
    // Equal rewards say nothing; rounding of their mean would. Against the batch they do.
    if o.baseline != .batch && own.allSatisfy({ $0 == own[0] }) { continue }
    if o.baseline == .batch && rewards.allSatisfy({ $0 == rewards[0] }) { continue }
    let ofGroup = try own.count > 1 ? statistics(own, o) : (mean: own[0], deviation: 0)
    let scale =
      switch o.scale {
      case .group: max(ofGroup.deviation, o.floor) + o.epsilon
      case .batch: max(batch.deviation, o.floor) + o.epsilon
      case .none: 1.0
      }
    guard scale.isFinite && scale > 0 else {
      throw ChunkGRPOError.nonFinite(
        "rewards are too far apart, or too close, to be divided by their standard deviation \(scale)")
    }
    var advantages = own.map { reward in
      switch o.baseline {
      case .group: (reward - ofGroup.mean) / scale
      case .leaveOneOut: (reward - ofGroup.mean) * Double(own.count) / Double(own.count - 1) / scale
      case .batch: (reward - batch.mean) / scale
      }
    }
    if o.subtractsMedian {
      let middle = median(advantages)
      advantages = advantages.map { $0 - middle }
    }
    for (i, advantage) in zip(group, advantages) { result[i] = advantage }
  }
  return result
}

private func statistics(_ rewards: [Double], _ o: AdvantageOptions) throws -> (mean: Double, deviation: Double) {
  let dropped = Int(Double(rewards.count) * o.trim)
  let kept = dropped == 0 ? rewards : Array(rewards.sorted().dropFirst(dropped))
  try require(
    kept.count >= 2 || rewards.count < 2,
    "trim = \(o.trim) leaves \(kept.count) of \(rewards.count) rewards; a deviation needs two")
  let mean = kept.reduce(0, +) / Double(kept.count)
  return (mean, kept.count < 2 ? 0 : deviation(kept, mean, o.deviation))
}

private func deviation(_ values: [Double], _ mean: Double, _ form: AdvantageOptions.Deviation) -> Double {
  let count = form == .unbiased ? values.count - 1 : values.count
  return (values.reduce(0) { $0 + ($1 - mean) * ($1 - mean) } / Double(count)).squareRoot()
}

private func median(_ values: [Double]) -> Double {
  let sorted = values.sorted()
  let middle = sorted.count / 2
  return sorted.count % 2 == 1 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2
}
