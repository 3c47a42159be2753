import ChunkGRPO

/// Everything that a trainer is made from. The fields of `cgrpo_trainer_options`, in its order; the defaults are here
/// alone.
public struct TrainerOptions: Equatable, Sendable {
  // Network
  /// D, 1 … 1,048,576.
  public var latentSize: Int
  /// C, 1 … 65,536: a one-hot class, several side by side, or the embedding of a text encoder.
  public var conditionSize: Int
  /// Hidden size, 1 … 16,384.
  public var width = 256
  /// 1 … 256.
  public var blocks = 3
  /// Size of the embeddings of time and condition; even, 2 … 16,384.
  public var embeddingSize = 128

  // Sampling
  /// T, 2 … 10,000.
  public var steps = 17
  /// Shift of the sigmas; > 0.
  public var shift = 3.0
  /// Flow-SDE, Dance-SDE or CPS.
  public var dynamics = Dynamics.flowSDE
  /// One initial noise per group instead of per sample.
  public var shareNoise = true
  /// > 0; for CPS at most 1.
  public var eta = 0.7

  // Objective
  /// Sizes that sum to T − 1; nil = 2, 3, 4, 7 where T is 17, else chunks of 4.
  public var chunkSizes: Numbers<Int>? = nil
  /// Samples per prompt, ≥ 2.
  public var groupSize = 12
  /// Share of the chunks of each sample that is trained; in (0, 1].
  public var chunkFraction = 0.5
  /// Draw chunks by relative L1 instead of uniformly.
  public var weightedSelection = false
  /// 0 = one per core. The results are the same for any number.
  public var threads = 0
  /// > 0, `.infinity` for none.
  public var advantageClamp = 5.0
  /// Ratios outside [1 − low, 1 + high] are clipped. For small images; `ClipRange.gcpo` is for latents of FLUX.
  public var clipLow = 1e-3, clipHigh = 1e-3
  /// Weight of the k3 estimate, ≥ 0.
  public var kl = 0.0

  // Optimiser
  /// Optimiser steps per rollout, ≥ 1: its prompts are dealt out to them, at least one each.
  public var updatesPerRollout = 2
  /// ≥ 0.
  public var learningRate = 3e-4
  /// [0, 1).
  public var beta1 = 0.9, beta2 = 0.999
  /// > 0.
  public var adamEpsilon = 1e-8
  /// Decoupled; ≥ 0.
  public var weightDecay = 1e-4
  /// > 0, `.infinity` for none.
  public var maxGradNorm = 1.0
  /// Decay of the averaged parameters per optimiser step of Chunk-GRPO; [0, 1).
  public var emaDecay = 0.9
  /// Seed of the parameters and of every draw.
  public var seed: UInt64 = 0

  // Against collapse
  /// Weight of the mean divergence of the trained steps from the frozen reference: the network as pretraining left it,
  /// or a fresh one. ≥ 0. `kl` is to the policy that drew the samples.
  public var referenceKL = 0.0
  /// What `referenceKL` weighs.
  public var referenceDivergence = Divergence.velocity

  // Of the objective, too
  /// Weights ≥ 0 of the policy terms of each chunk; nil = 1.
  public var chunkWeights: Numbers<Double>? = nil

  // Against collapse, too
  /// Weight of the mean of (v − v_reference)² at the last step, which takes no noise: no chunk trains it, and
  /// `referenceKL` does not see it. ≥ 0.
  public var referenceLastStep = 0.0

  public init(latentSize: Int, conditionSize: Int) {
    self.latentSize = latentSize
    self.conditionSize = conditionSize
  }
}

extension TrainerOptions {
  /// Every option under its name in the header: what a checkpoint holds.
  package static var fields: [TextField<TrainerOptions>] {
    [
      .init("latent_size", \.latentSize), .init("condition_size", \.conditionSize), .init("width", \.width),
      .init("blocks", \.blocks), .init("embedding_size", \.embeddingSize),
      .init("steps", \.steps), .init("shift", \.shift), .init("dynamics", \.dynamics),
      .init("share_noise", \.shareNoise), .init("eta", \.eta),
      .init("chunk_sizes", \.chunkSizes), .init("group_size", \.groupSize), .init("chunk_fraction", \.chunkFraction),
      .init("weighted_selection", \.weightedSelection), .init("threads", \.threads),
      .init("advantage_clamp", \.advantageClamp), .init("clip_low", \.clipLow), .init("clip_high", \.clipHigh),
      .init("kl", \.kl),
      .init("updates_per_rollout", \.updatesPerRollout), .init("learning_rate", \.learningRate),
      .init("beta1", \.beta1), .init("beta2", \.beta2), .init("adam_epsilon", \.adamEpsilon),
      .init("weight_decay", \.weightDecay), .init("max_grad_norm", \.maxGradNorm), .init("ema_decay", \.emaDecay),
      .init("seed", \.seed),
      .init("reference_kl", \.referenceKL, unless: 0),
      .init("reference_divergence", \.referenceDivergence, unless: .velocity),
      .init("chunk_weights", \.chunkWeights, unless: nil),
      .init("reference_last_step", \.referenceLastStep, unless: 0),
    ]
  }

  /// Whether a frozen reference is kept.
  var hasReference: Bool { referenceKL > 0 || referenceLastStep > 0 }

  /// Checks the bounds that no other type checks; `TrainingPlan` makes those types.
  func check() throws {
    try requireBounds("steps", steps, 2...10_000)
    try require(
      dynamics.followsEta, "dynamics: the trainer takes a sampler with an eta, such as flow_sde, dance_sde or cps")
    try require(eta > 0, "eta = \(eta) must be positive: without noise there is nothing to train")
    try requireBounds("group_size", groupSize, 2...1 << 20)
    try require(chunkFraction > 0 && chunkFraction <= 1, "chunk_fraction = \(chunkFraction) is outside (0, 1]")
    try require(advantageClamp > 0, "advantage_clamp = \(advantageClamp) must be positive")
    try ClipRange(low: clipLow, high: clipHigh).check()
    try require(kl >= 0 && kl.isFinite, "kl = \(kl) must be at least 0 and finite")
    try require(
      referenceKL >= 0 && referenceKL.isFinite, "reference_kl = \(referenceKL) must be at least 0 and finite")
    try require(
      referenceLastStep >= 0 && referenceLastStep.isFinite,
      "reference_last_step = \(referenceLastStep) must be at least 0 and finite")
    try requireBounds("updates_per_rollout", updatesPerRollout, 1...1 << 20)
    try requireLearningRate(learningRate)
    try require(beta1 >= 0 && beta1 < 1, "beta1 = \(beta1) is outside [0, 1)")
    try require(beta2 >= 0 && beta2 < 1, "beta2 = \(beta2) is outside [0, 1)")
    try require(
      Float(adamEpsilon) > 0 && Float(adamEpsilon).isFinite,
      "adam_epsilon = \(adamEpsilon) must be positive and finite, in f32 too")
    try require(weightDecay >= 0 && weightDecay.isFinite, "weight_decay = \(weightDecay) must be at least 0 and finite")
    try require(maxGradNorm > 0, "max_grad_norm = \(maxGradNorm) must be positive")
    try requireDecay(emaDecay)
  }
}

func requireLearningRate(_ rate: Double) throws {
  try require(rate >= 0 && Float(rate).isFinite, "learning_rate = \(rate) must be at least 0 and finite")
}

func requireDecay(_ decay: Double) throws {
  try require(decay >= 0 && decay < 1, "ema_decay = \(decay) is outside [0, 1)")
}
