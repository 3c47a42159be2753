public import CChunkGRPO
import ChunkGRPO

/// The plan that a caller's array of sizes describes.
func plan(_ sizes: UnsafePointer<Int64>?, _ chunkCount: Int64, steps: Int? = nil) throws -> ChunkPlan {
  let sizes = try nonNull(sizes, "sizes")
  let n = try count(chunkCount, "chunk_count", 1...Schedule.maxSteps)
  let plan = try ChunkPlan(
    (0..<n).map { try count(sizes[$0], "sizes[\($0)]", 1...Schedule.maxSteps) })
  if let steps {
    try require(
      plan.steps == steps, "the chunk sizes sum to \(plan.steps), but there are \(steps) trained steps")
  }
  return plan
}

func array(_ pointer: UnsafePointer<Double>?, _ name: String, _ rows: Int, _ columns: Int) throws -> [Double] {
  let pointer = try nonNull(pointer, name)
  return Array(UnsafeBufferPointer(start: pointer, count: try product(rows, columns, name)))
}

private func batchCount(_ batch: Int64) throws -> Int { try count(batch, "batch", 1...maxCount) }
private func stepCount(_ steps: Int64) throws -> Int { try count(steps, "steps", 1...Schedule.maxSteps) }

private func write(
  _ plan: ChunkPlan, _ sizes: UnsafeMutablePointer<Int64>?, _ capacity: Int64,
  _ chunkCount: UnsafeMutablePointer<Int64>?
) throws {
  let sizes = try nonNull(sizes, "sizes")
  let chunkCount = try nonNull(chunkCount, "chunk_count")
  try require(capacity >= Int64(plan.count), "capacity = \(capacity) is too small for \(plan.count) chunks")
  for (j, size) in plan.sizes.enumerated() { sizes[j] = Int64(size) }
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

private func defaultAdaptiveOptions() -> cgrpo_adaptive_options {
  let o = AdaptiveChunkOptions()
  return cgrpo_adaptive_options(
    struct_size: MemoryLayout<cgrpo_adaptive_options>.stride, max_size: Int64(o.maxSize), min_size: Int64(o.minSize))
}

@_cdecl("cgrpo_adaptive_options_init") @implementation
public func cgrpo_adaptive_options_init(_ options: UnsafeMutablePointer<cgrpo_adaptive_options>!, _ structSize: Int) {
  initStruct(options, size: structSize, defaults: defaultAdaptiveOptions())
}

@_cdecl("cgrpo_plan_adaptive") @implementation
public func cgrpo_plan_adaptive(
  _ relativeL1: UnsafePointer<Double>!, _ batch: Int64, _ steps: Int64,
  _ options: UnsafePointer<cgrpo_adaptive_options>!, _ sizes: UnsafeMutablePointer<Int64>!, _ capacity: Int64,
  _ chunkCount: UnsafeMutablePointer<Int64>!
) -> cgrpo_status {
  guarded {
    let (batch, steps) = (try batchCount(batch), try stepCount(steps))
    let o = try readStruct(options, "options", current: defaultAdaptiveOptions())
    let plan = try ChunkPlan.adaptive(
      relativeL1: array(relativeL1, "relative_l1", batch, steps), steps: steps,
      AdaptiveChunkOptions {
        $0.maxSize = try count(o.max_size, "max_size", 0...maxCount)
        $0.minSize = try count(o.min_size, "min_size", 1...maxCount)
      })
    try write(plan, sizes, capacity, chunkCount)
  }
}

private func defaultOptimalOptions() -> cgrpo_optimal_options {
  let o = OptimalChunkOptions()
  return cgrpo_optimal_options(
    struct_size: MemoryLayout<cgrpo_optimal_options>.stride, chunk_count: Int64(o.count ?? 0), explained: o.explained,
    min_size: Int64(o.minSize), max_size: Int64(o.maxSize))
}

@_cdecl("cgrpo_optimal_options_init") @implementation
public func cgrpo_optimal_options_init(_ options: UnsafeMutablePointer<cgrpo_optimal_options>!, _ structSize: Int) {
  initStruct(options, size: structSize, defaults: defaultOptimalOptions())
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
    let o = try readStruct(options, "options", current: defaultOptimalOptions())
    let k = try count(o.chunk_count, "chunk_count", 0...steps)
    let fit = try ChunkPlan.optimal(
      relativeL1: array(relativeL1, "relative_l1", batch, steps), steps: steps,
      OptimalChunkOptions {
        $0.count = k == 0 ? nil : k
        $0.explained = o.explained
        $0.minSize = try count(o.min_size, "min_size", 1...maxCount)
        $0.maxSize = try count(o.max_size, "max_size", 0...maxCount)
      })
    try write(fit.plan, sizes, capacity, chunkCount)
    curve?.update(from: fit.curve, count: steps)
    explained?.pointee = fit.explained
  }
}

