import ChunkGRPO
import ChunkGRPOTraining
import Testing

@Suite("Iterations")
struct IterationTests {
  private struct Stop: Error {}

  @Test("Chunk-GRPO raises the reward, and the first ratios are 1 up to the rounding of a product")
  func iterationsRaiseReward() throws {
    let trainer = try pretrained()
    let reports = try trainer.iterate(60)
    let first = reports[..<5].map(\.rewardMean).reduce(0, +) / 5
    let last = reports[55...].map(\.rewardMean).reduce(0, +) / 5
    #expect(last > first + 0.5)
    #expect(trainer.iterations == 60 && reports[59].iteration == 60)

    var options = tinyOptions()
    options.updatesPerRollout = 1
    let stats = try pretrained(options).iterate(1)[0].stats
    #expect(abs(stats.ratioMin - 1) < 1e-6 && abs(stats.ratioMax - 1) < 1e-6)
    #expect(stats.selected == 2 * 8)  // half of two chunks of four, of sixteen samples
  }

  @Test("The gradient is the mean over all chunks, in however many passes it is taken")
  func gradientOfManyPasses() throws {
    var options = tinyOptions()
    options.updatesPerRollout = 1
    /// The norm for prompts of both classes, eight samples each.
    func norm(prompts: Int) throws -> Double {
      let conditions = (0..<prompts).flatMap { $0 % 2 == 0 ? [1, 0] : [0, 1] as [Float] }
      return try pretrained(options).iterate(conditions: conditions) { images, prompts in
        prompts.indices.map { Double(images[2 * $0 + 1]) }
      }.gradNorm
    }
    let few = try norm(prompts: 8)
    let many = try norm(prompts: 256)  // eight lanes of two passes and more
    #expect(many > 0.2 * few && many < 1.5 * few, "\(few), \(many)")
  }

  @Test("A reward that fails or is not finite leaves the trainer as it was")
  func failingRewardChangesNothing() throws {
    let trainer = try pretrained()
    try trainer.iterate(2)
    let before = (try trainer.samples(.trained), try trainer.samples(.averaged))
    #expect(throws: Stop.self) {
      try trainer.iterate(conditions: oneHots) { _, _ in throw Stop() }
    }
    let thrown = #expect(throws: ChunkGRPOError.self) {
      try trainer.iterate(conditions: oneHots) { _, prompts in
        var rewards = prompts.map { _ in 1.0 }
        rewards[11] = .nan
        return rewards
      }
    }
    #expect(thrown?.code == .nonFinite && thrown?.message.contains("image 11, of prompt 1") == true)
    #expect(trainer.iterations == 2)
    #expect(try trainer.samples(.trained) == before.0 && trainer.samples(.averaged) == before.1)
    let other = try pretrained()
    try other.iterate(3)
    try trainer.iterate(1)
    #expect(try trainer.samples() == other.samples())
  }

  @Test("Rewards whose mean or deviation overflows are refused", arguments: [1e200, 1e308])
  func largeRewards(size: Double) throws {
    let trainer = try pretrained(steps: 5)
    let before = try trainer.samples()
    let thrown = #expect(throws: ChunkGRPOError.self) {
      try trainer.iterate(conditions: oneHots) { _, prompts in prompts.indices.map { Double($0 % 3) * size / 2 } }
    }
    #expect(thrown?.code == .nonFinite, "\(thrown?.message ?? "")")
    #expect(try trainer.samples() == before && trainer.iterations == 0)
  }

  @Test("A reward of too few numbers is refused")
  func fewRewards() throws {
    let thrown = #expect(throws: ChunkGRPOError.self) {
      try ChunkGRPOTrainer(tinyOptions()).iterate(conditions: oneHots) { _, _ in [1, 2, 3] }
    }
    #expect(thrown?.code == .invalidArgument && thrown?.message == "the reward gave 3 numbers for 16 images")
  }

  @Test("A reward sees every image's pixels and prompt")
  func rewardArguments() throws {
    let trainer = try pretrained(steps: 5)
    var borrowed: [Float] = []
    _ = try trainer.iterate(conditions: oneHots) { images, prompts in
      #expect(images.count == 2 * 16 && prompts == Array(repeating: 0, count: 8) + Array(repeating: 1, count: 8))
      for i in images.indices { borrowed.append(images[i]) }
      return borrowed[..<16].map(Double.init)
    }
    #expect(borrowed.contains { $0 != 0 })
  }
}
