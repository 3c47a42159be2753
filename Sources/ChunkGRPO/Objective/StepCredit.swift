/// What a step has gained, from the rewards before and after it.
public enum Gain: Int32, Sendable, CaseIterable {
  /// R_{k+1} − R_k (DenseGRPO, arXiv 2601.20218; Stepwise-Flow-GRPO, arXiv 2603.28718).
  case step = 1
  /// The same, but R_S − R_k at a turning point: where the step before went against the whole R_S − R_0 and this one goes
  /// its way, and at step 0 where that goes its way (TP-GRPO, arXiv 2602.06422).
  case turningPoint = 2
}

/// Gains (B, S) of rewards (B, S + 1): R_k is the reward of a sample that is completed without noise after k steps, R_0 that
/// of no noise at all.
public func stepGains(_ rewards: [Double], steps: Int, _ gain: Gain = .step) throws -> [Double] {
  try require(steps >= 1, "steps = \(steps) must be at least 1")
  try require(
    !rewards.isEmpty && rewards.count % (steps + 1) == 0,
    "rewards: \(rewards.count) numbers are no rows of \(steps + 1), one more than there are steps")
  let batch = rewards.count / (steps + 1)
  var gains = [Double](repeating: 0, count: batch * steps)
  try stepGains(Numbers(rewards), batch: batch, steps: steps, gain, into: &gains)
  return gains
}

package func stepGains(
  _ rewards: Numbers<Double>, batch: Int, steps: Int, _ gain: Gain, into gains: UnsafeMutablePointer<Double>
) throws {
  for i in 0..<rewards.count where !rewards[i].isFinite {
    let (sample, step) = i.quotientAndRemainder(dividingBy: steps + 1)
    throw ChunkGRPOError.nonFinite("rewards of sample \(sample) after \(step) steps is \(rewards[i])")
  }
  for i in 0..<batch {
    func reward(_ k: Int) -> Double { rewards[i * (steps + 1) + k] }
    /// Whether step k goes the way of the whole (1), against it (−1), or neither.
    func way(_ k: Int) -> Double { sign(reward(k + 1) - reward(k)) * sign(reward(steps) - reward(0)) }
    for k in 0..<steps {
      let turns = gain == .turningPoint && way(k) > 0 && (k == 0 || way(k - 1) < 0)
      gains[i * steps + k] = (turns ? reward(steps) : reward(k + 1)) - reward(k)
      guard gains[i * steps + k].isFinite else {
        throw tooFarApart("the gain of step \(k)", sample: i, gains[i * steps + k])
      }
    }
  }
}

private func sign(_ value: Double) -> Double { value > 0 ? 1 : value < 0 ? -1 : 0 }

/// Advantages (B, S) of a reward or gain for each step, (B, S): each step's are normalised by themselves, as `advantages`
/// does, for `AdvantageLevel.step`.
public func stepAdvantages(_ rewards: [Double], steps: Int, _ options: AdvantageOptions) throws -> [Double] {
  try require(steps >= 1, "steps = \(steps) must be at least 1")
  try require(
    !rewards.isEmpty && rewards.count % steps == 0,
    "rewards: \(rewards.count) numbers are no rows of \(steps), one for each step")
  var result = [Double](repeating: 0, count: rewards.count)
  try stepAdvantages(Numbers(rewards), batch: rewards.count / steps, steps: steps, options, into: &result)
  return result
}

package func stepAdvantages(
  _ rewards: Numbers<Double>, batch: Int, steps: Int, _ options: AdvantageOptions,
  into result: UnsafeMutablePointer<Double>
) throws {
  try checkOneReward(options)
  for i in 0..<rewards.count where !rewards[i].isFinite {
    let (sample, step) = i.quotientAndRemainder(dividingBy: steps)
    throw ChunkGRPOError.nonFinite("rewards of sample \(sample) at step \(step) is \(rewards[i])")
  }
  let own = try Buffer<Double>(count: batch, for: "the rewards of a step")
  let column = try Buffer<Double>(count: batch, for: "the advantages of a step")
  for k in 0..<steps {
    for i in 0..<batch { own[i] = rewards[i * steps + k] }
    try advantages(Numbers(own), options, into: column.base)
    for i in 0..<batch { result[i * steps + k] = column[i] }
  }
}

func checkOneReward(_ o: AdvantageOptions) throws {
  try require(
    o.kinds == 1 && o.rewardWeights == nil,
    "reward_count = \(o.kinds): this function takes one reward, without a weight")
  try require(o.present == nil, "present: this function takes a reward of every sample")
}
