/// A rollout that owns its buffers. Advance it whole or chunk by chunk.
///
/// It may be shared by tasks. One advances it at a time, and a second is refused meanwhile; what lies up to `position` is
/// final, so that others may read it. Write to its latents through their views, and that is yours to guard.
///
/// It lies where its initial latents do. On a CUDA device `advance` puts all steps on the queue, and waits for them once, at
/// its end.
public final class Trajectory: @unchecked Sendable {
  private struct State {
    var position: Int
    var logProbs, relativeL1: [Double]
    var isAdvancing = false
  }

  /// The one that takes its steps.
  public let sampler: Sampler
  /// Of its steps; nil for the ODE.
  public let noise: Noise?
  /// (T + 1, B, D)
  public let latents: Latents
  /// For second-order steps: the image that the step before `position` predicted.
  private let previousImage: Latents?
  /// On a CUDA device: the same numbers there, (B, S) log-probabilities and then as many relative changes.
  private let numbersThere: CUDADoubles?
  private let state: Locked<State>

  /// (B, S), row-major; filled up to `position`.
  public var logProbs: [Double] { state.withLock { $0.logProbs } }
  /// (B, S), row-major; filled up to `position`.
  public var relativeL1: [Double] { state.withLock { $0.relativeL1 } }
  /// The step that comes next, 0 … T.
  public var position: Int { state.withLock { $0.position } }
  /// The latents at `position`: once it is T, the images.
  public var current: LatentsView { latents.trajectory.latents(position) }

  /// Starts at `initial`, which is copied.
  ///
  /// - Parameters:
  ///   - noise: the library's, your own for all T steps, or nil for a deterministic sampler.
  ///   - position: the step that `initial` takes next: a rollout begun elsewhere can go on here.
  ///   - previousImage: the image that the step before `position` predicted, which a second-order step needs; copied.
  public init(
    _ sampler: Sampler, initial: LatentsView, noise: Noise?, position: Int = 0, previousImage image: LatentsView? = nil
  ) throws {
    try noise?.checkIDs(batch: initial.batch)
    if case .given(let noise) = noise?.source { try noise.checkSteps(sampler) }
    try require((0...sampler.steps).contains(position), "position = \(position) is outside 0 … \(sampler.steps)")
    if position < sampler.steps && sampler.coefficients[position].c != 0 && image == nil {
      throw sampler.needsImage("step \(position)")
    }
    if let image { try initial.checkSame(image, "previous_image") }
    self.sampler = sampler
    self.noise = noise
    latents = try Latents(
      type: initial.type, steps: sampler.steps + 1, batch: initial.batch, elements: initial.elements, on: initial.cuda)
    previousImage =
      try sampler.needsPreviousImage
      ? Latents(type: initial.type, batch: initial.batch, elements: initial.elements, on: initial.cuda) : nil
    let count = initial.batch * sampler.trainedSteps
    numbersThere = try initial.cuda.map { try CUDADoubles(count: max(1, 2 * count), device: $0.device) }
    let zeros = [Double](repeating: 0, count: count)
    state = Locked(State(position: position, logProbs: zeros, relativeL1: zeros))
    try latents.trajectory.latents(position).copy(from: initial)
    if let image { try previousImage?.view.copy(from: image) }
  }

  /// Takes the steps up to `end` (by default all). After an error `position` is as before.
  ///
  /// - Parameter velocityType: of the velocities that `velocity` writes: nil for the latents', or `.bfloat16` or `.float16`
  ///   beside f32 latents.
  public func advance(to end: Int? = nil, velocityType: ElementType? = nil, velocity: VelocityFunction) throws {
    let end = end ?? sampler.steps
    var next = try state.withLock { state in
      try require(!state.isAdvancing, "advance: another task advances this trajectory")
      try require(
        end > state.position && end <= sampler.steps,
        "end = \(end) is outside \(state.position + 1) … \(sampler.steps)")
      state.isAdvancing = true
      return state
    }
    defer { state.withLock { $0.isAdvancing = false } }
    let start = next.position
    func run(_ logProbs: UnsafeMutablePointer<Double>?, _ relativeL1: UnsafeMutablePointer<Double>?) throws {
      let buffers = TrajectoryBuffers(
        latents: latents.trajectory, logProbs: logProbs, relativeL1: relativeL1, previousImage: previousImage?.view,
        velocityType: velocityType)
      try sampler.rollout(buffers, range: start..<end, noise: noise, velocity: velocity)
    }
    if let numbersThere {
      try advanceOnDevice(numbersThere, from: start, to: end, &next, run)
    } else {
      try next.logProbs.withUnsafeMutableBufferPointer { logProbs in
        try next.relativeL1.withUnsafeMutableBufferPointer { try run(logProbs.baseAddress, $0.baseAddress) }
      }
    }
    next.position = end
    state.withLock { $0 = next }
  }

  /// What `run` writes to a device's memory, for the steps that it took.
  private func advanceOnDevice(
    _ there: CUDADoubles, from start: Int, to end: Int, _ state: inout State,
    _ run: (UnsafeMutablePointer<Double>?, UnsafeMutablePointer<Double>?) throws -> Void
  ) throws {
    let (count, trained) = (state.logProbs.count, sampler.trainedSteps)
    try run(there.base, there.base + count)
    let numbers = try there.values()
    try latents.queue?.checkFinite()
    for i in 0..<count where (start..<end).contains(i % trained) {
      (state.logProbs[i], state.relativeL1[i]) = (numbers[i], numbers[count + i])
    }
  }

  /// A trajectory of `branches` samples in place of each, neighbours, which share what lies before `step` and go on from
  /// there each with noise of its own: of the ids that `forkedIDs` makes of these, or of `noise`. Train the steps before
  /// `step` here, once.
  public func fork(at step: Int, branches: Int, noise given: Noise? = nil) throws -> Trajectory {
    let (position, logProbs, relativeL1) = state.withLock { ($0.position, $0.logProbs, $0.relativeL1) }
    try require(
      (0...position).contains(step), "step = \(step) is outside 0 … \(position), the position of the trajectory")
    try checkFork(step: step, branches: branches)
    let (first, trained) = (latents.trajectory.latents(step), sampler.trainedSteps)
    let (batch, wide) = (first.batch, try checkedProduct([first.batch, branches], "branches"))
    if step < sampler.steps && sampler.coefficients[step].c != 0 {
      throw ChunkGRPOError.invalidArgument(
        "step \(step) is of second order and needs the image that the step before it predicted: fork at one that is not"
      )
    }
    let noise = try given ?? self.noise.map { try $0.forked(batch: batch, step: step, branches: branches) }
    func copy(_ k: Int, to target: LatentsView) throws {
      let source = latents.trajectory.latents(k)
      for row in 0..<wide { try target.copy(row, from: source, row / branches) }
    }
    let initial = try Latents(type: first.type, batch: wide, elements: first.elements, on: latents.queue)
    try copy(step, to: initial.view)
    let forked = try Trajectory(sampler, initial: initial.view, noise: noise, position: step)
    for k in 0..<step { try copy(k, to: forked.latents.trajectory.latents(k)) }
    forked.state.withLock { state in
      for row in 0..<wide {
        for k in 0..<min(step, trained) {
          state.logProbs[row * trained + k] = logProbs[row / branches * trained + k]
          state.relativeL1[row * trained + k] = relativeL1[row / branches * trained + k]
        }
      }
    }
    return forked
  }
}
