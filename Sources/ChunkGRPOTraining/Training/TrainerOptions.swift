import ChunkGRPO

/// Everything that a trainer is made from. The names and defaults of `cgrpo_trainer_options`.
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
  /// Of time and condition; even, 2 … 16,384.
  public var embeddingSize = 128

  // Sampling
  /// T, 2 … 10,000.
  public var steps = 17
  /// Of the sigmas; > 0.
  public var shift = 3.0
  public var dynamics = Dynamics.flowSDE
  /// One initial noise a group, or one a sample.
  public var shareNoise = true
  /// > 0; for CPS at most 1.
  public var eta = 0.7

  // Objective
  /// Sizes that sum to T − 1; nil = 2, 3, 4, 7 where T is 17, else chunks of 4.
  public var chunkSizes: [Int]? = nil
  /// Samples a prompt, ≥ 2.
  public var groupSize = 12
  /// Of the chunks of each sample, the part that is trained; in (0, 1].
  public var chunkFraction = 0.5
  /// Chunks are drawn by relative L1 instead of uniformly.
  public var weightedSelection = false
  /// 0 = one a core. The results are the same for any number.
  public var threads = 0
  /// > 0, `.infinity` for none.
  public var advantageClamp = 5.0
  /// Ratios outside [1 − low, 1 + high] are clipped.
  public var clipLow = 1e-3, clipHigh = 1e-3
  /// Weight of the k3 estimate, ≥ 0.
  public var kl = 0.0

  // Optimiser
  /// Optimiser steps a rollout, ≥ 1: its prompts are dealt out to them, at least one each.
  public var updatesPerRollout = 2
  public var learningRate = 3e-4
  public var beta1 = 0.9, beta2 = 0.999
  public var adamEpsilon = 1e-8
  /// Decoupled.
  public var weightDecay = 1e-4
  /// > 0, `.infinity` for none.
  public var maxGradNorm = 1.0
  /// Of the averaged weights, an optimiser step of Chunk-GRPO; [0, 1).
  public var emaDecay = 0.9
  /// Of the weights and of every draw.
  public var seed: UInt64 = 0

  public init(latentSize: Int, conditionSize: Int) {
    self.latentSize = latentSize
    self.conditionSize = conditionSize
  }
}

/// How flow matching is pretrained. The names and defaults of `cgrpo_pretrain_options`.
public struct PretrainOptions: Equatable, Sendable {
  /// Optimiser steps, ≥ 1.
  public var steps = 2000
  public var batchSize = 256
  /// At first; falls to a tenth along a cosine.
  public var learningRate = 2e-3
  /// Of the averaged weights, which the network has afterwards; [0, 1). It rises to this over the first steps.
  public var emaDecay = 0.99

  public init() {}
}

/// What options stand for, checked.
struct TrainingPlan {
  let shape: NetworkShape
  let sampler: Sampler
  let chunks: ChunkPlan
  let clip: ClipRange
  let adam: AdamW

  init(_ o: TrainerOptions) throws {
    shape = try NetworkShape(
      latentSize: o.latentSize, conditionSize: o.conditionSize, width: o.width, blocks: o.blocks,
      embeddingSize: o.embeddingSize)
    try requireBounds("steps", o.steps, 2...10_000)
    try require(
      [.flowSDE, .danceSDE, .cps].contains(o.dynamics), "dynamics: the trainer takes flow_sde, dance_sde or cps")
    try require(o.eta > 0, "eta = \(o.eta) must be positive: without noise there is nothing to train")
    sampler = try Sampler(
      .shifted(steps: o.steps, shift: o.shift), dynamics: o.dynamics, eta: o.eta, lastStep: .ode, threads: o.threads)
    let trained = o.steps - 1
    if let sizes = o.chunkSizes {
      chunks = try ChunkPlan(sizes)
      try require(
        chunks.steps == trained,
        "chunk_sizes sum to \(chunks.steps), but \(o.steps) steps have \(trained) trained ones: all but the last")
    } else {
      chunks = try o.steps == 17 ? ChunkPlan([2, 3, 4, 7]) : .fixed(steps: trained, size: min(4, trained))
    }
    try requireBounds("group_size", o.groupSize, 2...1 << 20)
    try require(o.chunkFraction > 0 && o.chunkFraction <= 1, "chunk_fraction = \(o.chunkFraction) is outside (0, 1]")
    try require(
      Double(chunks.count) * o.chunkFraction + 1e-9 >= 1,
      "chunk_fraction = \(o.chunkFraction) of \(chunks.count) chunks is none: at least \(1 / Double(chunks.count)) trains one"
    )
    try require(o.advantageClamp > 0, "advantage_clamp = \(o.advantageClamp) must be positive")
    try require(o.clipLow >= 0 && o.clipLow <= 1, "clip_low = \(o.clipLow) is outside [0, 1]")
    try require(o.clipHigh >= 0, "clip_high = \(o.clipHigh) must be at least 0")
    try require(o.kl >= 0 && o.kl.isFinite, "kl = \(o.kl) must be at least 0 and finite")
    clip = ClipRange(low: o.clipLow, high: o.clipHigh)
    try requireBounds("updates_per_rollout", o.updatesPerRollout, 1...1 << 20)
    try requireLearningRate(o.learningRate)
    adam = try AdamW(beta1: o.beta1, beta2: o.beta2, epsilon: o.adamEpsilon, weightDecay: o.weightDecay)
    try require(o.maxGradNorm > 0, "max_grad_norm = \(o.maxGradNorm) must be positive")
    try requireDecay(o.emaDecay)
  }
}

func requireLearningRate(_ rate: Double) throws {
  try require(rate >= 0 && Float(rate).isFinite, "learning_rate = \(rate) must be at least 0 and finite")
}

func requireDecay(_ decay: Double) throws {
  try require(decay >= 0 && decay < 1, "ema_decay = \(decay) is outside [0, 1)")
}
