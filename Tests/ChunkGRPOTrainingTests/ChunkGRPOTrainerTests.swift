import ChunkGRPO
import ChunkGRPOTraining
import Testing

@Suite("Trainer")
struct ChunkGRPOTrainerTests {
  @Test("Seeds decide every draw")
  func seeds() throws {
    func run(_ seed: UInt64) throws -> [Float] {
      let trainer = try pretrained(tinyOptions(seed: seed), steps: 20)
      try trainer.iterate(2)
      return try trainer.samples()
    }
    let first = try run(1)
    #expect(try run(1) == first && run(2) != first)
  }

  @Test("Results are the same bits for any number of threads")
  func threads() throws {
    func run(_ threads: Int) throws -> [Float] {
      var options = tinyOptions()
      options.threads = threads
      options.groupSize = 100  // several parts, in the first optimiser step too
      options.width = 64
      (options.referenceKL, options.referenceLastStep) = (0.1, 0.1)
      let trainer = try pretrained(options, steps: 20)
      try trainer.iterate(2)
      return try trainer.samples()
    }
    let alone = try run(1)
    #expect(try run(2) == alone && run(5) == alone)
  }

  @Test("Pretraining and iterations cannot be called from their own callbacks")
  func reentry() throws {
    let trainer = try ChunkGRPOTrainer(tinyOptions())
    let thrown = #expect(throws: ChunkGRPOError.self) {
      try trainer.pretrain(images: oneHots, conditions: oneHots) { _, _, _ in try trainer.iterate(1) }
    }
    #expect(thrown?.message.contains("at work") == true)
    try trainer.iterate(1)
  }
}
