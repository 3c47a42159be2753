/// Numbers of the forward process's draws: each has a noise and times of its own, which no step of a rollout and no other
/// draw has, for the same seed and sample ids.
package enum ForwardDraw {
  package static let count = 1 << 29

  /// The step number of a draw's noise, from 2³¹ on.
  package static func noiseStep(_ draw: Int) -> Int { 1 << 31 + draw }
  /// The same of its times.
  package static func timesStep(_ draw: Int) -> Int { 1 << 31 + count + draw }

  static func check(_ draw: Int) throws {
    try require((0..<count).contains(draw), "draw = \(draw) is outside 0 … \(count - 1)")
  }
}

/// Noised latents x_t = (1 − t)·x0 + t·ε, with a time for each sample.
///
/// - Parameters:
///   - clean: x0, (B, D).
///   - times: (B), in (0, 1].
///   - noise: given, or the library's, which depends on `draw`: 0 … 2²⁹ − 1.
///   - noised: x_t; it may be `clean`.
public func forwardNoised(
  clean: LatentsView, times: [Double], noise: Noise, draw: Int = 0, threads: Int = 1, into noised: LatentsView
) throws {
  try require(times.count == clean.batch, "times: \(times.count) of them for a batch of \(clean.batch)")
  if clean.isOnDevice { try checkTimes(Numbers(times)) }
  try clean.withNumbers(times) {
    let times = Numbers(borrowing: UnsafeBufferPointer(start: $0, count: times.count))
    try forwardNoised(clean: clean, times: times, noise: noise, draw: draw, threads: threads, into: noised)
  }
}

package func forwardNoised(
  clean: LatentsView, times: Numbers<Double>, noise: Noise, draw: Int, threads: Int, into noised: LatentsView
) throws {
  try clean.checkSame(noised, "noised", own: ("clean is", "clean has"))
  try clean.checkPart(numbers: false, "noised", writes: true)
  if !clean.isOnDevice { try checkTimes(times) }
  let rows = try forwardNoise(noise, draw, like: clean)
  let threads = try resolvedThreads(threads)
  try noised.checkApart("noised", from: clean, "clean")
  try noised.checkApart("noised", from: noise, at: BatchSteps(0))
  guard let pointer = times.pointer else { return }
  let pass = NoisedPass(x: clean.rows, times: pointer, noise: rows, next: noised.rows)
  let broken = try pass.run(over: clean, threads: threads, keeping: (clean, times, noise, noised)) { _, _, sums in
    sums.squares
  }
  try throwIfBroken(broken, "clean or noise")
}

func checkTimes(_ times: Numbers<Double>) throws {
  if let i = times.firstIndex(where: { !($0 > 0 && $0 <= 1) }) {
    throw ChunkGRPOError(
      times[i].isFinite ? .invalidArgument : .nonFinite,
      "times[\(i)] = \(times[i]) is outside (0, 1]: 1 is noise, and at 0 there is no noise to tell the velocity from")
  }
}

/// The noise of a draw as a pass has it.
func forwardNoise(_ noise: Noise, _ draw: Int, like clean: LatentsView) throws -> NoiseRows {
  try ForwardDraw.check(draw)
  if case .given(let steps) = noise.source {
    try require(steps.count == 1, "noise holds \(steps.count) steps, but a draw has one: give that one")
    let given = steps.latents(0)
    try clean.checkSame(given, "noise", own: ("clean is", "clean has"))
    return .given(given.rows)
  }
  return try noise.rows(BatchSteps(ForwardDraw.noiseStep(draw)), like: clean)
}

/// Throws for the first sample whose result is not finite.
func throwIfBroken(_ broken: Broken?, _ what: String) throws {
  if let broken {
    throw ChunkGRPOError.nonFinite("\(what) of sample \(broken.sample) are not finite, or too large to square")
  }
}
