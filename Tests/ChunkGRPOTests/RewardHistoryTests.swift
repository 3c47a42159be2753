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
