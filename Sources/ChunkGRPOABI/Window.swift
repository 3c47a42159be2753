public import CChunkGRPO
import ChunkGRPO

func cWindowOptions(_ o: SDEWindowOptions = SDEWindowOptions()) -> cgrpo_window_options {
  cgrpo_window_options(
    struct_size: MemoryLayout<cgrpo_window_options>.stride, size: Int64(o.size), first: Int64(o.first),
    end: Int64(o.end), stride: Int64(o.stride ?? 0), strategy: o.strategy.rawValue, at_end: o.atEnd.rawValue,
    iterations: Int64(o.iterations), least: Int64(o.least), threshold: Int64(o.threshold), decay: o.decay, seed: o.seed)
}

@_cdecl("cgrpo_window_options_init") @implementation
public func cgrpo_window_options_init(_ options: UnsafeMutablePointer<cgrpo_window_options>!, _ structSize: Int) {
  initStruct(options, size: structSize, defaults: cWindowOptions())
}

private func window(_ o: cgrpo_window_options) throws -> SDEWindow {
  try SDEWindow(
    SDEWindowOptions {
      $0.size = try count(o.size, "size", 1...Schedule.maxSteps)
      $0.first = try count(o.first, "first", 0...Schedule.maxSteps)
      $0.end = try count(o.end, "end", 1...Schedule.maxSteps)
      let stride = try count(o.stride, "stride", 0...Schedule.maxSteps)
      $0.stride = stride == 0 ? nil : stride
      $0.strategy = try enumeration(o.strategy, "strategy")
      $0.atEnd = try enumeration(o.at_end, "at_end")
      $0.iterations = try count(o.iterations, "iterations", 1...maxCount)
      $0.least = try count(o.least, "least", Int.min...maxCount)
      $0.threshold = try count(o.threshold, "threshold", Int.min...maxCount)
      ($0.decay, $0.seed) = (o.decay, o.seed)
    })
}

@_cdecl("cgrpo_window_steps") @implementation
public func cgrpo_window_steps(
  _ options: UnsafePointer<cgrpo_window_options>!, _ iteration: Int64, _ steps: UnsafeMutablePointer<Int64>!,
  _ capacity: Int64, _ stepCount: UnsafeMutablePointer<Int64>!
) -> cgrpo_status {
  guarded {
    let (steps, stepCount) = (try nonNull(steps, "steps"), try nonNull(stepCount, "count"))
    // Null is no set of defaults here: `end` has none.
    let o = try readStruct(nonNull(options, "options"), "options", current: cWindowOptions())
    let result = try window(o).steps(iteration: count(iteration, "iteration", 0...maxCount))
    try require(capacity >= Int64(result.count), "capacity = \(capacity) is too small for \(result.count) steps")
    for (i, step) in result.enumerated() { steps[i] = Int64(step) }
    stepCount.pointee = Int64(result.count)
  }
}
