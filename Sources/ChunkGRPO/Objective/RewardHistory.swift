/// Advantages against each prompt's own recent rewards (kvablack/ddpo-pytorch `PerPromptStatTracker`, arXiv 2305.13301):
/// (r − mean) / (std + 1e-6) with the population's standard deviation, over the latest `capacity` rewards of the prompt, or
/// over the batch while there are fewer than `minCount`.
///
/// Flow-GRPO's tracker descends from it, but fails on a second update.
public struct RewardHistory: Sendable {
  /// Rewards kept per prompt; with fewer than `minCount` of them the batch gives mean and deviation.
  public let capacity, minCount: Int
  private var latest = LatestRewards()

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
    var result = [Double](repeating: 0, count: rewards.count)
    try prompts.withUnsafeBufferPointer { prompts in
      try rewards.withUnsafeBufferPointer { rewards in
        try update(prompts: Numbers(borrowing: prompts), rewards: Numbers(borrowing: rewards), advantages: &result)
      }
    }
    return result
  }

  /// As many prompts as rewards. After an error the history is as it was.
  package mutating func update(
    prompts: Numbers<Int>, rewards: Numbers<Double>, advantages: UnsafeMutablePointer<Double>
  ) throws {
    if let i = rewards.firstIndex(where: { !$0.isFinite }) {
      throw ChunkGRPOError.nonFinite("rewards[\(i)] = \(rewards[i]) is not finite")
    }
    let batch = try sorted(count: rewards.count, for: "the prompts of a batch") { prompts[$0] }
    let updated = try latest.adding(batch, rewards, capacity: capacity)
    let ofBatch = Moments(rewards)
    var place = 0
    for row in 0..<updated.count where place < batch.count && batch[place].key == updated.prompts[row] {
      let own = updated.range(row)
      let moments = own.count < minCount ? ofBatch : Moments(updated.rewards, own)
      while place < batch.count && batch[place].key == updated.prompts[row] {
        let i = batch[place].index
        advantages[i] = moments.advantage(rewards[i])
        guard advantages[i].isFinite else { throw tooFarApart("the advantage", sample: i, advantages[i]) }
        place += 1
      }
    }
    latest = updated
  }

  /// The number of rewards that it has.
  public var rewardCount: Int { latest.rewards.count }

  /// Each prompt with each of its rewards, oldest first. An update of a new history with all of them makes its equal.
  public func forEachReward(_ body: (_ prompt: Int, _ reward: Double) -> Void) {
    for row in 0..<latest.count {
      for i in latest.range(row) { body(latest.prompts[row], latest.rewards[i]) }
    }
  }
}

/// Mean and the population's standard deviation.
private struct Moments {
  let mean, deviation: Double

  init(_ values: Numbers<Double>, _ range: Range<Int>? = nil) {
    let range = range ?? 0..<values.count
    let count = Double(range.count)
    let mean = range.reduce(0) { $0 + values[$1] } / count
    self.mean = mean
    deviation = (range.reduce(0) { $0 + (values[$1] - mean) * (values[$1] - mean) } / count).squareRoot()
  }

  func advantage(_ reward: Double) -> Double {
    deviation.isFinite ? (reward - mean) / (deviation + 1e-6) : .nan
  }
}

/// The latest rewards of each prompt, one prompt after the other, the oldest first. It never changes: the next one is made
/// beside it, so that memory that is missing leaves a history as it was.
private struct LatestRewards: Sendable {
  /// Rising.
  var prompts: Numbers<Int> = []
  /// Rewards of prompt p: starts[p] ..< starts[p + 1].
  var starts: Numbers<Int> = [0]
  var rewards: Numbers<Double> = []

  var count: Int { prompts.count }
  func range(_ row: Int) -> Range<Int> { starts[row]..<starts[row + 1] }

  /// These and those of a batch, sorted by prompt: of each prompt the latest `capacity`.
  func adding(_ batch: Buffer<Placed<Int>>, _ new: Numbers<Double>, capacity: Int) throws -> LatestRewards {
    let purpose = "a history of rewards"
    let (rows, size) = (count + batch.count, rewards.count + new.count)
    let newPrompts = try Buffer<Int>(count: rows, for: purpose)
    let newStarts = try Buffer<Int>(count: rows + 1, for: purpose)
    let newRewards = try Buffer<Double>(count: size, for: purpose)
    var (row, place, found, end) = (0, 0, 0, 0)
    while row < count || place < batch.count {
      let prompt = min(
        row < count ? prompts[row] : .max, place < batch.count ? batch[place].key : .max)
      let old = row < count && prompts[row] == prompt ? range(row) : 0..<0
      if !old.isEmpty { row += 1 }
      let first = place
      while place < batch.count && batch[place].key == prompt { place += 1 }
      let surplus = max(0, old.count + place - first - capacity)
      for i in old.dropFirst(surplus) {
        newRewards[end] = rewards[i]
        end += 1
      }
      for i in first + max(0, surplus - old.count)..<place {
        newRewards[end] = new[batch[i].index]
        end += 1
      }
      newPrompts[found] = prompt
      found += 1
      newStarts[found] = end
    }
    return LatestRewards(
      prompts: Numbers(newPrompts, count: found), starts: Numbers(newStarts, count: found + 1),
      rewards: Numbers(newRewards, count: end))
  }
}
