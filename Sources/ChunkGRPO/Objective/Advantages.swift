/// Group-relative advantages: (r − mean_g) / (std_g + ε) with the unbiased standard deviation, then clamped
/// (GCPO, DanceGRPO, MixGRPO).
///
/// **Edge cases**: a group of one, or whose rewards are all equal, gives zeros.
///
/// - Parameters:
///   - rewards: one per sample; the samples of a group are neighbours.
///   - groupSize: must divide the number of rewards; nil = all are one group.
///   - clamp: > 0, `.infinity` for none.
public func advantages(
  _ rewards: [Double], groupSize: Int? = nil, clamp: Double = AdvantageOptions().clamp,
  epsilon: Double = AdvantageOptions().epsilon
) throws -> [Double] {
  try advantages(rewards, AdvantageOptions { ($0.groupSize, $0.clamp, $0.epsilon) = (groupSize, clamp, epsilon) })
}

/// Advantages (n) of rewards (n, R), row-major: R = the number of `rewardWeights`, or
/// `rewardCount`.
///
/// **Edge cases**: a group of one, or whose rewards are all equal, gives zeros, where GCPO has NaN and verl the raw reward.
public func advantages(_ rewards: [Double], _ options: AdvantageOptions) throws -> [Double] {
  let weights = try options.checkedWeights()
  let kinds = weights.count
  try require(kinds >= 1 && !rewards.isEmpty, "rewards: there are none")
  try require(
    rewards.count % kinds == 0, "rewards: \(rewards.count) numbers are no rows of \(kinds), one for each reward weight")
  let count = rewards.count / kinds
  if let i = rewards.firstIndex(where: { !$0.isFinite }) {
    throw ChunkGRPOError.nonFinite("rewards[\(i)] = \(rewards[i]) is not finite")
  }
  let groups = try members(options, count: count)
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

func checkFinite(_ values: [Double], _ what: String) throws {
  if let i = values.firstIndex(where: { !$0.isFinite }) {
    throw ChunkGRPOError.nonFinite("\(what) of sample \(i) is \(values[i]): rewards are too far apart")
  }
}

// MARK: - Parts

/// Indices of each group.
private func members(_ o: AdvantageOptions, count: Int) throws -> [[Int]] {
  if let ids = o.groupIDs {
    try require(ids.count == count, "group_ids: \(ids.count) of them for \(count) rewards")
    // In the samples' order: a dictionary's own order is another in each process, and so would be the group that an
    // error names.
    return Dictionary(grouping: 0..<count) { ids[$0] }.values.sorted { $0[0] < $1[0] }
  }
  let size = o.groupSize ?? count
  try require(size >= 1 && count % size == 0, "group_size = \(size) does not divide the \(count) rewards")
  return stride(from: 0, to: count, by: size).map { Array($0..<$0 + size) }
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

func deviation(_ values: [Double], _ mean: Double, _ form: AdvantageOptions.Deviation) -> Double {
  let count = form == .unbiased ? values.count - 1 : values.count
  return (values.reduce(0) { $0 + ($1 - mean) * ($1 - mean) } / Double(count)).squareRoot()
}

private func median(_ values: [Double]) -> Double {
  let sorted = values.sorted()
  let middle = sorted.count / 2
  return sorted.count % 2 == 1 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2
}
