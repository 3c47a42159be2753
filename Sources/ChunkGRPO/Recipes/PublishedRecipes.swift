extension Recipe {
  /// The names that `named` knows.
  public static let names = [
    "gcpo", "dancegrpo", "flow_grpo", "flow_grpo_fast", "mixgrpo", "mixgrpo_flash", "flow_factory", "grpo_guard",
    "flow_dppo",
  ]

  /// - Throws: `.invalidArgument` lists the names there are.
  public static func named(_ name: String) throws -> Recipe {
    switch name {
    case "gcpo": gcpo
    case "dancegrpo": dancegrpo
    case "flow_grpo": flowGRPO
    case "flow_grpo_fast": flowGRPOFast()
    case "mixgrpo": mixGRPO()
    case "mixgrpo_flash": mixGRPOFlash()
    case "flow_factory": try flowFactory()
    case "grpo_guard": grpoGuard
    case "flow_dppo": flowDPPO()
    default:
      throw ChunkGRPOError.invalidArgument("recipe \(name) is none of \(names.joined(separator: ", "))")
    }
  }

  private static func shifted(_ shift: Double, base: ScheduleBase = .linear) -> ScheduleOptions {
    ScheduleOptions { ($0.shift, $0.base) = (shift, base) }
  }

  private static func clipped(_ bound: Double) -> ChunkLossOptions {
    ChunkLossOptions { $0.clip = ClipRange(low: bound, high: bound) }
  }

  /// Chunk-GRPO's own (arXiv 2510.21583).
  static let gcpo = Recipe(
    name: "gcpo", source: "xingzhejun/GCPO scripts/finetune/finetune_hpsv3_chunk.sh", steps: 17, schedule: shifted(3),
    truncatedTimesteps: true, sampler: SamplerOptions { $0.lastStep = .ode }, groupSize: 12,
    sharesNoise: true, advantages: AdvantageOptions(), chunkSizes: [2, 3, 4, 7], chunkFraction: 0.5,
    loss: ChunkLossOptions(), learningRate: 1e-5, maxGradNorm: 0.01,
    follows: ["the model sees int(1000 sigma)", "the image is the prediction of the last step, which is not trained"],
    refuses: [
      "a group of one gives 0, not NaN", "weights sqrt((T - mid)/mid) of a chunk whose middle is step 0 are an error",
    ])

  static let dancegrpo = Recipe(
    name: "dancegrpo", source: "XueZeyue/DanceGRPO scripts/finetune/finetune_flux_grpo.sh", steps: 16,
    schedule: shifted(3), truncatedTimesteps: true,
    sampler: SamplerOptions { ($0.dynamics, $0.eta, $0.lastStep) = (.danceSDE, 0.3, .ode) }, groupSize: 12,
    sharesNoise: true, advantages: AdvantageOptions(), chunkSizes: nil, chunkFraction: 0.6,
    loss: clipped(1e-4), learningRate: 1e-5,
    maxGradNorm: 1,
    follows: ["the model sees int(1000 sigma)", "9 of the 15 trained steps of each sample, drawn at random"],
    refuses: ["two rewards with a clip each: mix them into one advantage instead"])

  static let flowGRPO = Recipe(
    name: "flow_grpo", source: "yifan123/flow_grpo config/grpo.py general_ocr_sd3", steps: 10,
    schedule: shifted(3, base: .diffusers), sampler: SamplerOptions(), groupSize: 24, sharesNoise: false,
    advantages: AdvantageOptions { ($0.scale, $0.deviation, $0.epsilon) = (.batch, .population, 1e-4) },
    chunkSizes: nil,
    loss: clipped(1e-4), learningRate: 3e-4,
    maxGradNorm: 1,
    follows: [
      "diffusers shifts sigma twice on SD3 (its issue 13243)",
      "the standard deviation of all rewards, not of the group",
    ],
    refuses: [
      "its KL, 0.04 x the Gaussian one without Delta in the variance, needs a reference velocity: add Sampler.divergence",
      "its tracker fails on a second update: RewardHistory",
    ])

  static func flowGRPOFast() -> Recipe {
    Recipe(
      name: "flow_grpo_fast", source: "yifan123/flow_grpo config/grpo.py geneval_sd3_fast_nocfg", steps: 10,
      schedule: shifted(3, base: .diffusers),
      sampler: SamplerOptions { ($0.dynamics, $0.eta, $0.logProbForm) = (.cps, 0.8, .squaredError) },
      window: SDEWindowOptions { ($0.size, $0.end, $0.strategy) = (3, 5, .random) }, groupSize: 24, sharesNoise: false,
      advantages: flowGRPO.advantages, chunkSizes: nil,
      loss: clipped(1e-5), learningRate: 3e-4,
      maxGradNorm: 1,
      follows: [
        "diffusers shifts sigma twice on SD3 (its issue 13243)",
        "CPS log-probabilities without 1/(2 s^2), against which its clip is meant",
      ],
      refuses: ["windows drawn by Python's generator, another on each rank: they follow from seed and iteration"])
  }

  static func mixGRPO() -> Recipe {
    Recipe(
      name: "mixgrpo", source: "Tencent-Hunyuan/MixGRPO scripts/finetune/finetune_flux_grpo_MixGRPO.sh", steps: 25,
      schedule: shifted(3), truncatedTimesteps: true, sampler: SamplerOptions { $0.lastStep = .ode },
      window: SDEWindowOptions { ($0.size, $0.end, $0.stride) = (4, 23, 1) }, groupSize: 12,
      sharesNoise: true, advantages: AdvantageOptions { $0.mixing = .normalisedSum }, chunkSizes: nil,
      loss: clipped(1e-4), learningRate: 1e-5,
      maxGradNorm: 1,
      follows: ["the model sees int(1000 sigma)", "windows end at step T - 2, which is never trained"],
      refuses: ["windows without a step before it rolls back: the next is the first again"])
  }

  static func mixGRPOFlash() -> Recipe {
    let mix = mixGRPO()
    return Recipe(
      name: "mixgrpo_flash", source: "Tencent-Hunyuan/MixGRPO scripts/finetune/finetune_flux_grpo_MixGRPO_Flash.sh",
      steps: mix.steps, schedule: mix.schedule, truncatedTimesteps: true,
      sampler: mix.sampler.with { $0.after = .dpmODE },
      window: mix.window?.with { $0.iterations = 20 }, flashRatio: 0.4,
      groupSize: mix.groupSize, sharesNoise: true, advantages: mix.advantages, chunkSizes: nil, loss: mix.loss,
      learningRate: mix.learningRate, maxGradNorm: mix.maxGradNorm, follows: mix.follows,
      refuses: mix.refuses + [
        "schedules that end before sigma = 0 where the ratio leaves no step: one is left",
        "the window that never moves (Flash*)",
      ])
  }

  static func flowFactory() throws -> Recipe {
    Recipe(
      name: "flow_factory", source: "X-GenGroup/Flow-Factory examples/grpo/*/flux1/default.yaml", steps: 10,
      schedule: try ScheduleOptions { ($0.shiftKind, $0.mu) = (.exponential, try Schedule.fluxMu(pixels: 384 * 384)) },
      sampler: SamplerOptions(),
      window: SDEWindowOptions { ($0.size, $0.first, $0.end, $0.strategy) = (1, 1, 4, .subset) }, groupSize: 16,
      sharesNoise: false,
      advantages: AdvantageOptions {
        ($0.deviation, $0.epsilon, $0.floor, $0.mixing) = (.population, 0, 1e-6, .gdpo)
      }, chunkSizes: nil,
      loss: clipped(1e-4), learningRate: 1e-5,
      maxGradNorm: 1, follows: ["x' is rounded to its storage type before the log-probability, as everywhere here"],
      refuses: [
        "steps drawn by torch's generator: they follow from seed and iteration", "group ids that pass through f32",
      ])
  }

  static let grpoGuard = Recipe(
    name: "grpo_guard", source: "yifan123/flow_grpo config/grpo_guard.py", steps: 10,
    schedule: shifted(3, base: .diffusers),
    sampler: SamplerOptions(), groupSize: 24, sharesNoise: false,
    advantages: flowGRPO.advantages.with { $0.scale = .group }, chunkSizes: nil,
    loss: clipped(2e-6), learningRate: 1e-4,
    maxGradNorm: 1,
    follows: ["diffusers shifts sigma twice on SD3 (its issue 13243)"],
    refuses: [
      "one ratio bias for the whole batch, a slip of its reduction: one per sample, as in Pref-GRPO and verl-omni",
      "ratio_bias and ratio_scale depend on the batch: give them to the loss, from Sampler.divergence",
    ])

  static func flowDPPO() -> Recipe {
    Recipe(
      name: "flow_dppo", source: "verl-project/verl-omni examples (Qwen-Image)", steps: 10,
      schedule: shifted(3), sampler: SamplerOptions { $0.eta = 1.2 },
      window: SDEWindowOptions { ($0.size, $0.end, $0.strategy, $0.seed) = (2, 5, .random, 42) }, groupSize: 16,
      sharesNoise: false,
      advantages: AdvantageOptions { ($0.scale, $0.epsilon, $0.clamp) = (.batch, 1e-4, .infinity) },
      chunkSizes: nil, loss: ChunkLossOptions { $0.surrogate = .divergenceMask }, learningRate: 3e-4,
      maxGradNorm: 1, follows: ["advantages are not clamped"],
      refuses: ["the divergence depends on the batch: give it to the loss, from Sampler.divergence"])
  }
}
