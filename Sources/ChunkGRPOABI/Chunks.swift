public import CChunkGRPO
import ChunkGRPO

private func write(
  _ plan: ChunkPlan, _ sizes: UnsafeMutablePointer<Int64>?, _ capacity: Int64,
  _ chunkCount: UnsafeMutablePointer<Int64>?
) throws {
  let sizes = try nonNull(sizes, "sizes")
  let chunkCount = try nonNull(chunkCount, "chunk_count")
  try require(capacity >= Int64(plan.count), "capacity = \(capacity) is too small for \(plan.count) chunks")
  for j in 0..<plan.count { sizes[j] = Int64(plan.size(j)) }
  chunkCount.pointee = Int64(plan.count)
}

@_cdecl("cgrpo_plan_fixed") @implementation
public func cgrpo_plan_fixed(
  _ steps: Int64, _ size: Int64, _ sizes: UnsafeMutablePointer<Int64>!, _ capacity: Int64,
  _ chunkCount: UnsafeMutablePointer<Int64>!
) -> cgrpo_status {
  guarded {
    let steps = try stepCount(steps)
    try write(ChunkPlan.fixed(steps: steps, size: count(size, "size", 1...steps)), sizes, capacity, chunkCount)
  }
}

@_cdecl("cgrpo_adaptive_options_init") @implementation
public func cgrpo_adaptive_options_init(_ options: UnsafeMutablePointer<cgrpo_adaptive_options>!, _ structSize: Int) {
  initStruct(options, size: structSize)
}

@_cdecl("cgrpo_plan_adaptive") @implementation
public func cgrpo_plan_adaptive(
  _ relativeL1: UnsafePointer<Double>!, _ batch: Int64, _ steps: Int64,
  _ options: UnsafePointer<cgrpo_adaptive_options>!, _ sizes: UnsafeMutablePointer<Int64>!, _ capacity: Int64,
  _ chunkCount: UnsafeMutablePointer<Int64>!
) -> cgrpo_status {
  guarded {
    let (batch, steps) = (try batchCount(batch), try stepCount(steps))
    let plan = try ChunkPlan.adaptive(
      relativeL1: numbers(relativeL1, "relative_l1", batch, steps), steps: steps, read(options))
    try write(plan, sizes, capacity, chunkCount)
  }
}

@_cdecl("cgrpo_optimal_options_init") @implementation
public func cgrpo_optimal_options_init(_ options: UnsafeMutablePointer<cgrpo_optimal_options>!, _ structSize: Int) {
  initStruct(options, size: structSize)
}

@_cdecl("cgrpo_plan_optimal") @implementation
public func cgrpo_plan_optimal(
  _ relativeL1: UnsafePointer<Double>!, _ batch: Int64, _ steps: Int64,
  _ options: UnsafePointer<cgrpo_optimal_options>!, _ sizes: UnsafeMutablePointer<Int64>!, _ capacity: Int64,
  _ chunkCount: UnsafeMutablePointer<Int64>!, _ curve: UnsafeMutablePointer<Double>!,
  _ explained: UnsafeMutablePointer<Double>!
) -> cgrpo_status {
  guarded {
    let (batch, steps) = (try batchCount(batch), try stepCount(steps))
    let fit = try ChunkPlan.optimalFit(
      relativeL1: numbers(relativeL1, "relative_l1", batch, steps), steps: steps, read(options))
    try write(fit.plan, sizes, capacity, chunkCount)
    withExtendedLifetime(fit.curve) { curve?.update(from: fit.curve.base, count: steps) }
    explained?.pointee = fit.explained
  }
}

@_cdecl("cgrpo_plan_describe") @implementation
public func cgrpo_plan_describe(
  _ sizes: UnsafePointer<Int64>!, _ chunkCount: Int64, _ text: UnsafeMutablePointer<CChar>!, _ capacity: Int,
  _ length: UnsafeMutablePointer<Int>!
) -> cgrpo_status {
  guarded {
    let plan = try plan(sizes, chunkCount)
    try writePieces(to: text, capacity, length) { write in plan.describe { write($0) } }
  }
}

@_cdecl("cgrpo_plan_carry") @implementation
public func cgrpo_plan_carry(
  _ sizes: UnsafePointer<Int64>!, _ chunkCount: Int64, _ from: UnsafePointer<Double>!, _ fromCount: Int64,
  _ to: UnsafePointer<Double>!, _ toCount: Int64, _ carried: UnsafeMutablePointer<Int64>!
) -> cgrpo_status {
  guarded {
    let old = try schedule(from, "from", count(fromCount, "from_count", 2...Schedule.maxSteps + 1))
    let new = try schedule(to, "to", count(toCount, "to_count", 2...Schedule.maxSteps + 1))
    let carried = try nonNull(carried, "carried")
    let plan = try plan(sizes, chunkCount, steps: old.steps - 1).carried(from: old, to: new)
    for j in 0..<plan.count { carried[j] = Int64(plan.size(j)) }
  }
}

@_cdecl("cgrpo_chunk_weights") @implementation
public func cgrpo_chunk_weights(
  _ relativeL1: UnsafePointer<Double>!, _ batch: Int64, _ steps: Int64, _ sizes: UnsafePointer<Int64>!,
  _ chunkCount: Int64, _ weights: UnsafeMutablePointer<Double>!
) -> cgrpo_status {
  guarded {
    let (batch, steps) = (try batchCount(batch), try stepCount(steps))
    let weights = try nonNull(weights, "weights")
    try plan(sizes, chunkCount, steps: steps).weights(
      relativeL1: numbers(relativeL1, "relative_l1", batch, steps), into: weights)
  }
}

@_cdecl("cgrpo_select_options_init") @implementation
public func cgrpo_select_options_init(_ options: UnsafeMutablePointer<cgrpo_select_options>!, _ structSize: Int) {
  initStruct(options, size: structSize)
}

@_cdecl("cgrpo_chunk_select") @implementation
public func cgrpo_chunk_select(
  _ batch: Int64, _ chunkCount: Int64, _ options: UnsafePointer<cgrpo_select_options>!,
  _ selection: UnsafeMutablePointer<UInt8>!
) -> cgrpo_status {
  guarded {
    let selection = try nonNull(selection, "selection")
    let batch = try batchCount(batch)
    let k = try count(chunkCount, "chunk_count", 1...Schedule.maxSteps)
    try selectChunks(
      batch: batch, count: k, read(options, Extent(samples: batch, chunks: k)), into: selection)
  }
}
