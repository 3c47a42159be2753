public import CChunkGRPO
import ChunkGRPO

/// Those of its fields that are numbers; arrays are null.
func cAdvantageOptions(_ o: AdvantageOptions = AdvantageOptions()) -> cgrpo_advantage_options {
  cgrpo_advantage_options(
    struct_size: MemoryLayout<cgrpo_advantage_options>.stride, group_size: 0, clamp: o.clamp, epsilon: o.epsilon,
    floor: o.floor, group_ids: nil, baseline: o.baseline.rawValue, scale: o.scale.rawValue,
    deviation: o.deviation.rawValue, subtract_median: o.subtractsMedian ? 1 : 0, trim: o.trim, reward_count: 1,
    reward_weights: nil, mixing: o.mixing.rawValue, reserved: 0)
}

@_cdecl("cgrpo_advantage_options_init") @implementation
public func cgrpo_advantage_options_init(
  _ options: UnsafeMutablePointer<cgrpo_advantage_options>!, _ structSize: Int
) {
  initStruct(options, size: structSize, defaults: cAdvantageOptions())
}

private func advantageOptions(_ o: cgrpo_advantage_options, count n: Int) throws -> AdvantageOptions {
  try require(o.reserved == 0, "options.reserved = \(o.reserved) must be 0")
  var options = AdvantageOptions()
  let groupSize = try count(o.group_size, "group_size", 0...maxCount)
  options.groupIDs = o.group_ids.map { ids in (0..<n).map { Int(ids[$0]) } }
  options.groupSize = groupSize == 0 ? nil : groupSize
  options.clamp = o.clamp
  options.epsilon = o.epsilon
  options.floor = o.floor
  options.baseline = try enumeration(o.baseline, "baseline")
  options.scale = try enumeration(o.scale, "scale")
  options.deviation = try enumeration(o.deviation, "deviation")
  options.subtractsMedian = try flag(o.subtract_median, "subtract_median")
  options.trim = o.trim
  options.rewardCount = try count(o.reward_count, "reward_count", 1...1 << 20)
  options.rewardWeights = try o.reward_weights.map { try array($0, "reward_weights", options.rewardCount, 1) }
  options.mixing = try enumeration(o.mixing, "mixing")
  return options
}

@_cdecl("cgrpo_advantages") @implementation
public func cgrpo_advantages(
  _ rewards: UnsafePointer<Double>!, _ rewardCount: Int64, _ options: UnsafePointer<cgrpo_advantage_options>!,
  _ result: UnsafeMutablePointer<Double>!
) -> cgrpo_status {
  guarded {
    let result = try nonNull(result, "advantages")
    let rewards = try nonNull(rewards, "rewards")
    let n = try count(rewardCount, "count", 1...maxCount)
    let o = try advantageOptions(readStruct(options, "options", current: cAdvantageOptions()), count: n)
    let values = try advantages(array(rewards, "rewards", n, o.rewardCount), o)
    result.update(from: values, count: n)
  }
}

/// What a `cgrpo_history *` points to.
private final class HistoryHandle {
  var history: RewardHistory
  init(_ history: RewardHistory) { self.history = history }
}

@_cdecl("cgrpo_history_create") @implementation
public func cgrpo_history_create(
  _ capacity: Int64, _ minCount: Int64, _ out: UnsafeMutablePointer<OpaquePointer?>!
) -> cgrpo_status {
  guarded {
    let out = try nonNull(out, "history")
    let history = try RewardHistory(
      capacity: count(capacity, "capacity", 1...1 << 24), minCount: count(minCount, "min_count", 1...maxCount))
    out.pointee = retained(HistoryHandle(history))
  }
}

@_cdecl("cgrpo_history_destroy") @implementation
public func cgrpo_history_destroy(_ history: OpaquePointer!) { release(history) }

@_cdecl("cgrpo_history_update") @implementation
public func cgrpo_history_update(
  _ handle: OpaquePointer!, _ prompts: UnsafePointer<Int64>!, _ rewards: UnsafePointer<Double>!, _ rewardCount: Int64,
  _ result: UnsafeMutablePointer<Double>!
) -> cgrpo_status {
  guarded {
    let handle: HistoryHandle = try borrowed(handle, "history")
    let result = try nonNull(result, "advantages")
    let prompts = try nonNull(prompts, "prompts")
    let n = try count(rewardCount, "count", 1...maxCount)
    let values = try handle.history.update(
      prompts: (0..<n).map { Int(prompts[$0]) }, rewards: array(rewards, "rewards", n, 1))
    result.update(from: values, count: n)
  }
}

@_cdecl("cgrpo_best_of_n") @implementation
public func cgrpo_best_of_n(
  _ scores: UnsafePointer<Double>!, _ scoreCount: Int64, _ keep: Int64, _ chosen: UnsafeMutablePointer<UInt8>!
) -> cgrpo_status {
  guarded {
    let chosen = try nonNull(chosen, "chosen")
    let n = try count(scoreCount, "count", 1...maxCount)
    let result = try bestOfN(array(scores, "scores", n, 1), keep: count(keep, "keep", 1...n))
    chosen.update(from: result, count: n)
  }
}

