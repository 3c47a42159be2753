import ChunkGRPO
import ChunkGRPOTraining

/// Normals of the library.
func normals(_ count: Int, seed: UInt64) throws -> [Double] {
  let latents = try Latents(type: .float64, batch: 1, elements: count)
  try normal(seed: seed, into: latents.view)
  return try latents.values
}

extension Buffer {
  convenience init(_ values: [Element]) throws {
    try self.init(count: values.count, for: "a test")
    _ = self.values.update(fromContentsOf: values)
  }
}

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
  try trainer.pretrain(images: images, conditions: conditions, options: pretraining)
  return trainer
}

extension ChunkGRPOTrainer {
  /// Rewards images whose second coordinate is large, and counts on nothing else.
  @discardableResult
  func iterate(_ count: Int) throws -> [IterationReport] {
    try (0..<count).map { _ in
      try iterate(conditions: oneHots) { images, prompts in
        var rewards: [Double] = []
        for i in prompts.indices { rewards.append(Double(images[2 * i + 1])) }
        return rewards
      }
    }
  }

  func samples(_ parameters: Parameters = .trained, count: Int = 200, seed: UInt64 = 1) throws -> [Float] {
    try sample(
      conditions: (0..<count).flatMap { $0 % 2 == 0 ? [1, 0] : [0, 1] as [Float] }, parameters: parameters, eta: 0,
      seed: seed)
  }
}
