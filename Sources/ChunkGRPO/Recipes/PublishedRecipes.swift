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
    case "flow_grpo_fast": try flowGRPOFast()
    case "mixgrpo": try mixGRPO()
    case "mixgrpo_flash": try mixGRPOFlash()
    case "flow_factory": try flowFactory()
    case "grpo_guard": grpoGuard
    case "flow_dppo": try flowDPPO()
    default:
      throw ChunkGRPOError.invalidArgument("recipe \(name) is none of \(names.joined(separator: ", "))")
    }
  }

  private static func options<T>(_ options: T, _ change: (inout T) -> Void) -> T {
    var changed = options
    change(&changed)
    return changed
  }

  /// Chunk-GRPO's own (arXiv 2510.21583).
  static let gcpo = Recipe(
    name: "gcpo", source: "xingzhejun/GCPO scripts/finetune/finetune_hpsv3_chunk.sh", steps: 17, shift: .fixed(3),
    truncatedTimesteps: true, sampler: options(SamplerOptions()) { $0.lastStep = .ode }, groupSize: 12,
    sharesNoise: true, advantages: AdvantageOptions(), chunkSizes: [2, 3, 4, 7], chunkFraction: 0.5,
    loss: ChunkLossOptions(), learningRate: 1e-5, maxGradNorm: 0.01,
    follows: ["the model sees int(1000 sigma)", "the image is the prediction of the last step, which is not trained"],
    refuses: [
      "a group of one gives 0, not NaN", "weights sqrt((T - mid)/mid) of a chunk whose middle is step 0 are an error",
    ])

  static let dancegrpo = Recipe(
    name: "dancegrpo", source: "XueZeyue/DanceGRPO scripts/finetune/finetune_flux_grpo.sh", steps: 16,
    shift: .fixed(3), truncatedTimesteps: true,
    sampler: options(SamplerOptions()) { ($0.dynamics, $0.eta, $0.lastStep) = (.danceSDE, 0.3, .ode) }, groupSize: 12,
    sharesNoise: true, advantages: AdvantageOptions(), chunkSizes: nil, chunkFraction: 0.6,
    loss: options(ChunkLossOptions()) { $0.clip = ClipRange(low: 1e-4, high: 1e-4) }, learningRate: 1e-5,
    maxGradNorm: 1,
    follows: ["the model sees int(1000 sigma)", "9 of the 15 trained steps of each sample, drawn at random"],
    refuses: ["two rewards with a clip each: mix them into one advantage instead"])

  static let flowGRPO = Recipe(
    name: "flow_grpo", source: "yifan123/flow_grpo config/grpo.py general_ocr_sd3", steps: 10, base: .diffusers,
    shift: .fixed(3), sampler: SamplerOptions(), groupSize: 24, sharesNoise: false,
    advantages: options(AdvantageOptions()) { ($0.scale, $0.deviation, $0.epsilon) = (.batch, .population, 1e-4) },
    chunkSizes: nil,
    loss: options(ChunkLossOptions()) { $0.clip = ClipRange(low: 1e-4, high: 1e-4) }, learningRate: 3e-4,
    maxGradNorm: 1,
    follows: [
      "diffusers shifts sigma twice on SD3 (its issue 13243)",
      "the standard deviation of all rewards, not of the group",
    ],
    refuses: [
      "its KL, 0.04 x the Gaussian one without Delta in the variance, needs a reference velocity: add Sampler.divergence",
      "its tracker fails on a second update: RewardHistory",
    ])

  static func flowGRPOFast() throws -> Recipe {
    Recipe(
      name: "flow_grpo_fast", source: "yifan123/flow_grpo config/grpo.py geneval_sd3_fast_nocfg", steps: 10,
      base: .diffusers, shift: .fixed(3),
      sampler: options(SamplerOptions()) { ($0.dynamics, $0.eta, $0.logProbForm) = (.cps, 0.8, .squaredError) },
      window: try SDEWindow(size: 3, end: 5, strategy: .random(seed: 0)), groupSize: 24, sharesNoise: false,
      advantages: flowGRPO.advantages, chunkSizes: nil,
      loss: options(ChunkLossOptions()) { $0.clip = ClipRange(low: 1e-5, high: 1e-5) }, learningRate: 3e-4,
      maxGradNorm: 1,
      follows: [
        "diffusers shifts sigma twice on SD3 (its issue 13243)",
        "CPS log-probabilities without 1/(2 s^2), against which its clip is meant",
      ],
      refuses: ["windows drawn by Python's generator, another on each rank: they follow from seed and iteration"])
  }

  static func mixGRPO() throws -> Recipe {
    Recipe(
      name: "mixgrpo", source: "Tencent-Hunyuan/MixGRPO scripts/finetune/finetune_flux_grpo_MixGRPO.sh", steps: 25,
      shift: .fixed(3), truncatedTimesteps: true, sampler: options(SamplerOptions()) { $0.lastStep = .ode },
      window: try SDEWindow(size: 4, end: 23, stride: 1, strategy: .progressive(iterations: 25)), groupSize: 12,
      sharesNoise: true, advantages: options(AdvantageOptions()) { $0.mixing = .normalisedSum }, chunkSizes: nil,
      loss: options(ChunkLossOptions()) { $0.clip = ClipRange(low: 1e-4, high: 1e-4) }, learningRate: 1e-5,
      maxGradNorm: 1,
      follows: ["the model sees int(1000 sigma)", "windows end at step T - 2, which is never trained"],
      refuses: ["windows without a step before it rolls back: the next is the first again"])
  }

  static func mixGRPOFlash() throws -> Recipe {
    let mix = try mixGRPO()
    return Recipe(
      name: "mixgrpo_flash", source: "Tencent-Hunyuan/MixGRPO scripts/finetune/finetune_flux_grpo_MixGRPO_Flash.sh",
      steps: mix.steps, shift: mix.shift, truncatedTimesteps: true,
      sampler: options(mix.sampler) { $0.after = .dpmODE },
      window: try SDEWindow(size: 4, end: 23, stride: 1, strategy: .progressive(iterations: 20)), flashRatio: 0.4,
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
      shift: .exponential(mu: try Schedule.fluxMu(pixels: 384 * 384)), sampler: SamplerOptions(),
      window: try SDEWindow(size: 1, end: 4, first: 1, strategy: .subset(count: 1, seed: 0)), groupSize: 16,
      sharesNoise: false,
      advantages: options(AdvantageOptions()) {
        ($0.deviation, $0.epsilon, $0.floor, $0.mixing) = (.population, 0, 1e-6, .gdpo)
      }, chunkSizes: nil,
      loss: options(ChunkLossOptions()) { $0.clip = ClipRange(low: 1e-4, high: 1e-4) }, learningRate: 1e-5,
      maxGradNorm: 1, follows: ["x' is rounded to its storage type before the log-probability, as everywhere here"],
      refuses: [
        "steps drawn by torch's generator: they follow from seed and iteration", "group ids that pass through f32",
      ])
  }

  static let grpoGuard = Recipe(
    name: "grpo_guard", source: "yifan123/flow_grpo config/grpo_guard.py", steps: 10, base: .diffusers,
    shift: .fixed(3),
    sampler: SamplerOptions(), groupSize: 24, sharesNoise: false,
    advantages: options(flowGRPO.advantages) { $0.scale = .group }, chunkSizes: nil,
    loss: options(ChunkLossOptions()) { $0.clip = ClipRange(low: 2e-6, high: 2e-6) }, learningRate: 1e-4,
    maxGradNorm: 1,
    follows: ["diffusers shifts sigma twice on SD3 (its issue 13243)"],
    refuses: [
      "one ratio bias for the whole batch, a slip of its reduction: one a sample, as in Pref-GRPO and verl-omni",
      "ratio_bias and ratio_scale depend on the batch: give them to the loss, from Sampler.divergence",
    ])

  static func flowDPPO() throws -> Recipe {
    Recipe(
      name: "flow_dppo", source: "verl-project/verl-omni examples (Qwen-Image)", steps: 10,
      shift: .fixed(3), sampler: options(SamplerOptions()) { $0.eta = 1.2 },
      window: try SDEWindow(size: 2, end: 5, strategy: .random(seed: 42)), groupSize: 16, sharesNoise: false,
      advantages: options(AdvantageOptions()) { ($0.scale, $0.epsilon, $0.clamp) = (.batch, 1e-4, .infinity) },
      chunkSizes: nil, loss: options(ChunkLossOptions()) { $0.surrogate = .divergenceMask }, learningRate: 3e-4,
      maxGradNorm: 1, follows: ["advantages are not clamped"],
      refuses: ["the divergence depends on the batch: give it to the loss, from Sampler.divergence"])
  }
}
