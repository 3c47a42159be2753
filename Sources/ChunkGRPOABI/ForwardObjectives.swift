public import CChunkGRPO
import ChunkGRPO

/// An objective of `batch` samples, or pairs, at `times` times each, with its loss and its statistics: all is checked
/// before anything is written.
private func objective(
  of name: String = "batch", _ batch: Int64, _ times: Int64, _ loss: UnsafeMutablePointer<Double>?,
  _ stats: UnsafeMutablePointer<cgrpo_forward_stats>?,
  _ run: (_ batch: Int, _ times: Int) throws -> (loss: Double, stats: ForwardStats)
) -> cgrpo_status {
  guarded {
    let (b, n) = (try count(batch, name, 1...maxCount), try count(times, "count", 1...maxCount))
    let loss = try nonNull(loss, "loss")
    if let stats { try checkedSize(UnsafePointer(stats), "stats") }
    try write(run(b, n), to: loss, stats)
  }
}

/// Writes what an objective returned.
private func write(
  _ result: (loss: Double, stats: ForwardStats), to loss: UnsafeMutablePointer<Double>,
  _ stats: UnsafeMutablePointer<cgrpo_forward_stats>?
) throws {
  loss.pointee = result.loss
  guard let stats else { return }
  let s = result.stats
  try writeStruct(
    cgrpo_forward_stats(
      struct_size: MemoryLayout<cgrpo_forward_stats>.stride, policy_loss: s.policyLoss, kl: s.kl,
      weight_mean: s.weightMean, clip_fraction: s.clipFraction, reward_mean: s.rewardMean, accuracy: s.accuracy),
    to: stats, "stats")
}

@_cdecl("cgrpo_nft_options_init") @implementation
public func cgrpo_nft_options_init(_ options: UnsafeMutablePointer<cgrpo_nft_options>!, _ structSize: Int) {
  initStruct(options, size: structSize)
}

@_cdecl("cgrpo_nft_loss") @implementation
public func cgrpo_nft_loss(
  _ positiveDistance: UnsafePointer<Double>!, _ negativeDistance: UnsafePointer<Double>!,
  _ advantageValues: UnsafePointer<Double>!, _ batch: Int64, _ count: Int64,
  _ options: UnsafePointer<cgrpo_nft_options>!, _ loss: UnsafeMutablePointer<Double>!,
  _ gradPositive: UnsafeMutablePointer<Double>!, _ gradNegative: UnsafeMutablePointer<Double>!,
  _ stats: UnsafeMutablePointer<cgrpo_forward_stats>!
) -> cgrpo_status {
  objective(batch, count, loss, stats) { b, n in
    let o = try readStruct(options, "options", current: cgrpo_nft_options(NFTOptions()))
    return try nftLoss(
      positive: numbers(positiveDistance, "positive_distance", b, n),
      negative: numbers(negativeDistance, "negative_distance", b, n),
      advantages: numbers(advantageValues, "advantages", b), options: o.options(Extent(samples: b, steps: n)),
      to: ForwardLossOutput(gradPositive, gradNegative, referenceDivergence: o.grad_reference_divergence))
  }
}

@_cdecl("cgrpo_matching_log_probs") @implementation
public func cgrpo_matching_log_probs(
  _ distances: UnsafePointer<Double>!, _ times: UnsafePointer<Double>!, _ distanceCount: Int64,
  _ weighting: cgrpo_matching_weighting, _ power: Double, _ logProbs: UnsafeMutablePointer<Double>!,
  _ slopes: UnsafeMutablePointer<Double>!
) -> cgrpo_status {
  guarded {
    let n = try count(distanceCount, "count", 1...maxCount)
    try matchingLogProbs(
      numbers(distances, "distances", n), times: times.map { try numbers($0, "times", n) },
      weighting: enumeration(weighting, "weighting"), power: power, logProbs: nonNull(logProbs, "log_probs"),
      slopes: slopes)
  }
}

@_cdecl("cgrpo_dgpo_options_init") @implementation
public func cgrpo_dgpo_options_init(_ options: UnsafeMutablePointer<cgrpo_dgpo_options>!, _ structSize: Int) {
  initStruct(options, size: structSize)
}

@_cdecl("cgrpo_dgpo_loss") @implementation
public func cgrpo_dgpo_loss(
  _ distance: UnsafePointer<Double>!, _ referenceDistance: UnsafePointer<Double>!,
  _ advantageValues: UnsafePointer<Double>!, _ batch: Int64, _ count: Int64,
  _ options: UnsafePointer<cgrpo_dgpo_options>!, _ loss: UnsafeMutablePointer<Double>!,
  _ gradDistance: UnsafeMutablePointer<Double>!, _ stats: UnsafeMutablePointer<cgrpo_forward_stats>!
) -> cgrpo_status {
  objective(batch, count, loss, stats) { b, n in
    let o = try readStruct(options, "options", current: cgrpo_dgpo_options(DGPOOptions()))
    return try dgpoLoss(
      distance: numbers(distance, "distance", b, n),
      reference: numbers(referenceDistance, "reference_distance", b, n),
      advantages: numbers(advantageValues, "advantages", b), options: o.options(Extent(samples: b, steps: n)),
      to: ForwardLossOutput(gradDistance, referenceDivergence: o.grad_reference_divergence))
  }
}

