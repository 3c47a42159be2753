public import CChunkGRPO
import ChunkGRPO

private func defaultAdvantageOptions() -> cgrpo_advantage_options {
  cgrpo_advantage_options(
    struct_size: MemoryLayout<cgrpo_advantage_options>.stride, group_size: 0, clamp: 5, epsilon: 1e-8)
}

@_cdecl("cgrpo_advantage_options_init") @implementation
public func cgrpo_advantage_options_init(
  _ options: UnsafeMutablePointer<cgrpo_advantage_options>!, _ structSize: Int
) {
  initStruct(options, size: structSize, defaults: defaultAdvantageOptions())
}

@_cdecl("cgrpo_advantages") @implementation
public func cgrpo_advantages(
  _ rewards: UnsafePointer<Double>!, _ rewardCount: Int64, _ options: UnsafePointer<cgrpo_advantage_options>!,
  _ result: UnsafeMutablePointer<Double>!
) -> cgrpo_status {
  guarded {
    let result = try nonNull(result, "advantages")
    let n = try count(rewardCount, "count", 1...maxCount)
    let o = try readStruct(options, "options", current: defaultAdvantageOptions())
    let groupSize = try count(o.group_size, "group_size", 0...maxCount)
    let values = try advantages(
      array(rewards, "rewards", n, 1), groupSize: groupSize == 0 ? nil : groupSize, clamp: o.clamp,
      epsilon: o.epsilon)
    result.update(from: values, count: n)
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
    if let stats { _ = try checkedSize(UnsafeRawPointer(stats), "stats", minimum: MemoryLayout<Int>.stride) }
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