/// Those of its fields that are numbers; arrays are null.
func cChunkLossOptions(_ o: ChunkLossOptions = ChunkLossOptions()) -> cgrpo_chunk_loss_options {
  cgrpo_chunk_loss_options(
    struct_size: MemoryLayout<cgrpo_chunk_loss_options>.stride, surrogate: o.surrogate.rawValue,
    average: o.average.rawValue, clip_low: o.clip.low, clip_high: o.clip.high, ratio_cap: o.ratioCap,
    dual_clip: o.dualClip, kl: o.kl, kl_estimator: o.klEstimator.rawValue, kl_level: o.klLevel.rawValue, normaliser: 0,
    divergence_threshold: o.divergenceThreshold, selection: nil, mask: nil, reference_log_probs: nil, weights: nil,
    ratio_bias: nil, ratio_scale: nil, divergence: nil, grad_ratio_bias: nil, weights_per_sample: 0, reserved: 0)
}

@_cdecl("cgrpo_chunk_loss_options_init") @implementation
public func cgrpo_chunk_loss_options_init(
  _ options: UnsafeMutablePointer<cgrpo_chunk_loss_options>!, _ structSize: Int
) {
  initStruct(options, size: structSize, defaults: cChunkLossOptions())
}

private func chunkLossOptions(
  _ o: cgrpo_chunk_loss_options, batch b: Int, steps s: Int, chunks k: Int
) throws -> ChunkLossOptions {
  try require(o.reserved == 0, "options.reserved = \(o.reserved) must be 0")
  func bytes(_ values: UnsafePointer<UInt8>?, _ columns: Int, _ name: String) throws -> [UInt8]? {
    try values.map { Array(UnsafeBufferPointer(start: $0, count: try product(b, columns, name))) }
  }
  var options = ChunkLossOptions()
  options.surrogate = try enumeration(o.surrogate, "surrogate")
  options.average = try enumeration(o.average, "average")
  options.clip = ClipRange(low: o.clip_low, high: o.clip_high)
  options.ratioCap = o.ratio_cap
  options.dualClip = o.dual_clip
  options.kl = o.kl
  options.klEstimator = try enumeration(o.kl_estimator, "kl_estimator")
  options.klLevel = try enumeration(o.kl_level, "kl_level")
  options.normaliser = o.normaliser == 0 ? nil : o.normaliser
  options.divergenceThreshold = o.divergence_threshold
  options.selection = try bytes(o.selection, k, "selection")
  options.mask = try bytes(o.mask, s, "mask")
  options.reference = try o.reference_log_probs.map { try array($0, "reference_log_probs", b, s) }
  let perSample = try flag(o.weights_per_sample, "weights_per_sample")
  try require(!perSample || o.weights != nil, "weights_per_sample = 1, but weights is null")
  options.weights = try o.weights.map { try array($0, "weights", perSample ? b : 1, k) }
  options.ratioBias = try o.ratio_bias.map { try array($0, "ratio_bias", b, s) }
  options.ratioScale = try o.ratio_scale.map { try array($0, "ratio_scale", 1, s) }
  options.divergence = try o.divergence.map { try array($0, "divergence", b, s) }
  try require(
    o.grad_ratio_bias == nil || o.ratio_bias != nil, "grad_ratio_bias is asked for, but ratio_bias is null")
  return options
}

@_cdecl("cgrpo_chunk_loss") @implementation
public func cgrpo_chunk_loss(
  _ newLogProbs: UnsafePointer<Double>!, _ oldLogProbs: UnsafePointer<Double>!,
  _ advantageValues: UnsafePointer<Double>!, _ batch: Int64, _ steps: Int64, _ sizes: UnsafePointer<Int64>!,
  _ chunkCount: Int64, _ options: UnsafePointer<cgrpo_chunk_loss_options>!, _ loss: UnsafeMutablePointer<Double>!,
  _ gradLogProbs: UnsafeMutablePointer<Double>!, _ ratios: UnsafeMutablePointer<Double>!,
  _ stats: UnsafeMutablePointer<cgrpo_chunk_stats>!
) -> cgrpo_status {
  guarded {
    let b = try count(batch, "batch", 1...maxCount)
    let s = try count(steps, "steps", 1...Schedule.maxSteps)
    let loss = try nonNull(loss, "loss")
    let plan = try plan(sizes, chunkCount, steps: s)
    let o = try readStruct(options, "options", current: cChunkLossOptions())
    if let stats {
      _ = try checkedSize(UnsafeRawPointer(stats), "stats", minimum: MemoryLayout<cgrpo_chunk_stats>.stride)
    }
    let result = try chunkLoss(
      new: array(newLogProbs, "new_log_probs", b, s), old: array(oldLogProbs, "old_log_probs", b, s),
      advantages: array(advantageValues, "advantages", b, 1), plan: plan,
      options: chunkLossOptions(o, batch: b, steps: s, chunks: plan.count))
    loss.pointee = result.loss
    gradLogProbs?.update(from: result.gradLogProbs, count: result.gradLogProbs.count)
    o.grad_ratio_bias?.update(from: result.gradRatioBias, count: result.gradRatioBias.count)
    ratios?.update(from: result.ratios, count: result.ratios.count)
    if let stats { try writeStruct(cStats(result.stats), to: stats, "stats") }
  }
}