@_cdecl("cgrpo_plan_describe") @implementation
public func cgrpo_plan_describe(
  _ sizes: UnsafePointer<Int64>!, _ chunkCount: Int64, _ text: UnsafeMutablePointer<CChar>!, _ capacity: Int,
  _ length: UnsafeMutablePointer<Int>!
) -> cgrpo_status {
  guarded { try write(plan(sizes, chunkCount).description, to: text, capacity, length) }
}

@_cdecl("cgrpo_plan_carry") @implementation
public func cgrpo_plan_carry(
  _ sizes: UnsafePointer<Int64>!, _ chunkCount: Int64, _ from: UnsafePointer<Double>!, _ fromCount: Int64,
  _ to: UnsafePointer<Double>!, _ toCount: Int64, _ carried: UnsafeMutablePointer<Int64>!
) -> cgrpo_status {
  guarded {
    let old = try Schedule(array(from, "from", count(fromCount, "from_count", 2...Schedule.maxSteps + 1), 1))
    let new = try Schedule(array(to, "to", count(toCount, "to_count", 2...Schedule.maxSteps + 1), 1))
    let carried = try nonNull(carried, "carried")
    let plan = try plan(sizes, chunkCount, steps: old.steps - 1).carried(from: old, to: new)
    for (j, size) in plan.sizes.enumerated() { carried[j] = Int64(size) }
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
    let result = try plan(sizes, chunkCount, steps: steps).weights(
      relativeL1: array(relativeL1, "relative_l1", batch, steps))
    weights.update(from: result, count: result.count)
  }
}

private func defaultSelectOptions() -> cgrpo_select_options {
  cgrpo_select_options(
    struct_size: MemoryLayout<cgrpo_select_options>.stride, fraction: ChunkSelectionOptions().fraction, weights: nil,
    weighting: ChunkSelectionOptions().weighting.rawValue, reserved: 0, fixed: nil, fixed_count: 0, seed: 0,
    sample_ids: nil)
}

@_cdecl("cgrpo_select_options_init") @implementation
public func cgrpo_select_options_init(_ options: UnsafeMutablePointer<cgrpo_select_options>!, _ structSize: Int) {
  initStruct(options, size: structSize, defaults: defaultSelectOptions())
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
    let o = try readStruct(options, "options", current: defaultSelectOptions())
    try require(o.reserved == 0, "options.reserved = \(o.reserved) must be 0")
    let result = try selectChunks(
      batch: batch, count: k,
      ChunkSelectionOptions {
        $0.fraction = o.fraction
        $0.weights = try o.weights.map { try array($0, "weights", batch, k) }
        $0.weighting = try enumeration(o.weighting, "weighting")
        $0.seed = o.seed
        $0.sampleIDs = o.sample_ids.map { Array(UnsafeBufferPointer(start: $0, count: batch)) }
        if let fixed = o.fixed {
          let n = try count(o.fixed_count, "fixed_count", 1...k)
          $0.fixed = try (0..<n).map { try count(fixed[$0], "fixed[\($0)]", 0...k - 1) }
        } else {
          try require(o.fixed_count == 0, "fixed is null, but fixed_count = \(o.fixed_count)")
        }
      })
    selection.update(from: result, count: result.count)
  }
}