@_cdecl("cgrpo_crd_options_init") @implementation
public func cgrpo_crd_options_init(_ options: UnsafeMutablePointer<cgrpo_crd_options>!, _ structSize: Int) {
  initStruct(options, size: structSize)
}

@_cdecl("cgrpo_crd_loss") @implementation
public func cgrpo_crd_loss(
  _ distance: UnsafePointer<Double>!, _ oldDistance: UnsafePointer<Double>!, _ advantageValues: UnsafePointer<Double>!,
  _ batch: Int64, _ count: Int64, _ options: UnsafePointer<cgrpo_crd_options>!, _ loss: UnsafeMutablePointer<Double>!,
  _ gradDistance: UnsafeMutablePointer<Double>!, _ stats: UnsafeMutablePointer<cgrpo_forward_stats>!
) -> cgrpo_status {
  objective(batch, count, loss, stats) { b, n in
    let o = try readStruct(options, "options", current: cgrpo_crd_options(CRDOptions()))
    return try crdLoss(
      distance: numbers(distance, "distance", b, n), old: numbers(oldDistance, "old_distance", b, n),
      advantages: numbers(advantageValues, "advantages", b), options: o.options(Extent(samples: b, steps: n)),
      to: ForwardLossOutput(gradDistance, referenceDivergence: o.grad_reference_divergence))
  }
}

@_cdecl("cgrpo_dpo_options_init") @implementation
public func cgrpo_dpo_options_init(_ options: UnsafeMutablePointer<cgrpo_dpo_options>!, _ structSize: Int) {
  initStruct(options, size: structSize)
}

@_cdecl("cgrpo_dpo_loss") @implementation
public func cgrpo_dpo_loss(
  _ chosen: UnsafePointer<Double>!, _ rejected: UnsafePointer<Double>!, _ chosenReference: UnsafePointer<Double>!,
  _ rejectedReference: UnsafePointer<Double>!, _ pairs: Int64, _ count: Int64,
  _ options: UnsafePointer<cgrpo_dpo_options>!, _ loss: UnsafeMutablePointer<Double>!,
  _ gradChosen: UnsafeMutablePointer<Double>!, _ gradRejected: UnsafeMutablePointer<Double>!,
  _ stats: UnsafeMutablePointer<cgrpo_forward_stats>!
) -> cgrpo_status {
  objective(of: "pairs", pairs, count, loss, stats) { p, n in
    try dpoLoss(
      chosen: numbers(chosen, "chosen_distance", p, n), rejected: numbers(rejected, "rejected_distance", p, n),
      chosenReference: numbers(chosenReference, "chosen_reference_distance", p, n),
      rejectedReference: numbers(rejectedReference, "rejected_reference_distance", p, n), times: n,
      options: read(options), to: ForwardLossOutput(gradChosen, gradRejected))
  }
}

@_cdecl("cgrpo_preference_pairs") @implementation
public func cgrpo_preference_pairs(
  _ scores: UnsafePointer<Double>!, _ scoreCount: Int64, _ groupSize: Int64, _ groupIDs: UnsafePointer<Int64>!,
  _ chosen: UnsafeMutablePointer<Int64>!, _ rejected: UnsafeMutablePointer<Int64>!,
  _ pairCount: UnsafeMutablePointer<Int64>!
) -> cgrpo_status {
  guarded {
    let n = try count(scoreCount, "count", 1...maxCount)
    let (chosen, rejected) = (try nonNull(chosen, "chosen"), try nonNull(rejected, "rejected"))
    let pairCount = try nonNull(pairCount, "pair_count")
    let size = groupSize == 0 ? nil : try count(groupSize, "group_size", 1...maxCount)
    let ids = try groupIDs.map { try numbers(ints($0), "group_ids", n) }
    var found = 0
    try preferencePairs(numbers(scores, "scores", n), groupSize: size, groupIDs: ids) {
      (chosen[found], rejected[found]) = (Int64($0), Int64($1))
      found += 1
    }
    pairCount.pointee = Int64(found)
  }
}

@_cdecl("cgrpo_time_options_init") @implementation
public func cgrpo_time_options_init(_ options: UnsafeMutablePointer<cgrpo_time_options>!, _ structSize: Int) {
  initStruct(options, size: structSize)
}

@_cdecl("cgrpo_times") @implementation
public func cgrpo_times(
  _ batch: Int64, _ timeCount: Int64, _ draw: Int64, _ options: UnsafePointer<cgrpo_time_options>!,
  _ times: UnsafeMutablePointer<Double>!
) -> cgrpo_status {
  guarded {
    let (b, n) = (try batchCount(batch), try count(timeCount, "count", 1...1_000_000))
    _ = try product(b, n, "times")
    try forwardTimes(
      batch: b, count: n, draw: count(draw, "draw", 0...ForwardDraw.count - 1),
      options: read(options, Extent(samples: b)),
      into: nonNull(times, "times"))
  }
}
