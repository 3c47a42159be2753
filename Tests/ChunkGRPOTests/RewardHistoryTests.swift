import ChunkGRPO
import Testing

@Suite("Reward histories")
struct RewardHistoryTests {
  @Test("A prompt is compared with its own latest rewards, once there are enough")
  func latest() throws {
    var history = try RewardHistory(capacity: 2, minCount: 2)
    let first = try history.update(prompts: [1, 2], rewards: [0, 2])
    #expect(first.map { $0.rounded() } == [-1, 1])  // against the batch
    let second = try history.update(prompts: [1, 1], rewards: [4, 6])  // of prompt 1: 4 and 6
    #expect(second.map { $0.rounded() } == [-1, 1])
  }

  @Test("A history is each prompt's latest rewards, however many updates, and is linear in them")
  func manyUpdates() throws {
    var history = try RewardHistory(capacity: 5, minCount: 3)
    var plain: [Int: [Double]] = [:]
    for round in 0..<40 {
      let rewards = try normals(17, seed: UInt64(round))
      let prompts = rewards.indices.map { ($0 * $0 + round) % 7 - 3 }
      for (prompt, reward) in zip(prompts, rewards) { plain[prompt, default: []].append(reward) }
      for prompt in prompts { plain[prompt] = plain[prompt].map { Array($0.suffix(5)) } }
      let expected = zip(prompts, rewards).map { prompt, reward in
        let own = plain[prompt] ?? []
        let basis = own.count < 3 ? rewards : own
        let mean = basis.reduce(0, +) / Double(basis.count)
        let deviation = (basis.reduce(0) { $0 + ($1 - mean) * ($1 - mean) } / Double(basis.count)).squareRoot()
        return (reward - mean) / (deviation + 1e-6)
      }
      #expect(try history.update(prompts: prompts, rewards: rewards) == expected)
    }
    var long = try RewardHistory(capacity: 1 << 24, minCount: 1)
    let start = ContinuousClock.now
    _ = try long.update(prompts: Array(repeating: 1, count: 1 << 20), rewards: (0..<1 << 20).map { Double($0 % 7) })
    #expect(ContinuousClock.now - start < .seconds(5))
  }

  @Test("A refused update leaves the history as it was")
  func refused() throws {
    var history = try RewardHistory(capacity: 4, minCount: 1)
    var untouched = history
    #expect(error { _ = try history.update(prompts: [1, 1], rewards: [1, .nan]) }?.code == .nonFinite)
    #expect(error { _ = try history.update(prompts: [1], rewards: [1, 2]) }?.code == .invalidArgument)
    #expect(error { _ = try RewardHistory(capacity: 2, minCount: 3) }?.message.contains("min_count") == true)
    let (prompts, rewards) = ([1, 1, 2, 2], [1.0, 2, 3, 5])
    #expect(
      try history.update(prompts: prompts, rewards: rewards) == untouched.update(prompts: prompts, rewards: rewards))
  }
}
