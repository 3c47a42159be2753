import ChunkGRPO
import ChunkGRPOTraining
import Foundation
import Testing

/// A network for points of the plane: class 0 lies at (1, 0), class 1 at (−1, 0).
func tinyOptions(seed: UInt64 = 5) -> TrainerOptions {
  var options = TrainerOptions(latentSize: 2, conditionSize: 2)
  options.width = 32
  options.blocks = 1
  options.embeddingSize = 16
  options.steps = 9
  options.groupSize = 8
  options.seed = seed
  options.threads = 1
  return options
}

let oneHots: [Float] = [1, 0, 0, 1]

func pretrained(_ options: TrainerOptions = tinyOptions(), steps: Int = 300) throws -> ChunkGRPOTrainer {
  let trainer = try ChunkGRPOTrainer(options)
  var pretraining = PretrainOptions()
  pretraining.steps = steps
  pretraining.batchSize = 64
  let spread = try normals(2 * 400, seed: 3)
  var (images, conditions): ([Float], [Float]) = ([], [])
  for i in 0..<400 {
    images += [Float(i % 2 == 0 ? 1 : -1) + 0.3 * Float(spread[2 * i]), 0.3 * Float(spread[2 * i + 1])]
    conditions += i % 2 == 0 ? [1, 0] : [0, 1]
  }
  try images.withUnsafeBufferPointer { images in
    try conditions.withUnsafeBufferPointer { conditions in
      try trainer.pretrain(images: images, conditions: conditions, options: pretraining)
    }
  }
  return trainer
}

extension ChunkGRPOTrainer {
  /// Rewards images whose second coordinate is large, and counts on nothing else.
  @discardableResult
  func iterate(_ count: Int) throws -> [IterationReport] {
    try (0..<count).map { _ in
      try oneHots.withUnsafeBufferPointer {
        try iterate(conditions: $0) { images, _, rewards in
          for i in rewards.indices { rewards[i] = Double(images[2 * i + 1]) }
        }
      }
    }
  }

  func samples(_ weights: Weights = .trained, count: Int = 200, seed: UInt64 = 1) throws -> [Float] {
    var images = [Float](repeating: 0, count: 2 * count)
    let conditions = (0..<count).flatMap { $0 % 2 == 0 ? [1, 0] : [0, 1] as [Float] }
    try images.withUnsafeMutableBufferPointer { images in
      try conditions.withUnsafeBufferPointer {
        try sample(conditions: $0, weights: weights, eta: 0, seed: seed, into: images)
      }
    }
    return images
  }
}

@Suite("Trainer")
struct TrainerTests {
  private struct Stop: Error {}

  @Test("Flow matching learns to put each class where its images are")
  func pretrainingLearns() throws {
    let x = try pretrained(steps: 600).samples()
    let right = (0..<200).count { (x[2 * $0] > 0) == ($0 % 2 == 0) }
    #expect(right > 190)
    let spread = (0..<200).map { Double(x[2 * $0 + 1]) }
    let deviation = (spread.reduce(0) { $0 + $1 * $1 } / 200).squareRoot()
    #expect(abs(deviation - 0.3) < 0.12)
  }

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

  @Test("A reward that fails or is not finite leaves the trainer as it was")
  func failingRewardChangesNothing() throws {
    let trainer = try pretrained()
    try trainer.iterate(2)
    let before = (try trainer.samples(.trained), try trainer.samples(.averaged))
    #expect(throws: Stop.self) {
      try oneHots.withUnsafeBufferPointer { try trainer.iterate(conditions: $0) { _, _, _ in throw Stop() } }
    }
    let thrown = #expect(throws: ChunkGRPOError.self) {
      try oneHots.withUnsafeBufferPointer {
        try trainer.iterate(conditions: $0) { _, _, rewards in
          rewards.update(repeating: 1)
          rewards[11] = .nan
        }
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

  @Test("Progress that stops pretraining leaves the trainer as it was")
  func stoppedPretrainingChangesNothing() throws {
    let trainer = try pretrained()
    let before = try trainer.samples()
    #expect(throws: Stop.self) {
      try oneHots.withUnsafeBufferPointer {
        try trainer.pretrain(images: $0, conditions: $0) { done, _, _ in if done > 20 { throw Stop() } }
      }
    }
    #expect(try trainer.samples() == before)
  }

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
      let trainer = try pretrained(options, steps: 20)
      try trainer.iterate(2)
      return try trainer.samples()
    }
    let alone = try run(1)
    #expect(try run(2) == alone && run(5) == alone)
  }

  @Test("Options out of bounds are refused by name")
  func refusals() throws {
    for (name, change) in [
      ("latent_size", { $0.latentSize = 0 }), ("width", { $0.width = .max }), ("steps", { $0.steps = 1 }),
      ("shift", { $0.shift = -1 }), ("eta", { $0.eta = 0 }), ("dynamics", { $0.dynamics = .ode }),
      ("chunk_sizes", { $0.chunkSizes = [1, 2] }), ("group_size", { $0.groupSize = 1 }),
      ("chunk_fraction", { $0.chunkFraction = 0.1 }), ("clip_low", { $0.clipLow = 2 }), ("kl", { $0.kl = .nan }),
      ("learning_rate", { $0.learningRate = -1 }), ("beta1", { $0.beta1 = 1 }), ("ema_decay", { $0.emaDecay = 1 }),
      ("max_grad_norm", { $0.maxGradNorm = 0 }), ("updates_per_rollout", { $0.updatesPerRollout = 0 }),
    ] as [(String, (inout TrainerOptions) -> Void)] {
      var options = tinyOptions()
      change(&options)
      let thrown = #expect(throws: ChunkGRPOError.self) { try ChunkGRPOTrainer(options) }
      #expect(
        thrown?.code == .invalidArgument && thrown?.message.contains(name) == true, "\(name): \(thrown?.message ?? "")")
    }
  }
}
