import ChunkGRPO
import Foundation
import Testing

@Suite("Reward histories of the public code")
struct RewardHistoryFixtureTests {
  @Test("DDPO: a prompt's own history, or the batch while it is short")
  func ddpoHistory() throws {
    let c = try #require(try advantageCases("kvablack/ddpo-pytorch").first)
    var history = try RewardHistory(
      capacity: #require(c.inputs["buffer_size"] as? Int), minCount: #require(c.inputs["min_count"] as? Int))
    let epochs = try #require(c.expected["epochs"] as? [[String: Any]])
    #expect(epochs.count == 4)
    for epoch in epochs {
      let prompts = try #require(epoch["prompts"] as? [String])
      let ours = try history.update(
        prompts: prompts.map { Int($0.unicodeScalars.first?.value ?? 0) },
        rewards: #require(epoch["rewards"] as? [Double]))
      for (a, b) in zip(ours, try #require(epoch["advantages"] as? [Double])) { #expect(abs(a - b) < 1e-6) }
    }
  }
}
