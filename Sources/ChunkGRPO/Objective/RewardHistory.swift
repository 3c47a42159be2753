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

  /// The number of rewards that it has.
  public var rewardCount: Int { latest.values.reduce(0) { $0 + $1.count } }

  /// Each prompt with each of its rewards, oldest first. An update of a new history with all of them makes its equal.
  public func forEachReward(_ body: (_ prompt: Int, _ reward: Double) -> Void) {
    for (prompt, rewards) in latest { for reward in rewards { body(prompt, reward) } }
  }
}
