public import CChunkGRPO
import ChunkGRPO

@_cdecl("cgrpo_advantage_options_init") @implementation
public func cgrpo_advantage_options_init(
  _ options: UnsafeMutablePointer<cgrpo_advantage_options>!, _ structSize: Int
) {
  initStruct(options, size: structSize)
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
    let o = try read(options, Extent(samples: n))
    try advantages(numbers(rewards, "rewards", n, o.rewardCount), o, into: result)
  }
}

/// The object behind a `cgrpo_history *`.
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
    try handle.history.update(
      prompts: numbers(ints(prompts), "prompts", n), rewards: numbers(rewards, "rewards", n), advantages: result)
  }
}

@_cdecl("cgrpo_history_rewards") @implementation
public func cgrpo_history_rewards(
  _ handle: OpaquePointer!, _ prompts: UnsafeMutablePointer<Int64>!, _ rewards: UnsafeMutablePointer<Double>!,
  _ capacity: Int64, _ rewardCount: UnsafeMutablePointer<Int64>!
) -> cgrpo_status {
  guarded {
    let handle: HistoryHandle = try borrowed(handle, "history")
    let rewardCount = try nonNull(rewardCount, "count")
    let known = Int64(handle.history.rewardCount)
    if capacity != 0 {
      let (prompts, rewards) = (try nonNull(prompts, "prompts"), try nonNull(rewards, "rewards"))
      try require(capacity >= known, "capacity = \(capacity) is too small for \(known) rewards")
      var i = 0
      handle.history.forEachReward { prompt, reward in
        (prompts[i], rewards[i]) = (Int64(prompt), reward)
        i += 1
      }
    }
    rewardCount.pointee = known
  }
}

@_cdecl("cgrpo_diversity") @implementation
public func cgrpo_diversity(
  _ features: UnsafePointer<cgrpo_tensor>!, _ groupSize: Int64, _ threads: Int32,
  _ result: UnsafeMutablePointer<Double>!
) -> cgrpo_status {
  guarded {
    let result = try nonNull(result, "diversity")
    let size = try count(groupSize, "group_size", 0...maxCount)
    try diversity(
      latentsView(features, "features"), groupSize: size == 0 ? nil : size, threads: Int(threads), into: result)
  }
}

@_cdecl("cgrpo_best_of_n") @implementation
public func cgrpo_best_of_n(
  _ scores: UnsafePointer<Double>!, _ scoreCount: Int64, _ keep: Int64, _ chosen: UnsafeMutablePointer<UInt8>!
) -> cgrpo_status {
  guarded {
    let chosen = try nonNull(chosen, "chosen")
    let n = try count(scoreCount, "count", 1...maxCount)
    try bestOfN(numbers(scores, "scores", n), keep: count(keep, "keep", 1...n), chosen: chosen)
  }
}

@_cdecl("cgrpo_chunk_loss_options_init") @implementation
public func cgrpo_chunk_loss_options_init(
  _ options: UnsafeMutablePointer<cgrpo_chunk_loss_options>!, _ structSize: Int
) {
  initStruct(options, size: structSize)
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
    let (b, s) = (try batchCount(batch), try stepCount(steps))
    let loss = try nonNull(loss, "loss")
    let plan = try plan(sizes, chunkCount, steps: s)
    let o = try readStruct(options, "options", current: cgrpo_chunk_loss_options(ChunkLossOptions()))
    if let stats { try checkedSize(UnsafePointer(stats), "stats") }
    let options = try o.options(Extent(samples: b, steps: s, chunks: plan.count))
    let result = try chunkLoss(
      new: numbers(newLogProbs, "new_log_probs", b, s), old: numbers(oldLogProbs, "old_log_probs", b, s),
      advantages: numbers(advantageValues, "advantages", b, options.advantageLevel.row(plan)), plan: plan,
      options: options,
      to: ChunkLossOutput(gradLogProbs: gradLogProbs, gradRatioBias: o.grad_ratio_bias, ratios: ratios))
    loss.pointee = result.loss
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
    try plan.gcpoWeights(into: weights)
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
    try plan.tempFlowWeights(sampler, into: weights)
  }
}

func cStats(_ stats: ChunkStats) -> cgrpo_chunk_stats {
  cgrpo_chunk_stats(
    struct_size: MemoryLayout<cgrpo_chunk_stats>.stride, selected: Int64(stats.selected),
    ratio_mean: stats.ratioMean, ratio_std: stats.ratioStd, ratio_min: stats.ratioMin, ratio_max: stats.ratioMax,
    clip_fraction_low: stats.clipFractionLow, clip_fraction_high: stats.clipFractionHigh,
    approximate_kl: stats.approximateKL, effective_sample_size: stats.effectiveSampleSize,
    log_ratio_max: stats.logRatioMax)
}

private func swiftStats(_ stats: UnsafePointer<cgrpo_chunk_stats>?, _ name: String) throws -> ChunkStats {
  let stats = try readStruct(nonNull(stats, name), name, current: cStats(ChunkStats()))
  var result = ChunkStats()
  result.selected = Int(stats.selected)
  (result.ratioMean, result.ratioStd) = (stats.ratio_mean, stats.ratio_std)
  (result.ratioMin, result.ratioMax) = (stats.ratio_min, stats.ratio_max)
  (result.clipFractionLow, result.clipFractionHigh) = (stats.clip_fraction_low, stats.clip_fraction_high)
  (result.approximateKL, result.effectiveSampleSize) = (stats.approximate_kl, stats.effective_sample_size)
  result.logRatioMax = stats.log_ratio_max
  return result
}

@_cdecl("cgrpo_chunk_stats_merge") @implementation
public func cgrpo_chunk_stats_merge(
  _ total: UnsafeMutablePointer<cgrpo_chunk_stats>!, _ other: UnsafePointer<cgrpo_chunk_stats>!
) -> cgrpo_status {
  guarded {
    let target = try nonNull(total, "total")
    var merged = try swiftStats(target, "total")
    try merged.merge(swiftStats(other, "other"))
    try writeStruct(cStats(merged), to: target, "total")
  }
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
  _ handle: OpaquePointer!, _ step: Int64, _ steps: UnsafePointer<Int64>!, _ kind: cgrpo_divergence,
  _ velocity: UnsafePointer<cgrpo_tensor>!, _ otherVelocity: UnsafePointer<cgrpo_tensor>!,
  _ divergence: UnsafeMutablePointer<Double>!,
  _ gradDivergence: UnsafePointer<Double>!, _ gradVelocity: UnsafePointer<cgrpo_tensor>!
) -> cgrpo_status {
  guarded {
    let sampler = try sampler(handle)
    try sampler.divergence(
      enumeration(kind, "kind"), stepNumber(step), steps: steps.map(ints), velocity: latentsView(velocity, "velocity"),
      other: latentsView(otherVelocity, "other_velocity"), divergence: divergence,
      gradient: gradient(gradDivergence, gradVelocity))
  }
}

@_cdecl("cgrpo_divergence_from_sampled") @implementation
public func cgrpo_divergence_from_sampled(
  _ handle: OpaquePointer!, _ step: Int64, _ steps: UnsafePointer<Int64>!, _ kind: cgrpo_divergence,
  _ latents: UnsafePointer<cgrpo_tensor>!,
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
      kind, k, steps: steps.map(ints), latents: latents, velocity: velocity, noise: stepNoise(noise, "noise.given"),
      next: next,
      divergence: divergence, gradient: gradient)
  }
}
