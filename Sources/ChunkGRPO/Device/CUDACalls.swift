// The calls on latents of a CUDA device whose numbers stay there, so that nothing waits. The same functions with arrays wait
// for them.

extension Sampler {
  /// One step; see `step(_:latents:velocity:extras:noise:next:relativeL1:)`.
  public func step(
    _ step: Int, latents: LatentsView, velocity: LatentsView, extras: StepExtras = StepExtras(), noise: Noise?,
    next: LatentsView, logProb: CUDADoubles?, relativeL1: CUDADoubles? = nil
  ) throws {
    try self.step(
      step, latents: latents, velocity: velocity, extras: extras, noise: noise, next: next,
      logProb: latents.place(ifAny: logProb, "log_prob"), relativeL1: latents.place(ifAny: relativeL1, "relative_l1"))
    withExtendedLifetime((logProb, relativeL1)) {}
  }

  /// Log-probabilities of given next latents.
  public func logProb(
    _ step: Int, latents: LatentsView, velocity: LatentsView, extras: StepExtras = StepExtras(), next: LatentsView,
    into logProb: CUDADoubles
  ) throws {
    try self.logProb(
      step, latents: latents, velocity: velocity, extras: extras, next: next,
      logProb: latents.place(logProb, "log_prob"))
    withExtendedLifetime(logProb) {}
  }

  /// Their vector-Jacobian product; see `logProbVJP`.
  public func logProbVJP(
    _ step: Int, latents: LatentsView, velocity: LatentsView, extras: StepExtras = StepExtras(), next: LatentsView,
    gradLogProb: CUDADoubles, gradVelocity: LatentsView, gradUnconditional: LatentsView? = nil,
    logProb: CUDADoubles? = nil
  ) throws {
    try logProbVJP(
      step, latents: latents, velocity: velocity, extras: extras, next: next,
      gradLogProb: UnsafePointer(latents.place(gradLogProb, "grad_log_prob")), gradVelocity: gradVelocity,
      gradUnconditional: gradUnconditional, logProb: latents.place(ifAny: logProb, "log_prob"))
    withExtendedLifetime((gradLogProb, logProb)) {}
  }

  /// Log-probabilities of several steps, (B, n).
  public func logProbs(
    firstStep: Int = 0, firstSteps: [Int]? = nil, latents: TrajectoryView, velocities: TrajectoryView,
    into logProbs: CUDADoubles
  ) throws {
    let place = try latents.latents(0).place(logProbs, "log_probs", velocities.count)
    try withSteps(firstSteps, "first_steps", batch: latents.batch) {
      try self.logProbs(firstStep: firstStep, firstSteps: $0, latents: latents, velocities: velocities, into: place)
    }
    withExtendedLifetime(logProbs) {}
  }

  /// Their vector-Jacobian product; see `logProbsVJP`. A step whose gradient is zero is computed too.
  public func logProbsVJP(
    firstStep: Int = 0, firstSteps: [Int]? = nil, latents: TrajectoryView, velocities: TrajectoryView,
    gradLogProbs: CUDADoubles, gradVelocities: TrajectoryView
  ) throws {
    let place = try latents.latents(0).place(gradLogProbs, "grad_log_probs", velocities.count)
    try withSteps(firstSteps, "first_steps", batch: latents.batch) {
      try logProbsVJP(
        firstStep: firstStep, firstSteps: $0, latents: latents, velocities: velocities,
        gradLogProbs: UnsafePointer(place), gradVelocities: gradVelocities)
    }
    withExtendedLifetime(gradLogProbs) {}
  }

  /// Divergence of a step from that of another velocity.
  public func divergence(
    _ kind: Divergence = .gaussian, _ step: Int, steps: [Int]? = nil, velocity: LatentsView, other: LatentsView,
    gradient: (CUDADoubles, LatentsView)? = nil, into divergence: CUDADoubles?
  ) throws {
    let place = try velocity.place(ifAny: divergence, "divergence")
    let upstream = try velocity.upstream(gradient)
    try withSteps(steps, "steps", batch: velocity.batch) {
      try self.divergence(
        kind, step, steps: $0, velocity: velocity, other: other, divergence: place, gradient: upstream)
    }
    withExtendedLifetime((gradient, divergence)) {}
  }

