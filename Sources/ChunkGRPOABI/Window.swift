public import CChunkGRPO
import ChunkGRPO

func cWindowOptions(_ window: SDEWindow) -> cgrpo_window_options {
  var o = defaultWindowOptions()
  (o.size, o.first, o.end, o.stride) = (
    Int64(window.size), Int64(window.first), Int64(window.end), Int64(window.stride)
  )
  o.at_end = window.atEnd.rawValue
  switch window.strategy {
  case .fixed: o.strategy = 1
  case .random(let seed): (o.strategy, o.seed) = (2, seed)
  case .subset(let count, let seed): (o.strategy, o.seed, o.size) = (3, seed, Int64(count))
  case .progressive(let iterations): (o.strategy, o.iterations) = (4, Int64(iterations))
  case .linearDecay(let most, let least): (o.strategy, o.iterations, o.least) = (5, Int64(most), Int64(least))
  case .exponentialDecay(let iterations, let threshold, let k):
    (o.strategy, o.iterations, o.threshold, o.decay) = (6, Int64(iterations), Int64(threshold), k)
  }
  return o
}

func defaultWindowOptions() -> cgrpo_window_options {
  cgrpo_window_options(
    struct_size: MemoryLayout<cgrpo_window_options>.stride, size: 4, first: 0, end: 0, stride: 0, strategy: 4,
    at_end: SDEWindow.AtEnd.wrap.rawValue, iterations: 25, least: 1, threshold: 13, decay: 0.1, seed: 0)
}

@_cdecl("cgrpo_window_options_init") @implementation
public func cgrpo_window_options_init(_ options: UnsafeMutablePointer<cgrpo_window_options>!, _ structSize: Int) {
  initStruct(options, size: structSize, defaults: defaultWindowOptions())
}

private func window(_ o: cgrpo_window_options) throws -> SDEWindow {
  let size = try count(o.size, "size", 1...Schedule.maxSteps)
  let iterations = try count(o.iterations, "iterations", 1...maxCount)
  let strategy: SDEWindow.Strategy
  switch o.strategy {
  case 1: strategy = .fixed
  case 2: strategy = .random(seed: o.seed)
  case 3: strategy = .subset(count: size, seed: o.seed)
  case 4: strategy = .progressive(iterations: iterations)
  case 5: strategy = .linearDecay(most: iterations, least: try count(o.least, "least", 1...iterations))
  case 6:
    strategy = .exponentialDecay(
      iterations: iterations, threshold: try count(o.threshold, "threshold", 0...maxCount), k: o.decay)
  default: throw ChunkGRPOError.invalidArgument("strategy = \(o.strategy) is none of its values")
  }
  let stride = try count(o.stride, "stride", 0...Schedule.maxSteps)
  return try SDEWindow(
    size: size, end: count(o.end, "end", 1...Schedule.maxSteps), first: count(o.first, "first", 0...Schedule.maxSteps),
    stride: stride == 0 ? nil : stride, strategy: strategy, atEnd: enumeration(o.at_end, "at_end"))
}

@_cdecl("cgrpo_window_steps") @implementation
public func cgrpo_window_steps(
  _ options: UnsafePointer<cgrpo_window_options>!, _ iteration: Int64, _ steps: UnsafeMutablePointer<Int64>!,
  _ capacity: Int64, _ stepCount: UnsafeMutablePointer<Int64>!
) -> cgrpo_status {
  guarded {
    let (steps, stepCount) = (try nonNull(steps, "steps"), try nonNull(stepCount, "count"))
    // Null is no set of defaults here: `end` has none.
    let o = try readStruct(nonNull(options, "options"), "options", current: defaultWindowOptions())
    let result = try window(o).steps(iteration: count(iteration, "iteration", 0...maxCount))
    try require(capacity >= Int64(result.count), "capacity = \(capacity) is too small for \(result.count) steps")
    for (i, step) in result.enumerated() { steps[i] = Int64(step) }
    stepCount.pointee = Int64(result.count)
  }
}
