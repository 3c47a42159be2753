import ChunkGRPO
import ChunkGRPOTraining
import Testing

@Suite("Pretraining options")
struct PretrainOptionsTests {
  @Test("Options out of bounds are refused by name")
  func refusals() throws {
    let trainer = try ChunkGRPOTrainer(tinyOptions())
    for (name, change) in [
      ("steps", { $0.steps = 0 }), ("batch_size", { $0.batchSize = 0 }), ("learning_rate", { $0.learningRate = .nan }),
      ("ema_decay", { $0.emaDecay = 1 }),
    ] as [(String, (inout PretrainOptions) -> Void)] {
      var options = PretrainOptions()
      change(&options)
      let thrown = #expect(throws: ChunkGRPOError.self) {
        try trainer.pretrain(images: oneHots, conditions: oneHots, options: options)
      }
      #expect(
        thrown?.code == .invalidArgument && thrown?.message.hasPrefix(name) == true, "\(name): \(thrown?.message ?? "")"
      )
    }
  }
}