@_cdecl("cgrpo_gcpo_weights") @implementation
public func cgrpo_gcpo_weights(
  _ sizes: UnsafePointer<Int64>!, _ chunkCount: Int64, _ weights: UnsafeMutablePointer<Double>!
) -> cgrpo_status {
  guarded {
    let weights = try nonNull(weights, "weights")
    let plan = try plan(sizes, chunkCount)
    weights.update(from: try plan.gcpoWeights(), count: plan.count)
  }
}

@_cdecl("cgrpo_tempflow_weights") @implementation
public func cgrpo_tempflow_weights(
  _ handle: OpaquePointer!, _ sizes: UnsafePointer<Int64>!, _ chunkCount: Int64,
  _ weights: UnsafeMutablePointer<Double>!
) -> cgrpo_status {
  guarded {
    let weights = try nonNull(weights, "weights")
    let sampler = try sampler(handle)
    let plan = try plan(sizes, chunkCount)
    weights.update(from: try plan.tempFlowWeights(sampler), count: plan.count)
  }
}

func cStats(_ stats: ChunkStats) -> cgrpo_chunk_stats {
  cgrpo_chunk_stats(
    struct_size: MemoryLayout<cgrpo_chunk_stats>.stride, selected: Int64(stats.selected),
    ratio_mean: stats.ratioMean, ratio_std: stats.ratioStd, ratio_min: stats.ratioMin, ratio_max: stats.ratioMax,
    clip_fraction_low: stats.clipFractionLow, clip_fraction_high: stats.clipFractionHigh,
    approximate_kl: stats.approximateKL, effective_sample_size: stats.effectiveSampleSize)
}

// MARK: - Divergences

/// Both, or neither, of a gradient's two arguments.
private func gradient(
  _ upstream: UnsafePointer<Double>?, _ tensor: UnsafePointer<cgrpo_tensor>?
) throws -> DivergenceGradient? {
  try require(
    (upstream == nil) == (tensor == nil), "grad_divergence and grad_velocity: give both or neither of them")
  guard let upstream, let tensor else { return nil }
  return (upstream, try latentsView(tensor, "grad_velocity", writable: true))
}

private func stepNumber(_ step: Int64) throws -> Int { try count(step, "step", 0...Schedule.maxSteps) }

@_cdecl("cgrpo_divergence_from_velocity") @implementation
public func cgrpo_divergence_from_velocity(
  _ handle: OpaquePointer!, _ step: Int64, _ kind: cgrpo_divergence, _ velocity: UnsafePointer<cgrpo_tensor>!,
  _ otherVelocity: UnsafePointer<cgrpo_tensor>!, _ divergence: UnsafeMutablePointer<Double>!,
  _ gradDivergence: UnsafePointer<Double>!, _ gradVelocity: UnsafePointer<cgrpo_tensor>!
) -> cgrpo_status {
  guarded {
    try sampler(handle).divergence(
      enumeration(kind, "kind"), stepNumber(step), velocity: latentsView(velocity, "velocity"),
      other: latentsView(otherVelocity, "other_velocity"), divergence: divergence,
      gradient: gradient(gradDivergence, gradVelocity))
  }
}

@_cdecl("cgrpo_divergence_from_sampled") @implementation
public func cgrpo_divergence_from_sampled(
  _ handle: OpaquePointer!, _ step: Int64, _ kind: cgrpo_divergence, _ latents: UnsafePointer<cgrpo_tensor>!,
  _ velocity: UnsafePointer<cgrpo_tensor>!, _ noise: UnsafePointer<cgrpo_noise>!,
  _ nextLatents: UnsafePointer<cgrpo_tensor>!, _ divergence: UnsafeMutablePointer<Double>!,
  _ gradDivergence: UnsafePointer<Double>!, _ gradVelocity: UnsafePointer<cgrpo_tensor>!
) -> cgrpo_status {
  guarded {
    let sampler = try sampler(handle)
    let k = try stepNumber(step)
    let kind: Divergence = try enumeration(kind, "kind")
    let latents = try latentsView(latents, "latents")
    let velocity = try latentsView(velocity, "velocity")
    let next = try latentsView(nextLatents, "next_latents")
    let gradient = try gradient(gradDivergence, gradVelocity)
    try sampler.divergenceFromSampled(
      kind, k, latents: latents, velocity: velocity, noise: stepNoise(noise, "noise.given"), next: next,
      divergence: divergence, gradient: gradient)
  }
}
