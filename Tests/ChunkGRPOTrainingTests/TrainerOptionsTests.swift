import ChunkGRPO
import ChunkGRPOTraining
import Testing

@Suite("Trainer options")
struct TrainerOptionsTests {
  @Test("Options out of bounds are refused by name")
  func refusals() throws {
    for (name, change) in [
      ("latent_size", { $0.latentSize = 0 }), ("width", { $0.width = .max }), ("steps", { $0.steps = 1 }),
      ("shift", { $0.shift = -1 }), ("eta", { $0.eta = 0 }), ("dynamics", { $0.dynamics = .ode }),
      ("chunk_sizes", { $0.chunkSizes = [1, 2] }), ("group_size", { $0.groupSize = 1 }),
      ("chunk_weights has 1 numbers", { $0.chunkWeights = [1] }),
      ("chunk_weights[1] = inf", { $0.chunkWeights = [0, .infinity] }),
      ("chunk_fraction", { $0.chunkFraction = 0.1 }), ("clip_low", { $0.clipLow = 2 }), ("kl", { $0.kl = .nan }),
      ("learning_rate", { $0.learningRate = -1 }), ("beta1", { $0.beta1 = 1 }), ("beta2", { $0.beta2 = -1 }),
      ("adam_epsilon", { $0.adamEpsilon = 1e-60 }), ("weight_decay", { $0.weightDecay = .nan }),
      ("ema_decay", { $0.emaDecay = 1 }),
      ("reference_kl", { $0.referenceKL = -1 }), ("reference_kl", { $0.referenceKL = .infinity }),
      ("reference_last_step = -1", { $0.referenceLastStep = -1 }),
      ("reference_last_step", { $0.referenceLastStep = .nan }),
      ("max_grad_norm", { $0.maxGradNorm = 0 }), ("updates_per_rollout", { $0.updatesPerRollout = 0 }),
    ] as [(String, (inout TrainerOptions) -> Void)] {
      var options = tinyOptions()
      change(&options)
      let thrown = #expect(throws: ChunkGRPOError.self) { try ChunkGRPOTrainer(options) }
      #expect(
        thrown?.code == .invalidArgument && thrown?.message.contains(name) == true, "\(name): \(thrown?.message ?? "")")
    }
  }

  @Test("The table has every option once")
  func table() {
    let names = TrainerOptions.fields.map(\.name)
    #expect(names.count == Mirror(reflecting: tinyOptions()).children.count && Set(names).count == names.count)
  }
}
