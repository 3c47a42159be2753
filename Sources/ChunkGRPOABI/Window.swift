public import CChunkGRPO
import ChunkGRPO

@_cdecl("cgrpo_window_options_init") @implementation
public func cgrpo_window_options_init(_ options: UnsafeMutablePointer<cgrpo_window_options>!, _ structSize: Int) {
  initStruct(options, size: structSize)
}

@_cdecl("cgrpo_window_steps") @implementation
public func cgrpo_window_steps(
  _ options: UnsafePointer<cgrpo_window_options>!, _ iteration: Int64, _ steps: UnsafeMutablePointer<Int64>!,
  _ capacity: Int64, _ stepCount: UnsafeMutablePointer<Int64>!
) -> cgrpo_status {
  guarded {
    let (steps, stepCount) = (try nonNull(steps, "steps"), try nonNull(stepCount, "count"))
    // Null is no set of defaults here: `end` has none.
    let window = try SDEWindow(read(nonNull(options, "options")))
    let result = try window.stepNumbers(iteration: count(iteration, "iteration", 0...maxCount))
    try require(capacity >= Int64(result.count), "capacity = \(capacity) is too small for \(result.count) steps")
    for (i, step) in result.enumerated() { steps[i] = Int64(step) }
    stepCount.pointee = Int64(result.count)
  }
}