  /// Divergence of a step from the one that was sampled.
  public func divergenceFromSampled(
    _ kind: Divergence = .gaussian, _ step: Int, steps: [Int]? = nil, latents: LatentsView, velocity: LatentsView,
    noise: Noise?, next: LatentsView, gradient: (CUDADoubles, LatentsView)? = nil, into divergence: CUDADoubles?
  ) throws {
    let place = try velocity.place(ifAny: divergence, "divergence")
    let upstream = try velocity.upstream(gradient)
    try withSteps(steps, "steps", batch: latents.batch) {
      try divergenceFromSampled(
        kind, step, steps: $0, latents: latents, velocity: velocity, noise: noise, next: next, divergence: place,
        gradient: upstream)
    }
    withExtendedLifetime((gradient, divergence)) {}
  }

  /// Takes the steps of `range` (nil = all) through latents (B, T + 1, …), whose first are there. Velocities are of the
  /// latents' type; they are written where later latents will lie.
  ///
  /// - Parameters:
  ///   - logProbs, relativeL1: (B, S)
  ///   - previousImage: memory that second-order steps need, and the image that the step before the range predicted.
  public func rollout(
    _ latents: TrajectoryView, steps range: Range<Int>? = nil, noise: Noise?, logProbs: CUDADoubles?,
    relativeL1: CUDADoubles? = nil, previousImage: LatentsView? = nil, velocity: VelocityFunction
  ) throws {
    let view = latents.latents(0)
    let buffers = try TrajectoryBuffers(
      latents: latents, logProbs: view.place(ifAny: logProbs, "log_probs", trainedSteps),
      relativeL1: view.place(ifAny: relativeL1, "relative_l1", trainedSteps), previousImage: previousImage)
    try rollout(buffers, range: range ?? 0..<steps, noise: noise, velocity: velocity)
    withExtendedLifetime((logProbs, relativeL1)) {}
  }
}

/// Relative L1 change of latents (B, n + 1, …): (B, n).
public func relativeL1(_ latents: TrajectoryView, into result: CUDADoubles) throws {
  try relativeL1(
    latents, threads: 1, into: latents.latents(0).place(result, "relative_l1", max(0, latents.count - 1)))
  withExtendedLifetime(result) {}
}

/// Noised latents; see `forwardNoised`.
public func forwardNoised(
  clean: LatentsView, times: CUDADoubles, noise: Noise, draw: Int = 0, into noised: LatentsView
) throws {
  let place = UnsafePointer(try clean.place(times, "times"))
  try forwardNoised(
    clean: clean, times: Numbers(borrowing: UnsafeBufferPointer(start: place, count: times.count)), noise: noise,
    draw: draw, threads: 1, into: noised)
  withExtendedLifetime(times) {}
}

/// Distances of the forward process; see `forwardDistance`. Those of `distances` that are nil are not made.
public func forwardDistance(
  clean: LatentsView, velocity: LatentsView, noise: Noise, draw: Int = 0, extras: ForwardExtras = ForwardExtras(),
  gradient: (ForwardGradients<CUDADoubles>, LatentsView)? = nil, into distances: ForwardDistances<CUDADoubles?>
) throws {
  typealias Kind = ForwardDistances<CUDADoubles?>
  var output = ForwardOutput()
  for number in Kind.ofPolicy + Kind.ofOld + Kind.ofReference + Kind.ofMixtures {
    output[keyPath: number.place] = try velocity.place(ifAny: distances[keyPath: number.value], number.name)
  }
  let upstream = try (gradient?.0).map { try $0.places { UnsafePointer(try velocity.place($1, $0)) } }
  try forwardDistance(
    clean: clean, velocity: velocity, noise: noise, draw: draw, extras: extras, to: output,
    upstream: upstream ?? ForwardUpstream(), gradVelocity: gradient?.1, threads: 1)
  withExtendedLifetime((gradient, distances)) {}
}

extension LatentsView {
  /// Where numbers of these samples lie, `columns` each.
  fileprivate func place(
    _ numbers: CUDADoubles, _ name: String, _ columns: Int = 1
  ) throws -> UnsafeMutablePointer<Double> {
    if !isOnDevice {
      throw ChunkGRPOError.wrongType(
        "\(name) lies on a CUDA device, but the latents in the CPU's memory: give an array")
    }
    try require(
      numbers.count == batch * columns,
      "\(name) has \(numbers.count) numbers for a batch of \(batch)\(columns == 1 ? "" : " and \(columns) steps")")
    return numbers.base
  }

  fileprivate func place(
    ifAny numbers: CUDADoubles?, _ name: String, _ columns: Int = 1
  ) throws -> UnsafeMutablePointer<Double>? {
    try numbers.map { try place($0, name, columns) }
  }

  fileprivate func upstream(_ gradient: (CUDADoubles, LatentsView)?) throws -> DivergenceGradient? {
    try gradient.map { (UnsafePointer(try place($0.0, "grad_divergence")), $0.1) }
  }
}
