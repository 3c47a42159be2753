public import CChunkGRPO
import ChunkGRPO

private func defaultAdvantageOptions() -> cgrpo_advantage_options {
  let o = AdvantageOptions()
  return cgrpo_advantage_options(
    struct_size: MemoryLayout<cgrpo_advantage_options>.stride, group_size: 0, clamp: o.clamp, epsilon: o.epsilon,
    floor: o.floor, group_ids: nil, baseline: o.baseline.rawValue, scale: o.scale.rawValue,
    deviation: o.deviation.rawValue, subtract_median: o.subtractsMedian ? 1 : 0, trim: o.trim, reward_count: 1,
    reward_weights: nil, mixing: o.mixing.rawValue, reserved: 0)
}

@_cdecl("cgrpo_advantage_options_init") @implementation
public func cgrpo_advantage_options_init(
  _ options: UnsafeMutablePointer<cgrpo_advantage_options>!, _ structSize: Int
) {
  initStruct(options, size: structSize, defaults: defaultAdvantageOptions())
}

private func advantageOptions(_ o: cgrpo_advantage_options, count n: Int) throws -> AdvantageOptions {
  try require(o.reserved == 0, "options.reserved = \(o.reserved) must be 0")
  var options = AdvantageOptions()
  let groupSize = try count(o.group_size, "group_size", 0...maxCount)
  if let ids = o.group_ids {
    try require(groupSize == 0, "group_ids and group_size = \(groupSize) exclude each other")
    options.groups = .ids((0..<n).map { Int(ids[$0]) })
  } else if groupSize > 0 {
    options.groups = .size(groupSize)
  }
  options.clamp = o.clamp
  options.epsilon = o.epsilon
  options.floor = o.floor
  options.baseline = try enumeration(o.baseline, "baseline")
  options.scale = try enumeration(o.scale, "scale")
  options.deviation = try enumeration(o.deviation, "deviation")
  options.subtractsMedian = try flag(o.subtract_median, "subtract_median")
  options.trim = o.trim
  let kinds = try count(o.reward_count, "reward_count", 1...1 << 20)
  options.rewardWeights = try o.reward_weights.map { try array($0, "reward_weights", kinds, 1) }
    ?? [Double](repeating: 1, count: kinds)
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
    let o = try advantageOptions(readStruct(options, "options", current: defaultAdvantageOptions()), count: n)
    let values = try advantages(array(rewards, "rewards", n, o.rewardWeights?.count ?? 1), o)
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

private func defaultChunkLossOptions() -> cgrpo_chunk_loss_options {
  cgrpo_chunk_loss_options(
    struct_size: MemoryLayout<cgrpo_chunk_loss_options>.stride, clip_low: ClipRange.gcpo.low,
    clip_high: ClipRange.gcpo.high, kl: 0, selection: nil)
}

@_cdecl("cgrpo_chunk_loss_options_init") @implementation
public func cgrpo_chunk_loss_options_init(
  _ options: UnsafeMutablePointer<cgrpo_chunk_loss_options>!, _ structSize: Int
) {
  initStruct(options, size: structSize, defaults: defaultChunkLossOptions())
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
    let o = try readStruct(options, "options", current: defaultChunkLossOptions())
    if let stats { _ = try checkedSize(UnsafeRawPointer(stats), "stats", minimum: MemoryLayout<cgrpo_chunk_stats>.stride) }
    let selection = try o.selection.map {
      Array(UnsafeBufferPointer(start: $0, count: try product(b, plan.count, "selection")))
    }
    let result = try chunkLoss(
      new: array(newLogProbs, "new_log_probs", b, s), old: array(oldLogProbs, "old_log_probs", b, s),
      advantages: array(advantageValues, "advantages", b, 1), plan: plan,
      clip: ClipRange(low: o.clip_low, high: o.clip_high), kl: o.kl, selection: selection)
    loss.pointee = result.loss
    gradLogProbs?.update(from: result.gradLogProbs, count: result.gradLogProbs.count)
    ratios?.update(from: result.ratios, count: result.ratios.count)
    if let stats { try writeStruct(cStats(result.stats), to: stats, "stats") }
  }
}

func cStats(_ stats: ChunkStats) -> cgrpo_chunk_stats {
  cgrpo_chunk_stats(
    struct_size: MemoryLayout<cgrpo_chunk_stats>.stride, selected: Int64(stats.selected),
    ratio_mean: stats.ratioMean, ratio_std: stats.ratioStd, ratio_min: stats.ratioMin, ratio_max: stats.ratioMax,
    clip_fraction_low: stats.clipFractionLow, clip_fraction_high: stats.clipFractionHigh,
    approximate_kl: stats.approximateKL, effective_sample_size: stats.effectiveSampleSize)
}
