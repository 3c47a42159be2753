public import CChunkGRPO
import ChunkGRPO

// MARK: - Advantages of steps and of trees

@_cdecl("cgrpo_step_gains") @implementation
public func cgrpo_step_gains(
  _ rewards: UnsafePointer<Double>!, _ batch: Int64, _ steps: Int64, _ kind: cgrpo_gain,
  _ gains: UnsafeMutablePointer<Double>!
) -> cgrpo_status {
  guarded {
    let (b, s) = (try batchCount(batch), try stepCount(steps))
    try stepGains(
      numbers(rewards, "rewards", b, s + 1), batch: b, steps: s, enumeration(kind, "kind"),
      into: nonNull(gains, "gains"))
  }
}

@_cdecl("cgrpo_step_advantages") @implementation
public func cgrpo_step_advantages(
  _ rewards: UnsafePointer<Double>!, _ batch: Int64, _ steps: Int64,
  _ options: UnsafePointer<cgrpo_advantage_options>!, _ result: UnsafeMutablePointer<Double>!
) -> cgrpo_status {
  guarded {
    let (b, s) = (try batchCount(batch), try stepCount(steps))
    let result = try nonNull(result, "advantages")
    try stepAdvantages(
      numbers(rewards, "rewards", b, s), batch: b, steps: s, read(options, Extent(samples: b)), into: result)
  }
}

@_cdecl("cgrpo_tree_advantages") @implementation
public func cgrpo_tree_advantages(
  _ rewards: UnsafePointer<Double>!, _ nodes: UnsafePointer<Int64>!, _ logProbs: UnsafePointer<Double>!, _ batch: Int64,
  _ steps: Int64, _ options: UnsafePointer<cgrpo_advantage_options>!, _ result: UnsafeMutablePointer<Double>!
) -> cgrpo_status {
  guarded {
    let (b, s) = (try batchCount(batch), try stepCount(steps))
    let result = try nonNull(result, "advantages")
    let nodes = try nonNull(nodes, "nodes")
    try treeAdvantages(
      numbers(rewards, "rewards", b), nodes: numbers(ints(nodes), "nodes", b, s),
      logProbs: logProbs.map { try numbers($0, "log_probs", b, s) }, steps: s, read(options, Extent(samples: b)),
      into: result)
  }
}

// MARK: - Groups

@_cdecl("cgrpo_zero_std_groups") @implementation
public func cgrpo_zero_std_groups(
  _ rewards: UnsafePointer<Double>!, _ rewardCount: Int64, _ options: UnsafePointer<cgrpo_advantage_options>!,
  _ mask: UnsafeMutablePointer<UInt8>!, _ groups: UnsafeMutablePointer<Int64>!,
  _ zeroStd: UnsafeMutablePointer<Int64>!
) -> cgrpo_status {
  guarded {
    let n = try count(rewardCount, "count", 1...maxCount)
    let (groups, zeroStd) = (try nonNull(groups, "groups"), try nonNull(zeroStd, "zero_std"))
    let found = try zeroStdGroups(
      numbers(rewards, "rewards", n), read(options, Extent(samples: n)), mask: mask)
    (groups.pointee, zeroStd.pointee) = (Int64(found.groups), Int64(found.zeroStd))
  }
}

@_cdecl("cgrpo_win_rates") @implementation
public func cgrpo_win_rates(
  _ rewards: UnsafePointer<Double>!, _ rewardCount: Int64, _ options: UnsafePointer<cgrpo_advantage_options>!,
  _ rates: UnsafeMutablePointer<Double>!
) -> cgrpo_status {
  guarded {
    let n = try count(rewardCount, "count", 1...maxCount)
    let rates = try nonNull(rates, "rates")
    try winRates(numbers(rewards, "rewards", n), read(options, Extent(samples: n)), into: rates)
  }
}

// MARK: - Weights

@_cdecl("cgrpo_gradient_weights") @implementation
public func cgrpo_gradient_weights(
  _ handle: OpaquePointer!, _ kind: cgrpo_gradient_weighting, _ sizes: UnsafePointer<Int64>!, _ chunkCount: Int64,
  _ weights: UnsafeMutablePointer<Double>!
) -> cgrpo_status {
  guarded {
    let weights = try nonNull(weights, "weights")
    let sampler = try sampler(handle)
    let plan = try plan(sizes, chunkCount)
    try plan.gradientWeights(enumeration(kind, "kind"), sampler, into: weights)
  }
}

@_cdecl("cgrpo_importance_options_init") @implementation
public func cgrpo_importance_options_init(
  _ options: UnsafeMutablePointer<cgrpo_importance_options>!, _ structSize: Int
) {
  initStruct(options, size: structSize)
}

@_cdecl("cgrpo_importance_weights") @implementation
public func cgrpo_importance_weights(
  _ logProbs: UnsafePointer<Double>!, _ behaviour: UnsafePointer<Double>!, _ batch: Int64, _ steps: Int64,
  _ sizes: UnsafePointer<Int64>!, _ chunkCount: Int64, _ options: UnsafePointer<cgrpo_importance_options>!,
  _ weights: UnsafeMutablePointer<Double>!
) -> cgrpo_status {
  guarded {
    let (b, s) = (try batchCount(batch), try stepCount(steps))
    let weights = try nonNull(weights, "weights")
    let plan = try plan(sizes, chunkCount, steps: s)
    try importanceWeights(
      numbers(logProbs, "log_probs", b, s), behaviour: numbers(behaviour, "behaviour_log_probs", b, s), batch: b,
      plan: plan, read(options, Extent(samples: b, steps: s, chunks: plan.count)), into: weights)
  }
}

// MARK: - Forks

@_cdecl("cgrpo_forked_ids") @implementation
public func cgrpo_forked_ids(
  _ sampleIDs: UnsafePointer<UInt64>!, _ batch: Int64, _ step: Int64, _ branches: Int64,
  _ ids: UnsafeMutablePointer<UInt64>!
) -> cgrpo_status {
  guarded {
    let ids = try nonNull(ids, "ids")
    let b = try batchCount(batch)
    let step = try count(step, "step", 0...Schedule.maxSteps)
    let branches = try count(branches, "branches", 1...1 << 20)
    _ = try product(b, branches, "ids")
    forkedIDs(sampleIDs, batch: b, step: step, branches: branches, into: ids)
  }
}

// MARK: - Norms

@_cdecl("cgrpo_norm_hinge") @implementation
public func cgrpo_norm_hinge(
  _ velocity: UnsafePointer<cgrpo_tensor>!, _ reference: UnsafePointer<cgrpo_tensor>!, _ threads: Int32,
  _ ratios: UnsafeMutablePointer<Double>!, _ hinges: UnsafeMutablePointer<Double>!,
  _ gradHinges: UnsafePointer<Double>!, _ gradVelocity: UnsafePointer<cgrpo_tensor>!
) -> cgrpo_status {
  guarded {
    let velocity = try latentsView(velocity, "velocity")
    let reference = try latentsView(reference, "reference_velocity")
    try require(
      (gradHinges == nil) == (gradVelocity == nil), "grad_hinges and grad_velocity: give both or neither of them")
    let gradient: NormHingeGradient? =
      if let gradHinges, let gradVelocity {
        (gradHinges, try latentsView(gradVelocity, "grad_velocity", writable: true))
      } else { nil }
    try normHinge(
      velocity: velocity, reference: reference, threads: Int(threads), ratios: ratios, hinges: hinges,
      gradient: gradient)
  }
}
