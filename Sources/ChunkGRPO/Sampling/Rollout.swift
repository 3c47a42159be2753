import Glibc

/// The model: write the velocity at `latents` (B, D) into `velocity` (B, D). (step, σ, latents, velocity)
public typealias VelocityFunction = (Int, Double, LatentsView, LatentsView) throws -> Void

/// Borrowed buffers that a rollout fills.
public struct TrajectoryBuffers {
  /// (B, T + 1, …)
  public let latents: TrajectoryView
  /// (B, S) each, or nil.
  public let logProbs, relativeL1: UnsafeMutablePointer<Double>?
  /// (B, …) or nil: the image that the step before the range predicted, and after the rollout that of its last step. Only
  /// second-order steps use it; without it they must be in one range with the step before them.
  public let previousImage: LatentsView?

  public init(
    latents: TrajectoryView, logProbs: UnsafeMutablePointer<Double>?, relativeL1: UnsafeMutablePointer<Double>?,
    previousImage: LatentsView? = nil
  ) {
    self.latents = latents
    self.logProbs = logProbs
    self.relativeL1 = relativeL1
    self.previousImage = previousImage
  }
}

/// `Noise` for many steps, with borrowed arrays: given noise is (B, T, …).
public enum RolloutNoise {
  case library(seed: UInt64, sampleIDs: UnsafePointer<UInt64>?)
  case given(TrajectoryView)

  fileprivate func source(step: Int) -> NoiseSource {
    switch self {
    case .library(let seed, let ids): .library(LibraryNoise(seed: seed, sampleIDs: ids, step: step))
    case .given(let noise): .given(noise[step].rows)
    }
  }
}

extension Sampler {
  /// Takes the steps of `range`, which starts at latents that are there.
  ///
  /// An error leaves what lies beyond `range.lowerBound` to be thrown away; the same call can be made again.
  public func rollout(
    _ buffers: TrajectoryBuffers, range: Range<Int>, noise: RolloutNoise?, velocity: VelocityFunction
  ) throws {
    let x = buffers.latents
    try require(
      x.count == steps + 1, "latents hold \(x.count) steps, but a trajectory of \(steps) steps has \(steps + 1)")
    try require(
      range.lowerBound >= 0 && range.upperBound <= steps && !range.isEmpty,
      "steps \(range.lowerBound) ..< \(range.upperBound) are not within 0 ..< \(steps), or none")
    if case .given(let noise) = noise {
      try require(noise.count == steps, "noise holds \(noise.count) steps, but the schedule has \(steps)")
    }
    if let image = buffers.previousImage { try x[0].checkSame(image, "previous_image") }
    try require(
      coefficients[range.lowerBound].c == 0 || buffers.previousImage != nil,
      "previous_image: step \(range.lowerBound) is of second order and needs the image that the step before it predicted"
    )
    let scratch = try Latents(type: x.type, batch: x.batch, elements: x.elements)
    // A copy, so that a rollout that fails leaves the caller's as it was.
    let wanted = needsPreviousImage || buffers.previousImage != nil
    let image = try wanted ? Latents(type: x.type, batch: x.batch, elements: x.elements).view : nil
    defer { withExtendedLifetime(noise) {} }  // a step has its rows without their owner
    if let image, let given = buffers.previousImage { image.copy(from: given) }
    for k in range {
      try velocity(k, schedule.sigmas[k], x[k], scratch.view)
      let trained = k < trainedSteps
      try step(
        k, latents: x[k], velocity: scratch.view, extras: StepExtras(previousImage: image),
        source: noise?.source(step: k), next: x[k + 1],
        logProb: Column(trained ? buffers.logProbs.map { $0 + k } : nil, stride: trainedSteps),
        relativeL1: Column(trained ? buffers.relativeL1.map { $0 + k } : nil, stride: trainedSteps))
      if let image { try predictedImage(k, latents: x[k], velocity: scratch.view, image: image) }
    }
    if let image { buffers.previousImage?.copy(from: image) }
  }

  /// Whether any step is of second order.
  public var needsPreviousImage: Bool { coefficients.contains { $0.c != 0 } }

  /// Log-probabilities (B, n) of the steps `firstStep …` from latents (B, n + 1, …) and velocities (B, n, …).
  public func logProbs(
    firstStep: Int, latents: TrajectoryView, velocities: TrajectoryView, into logProbs: UnsafeMutablePointer<Double>
  ) throws {
    try check(firstStep: firstStep, latents: latents, velocities: velocities)
    let n = velocities.count
    for first in stride(from: 0, to: n, by: maxSteps) {
      try run(firstStep, first..<min(n, first + maxSteps), latents, velocities, output: nil) { sample, t, value in
        logProbs[sample &* n &+ t] = value
      }
    }
  }

  /// Vector-Jacobian product of `logProbs`: gradLogProbs (B, n) to gradVelocities (B, n, …). Steps whose gradient is
  /// zero for the whole batch are not computed but filled with zeros.
  public func logProbsVJP(
    firstStep: Int, latents: TrajectoryView, velocities: TrajectoryView, gradLogProbs: UnsafePointer<Double>,
    gradVelocities: TrajectoryView
  ) throws {
    try check(firstStep: firstStep, latents: latents, velocities: velocities)
    let n = velocities.count
    try require(
      gradVelocities.count == n, "grad_velocities hold \(gradVelocities.count) steps, but the velocities have \(n)")
    try latents[0].checkSame(gradVelocities[0], "grad_velocities")
    var first = 0
    for t in 0..<n {
      let column = Column(UnsafeMutablePointer(mutating: gradLogProbs + t), stride: n)
      try check(gradLogProb: column, batch: latents.batch, step: firstStep + t)
      let isZero = (0..<latents.batch).allSatisfy { column[$0] == 0 }
      if isZero { gradVelocities[t].clear() }
      let end = isZero ? t : t + 1
      if isZero || end - first == maxSteps || end == n {
        if first < end {
          try run(firstStep, first..<end, latents, velocities, output: (gradLogProbs, gradVelocities)) { _, _, _ in }
        }
        first = t + 1
      }
    }
  }

  /// Takes columns `range` of a trajectory, up to `maxSteps`, through one pass. `finish` gets sample, column and
  /// log-probability.
  private func run(
    _ firstStep: Int, _ range: Range<Int>, _ latents: TrajectoryView, _ velocities: TrajectoryView,
    output: (upstream: UnsafePointer<Double>, gradients: TrajectoryView)?, finish: (Int, Int, Double) -> Void
  ) throws {
    let (first, elements) = (range.lowerBound, latents.elements)
    var broken: (column: Int, sample: Int)?
    try withUnsafeTemporaryAllocation(of: StepDensity.self, capacity: maxSteps) { densities in
      for t in range { densities[t - first] = try checkedDensity(firstStep + t) }
      withExtendedLifetime((latents, velocities, output)) {
        coefficients.withUnsafeBufferPointer { coefficients in
          guard let coefficients = coefficients.baseAddress, let densities = densities.baseAddress else { return }
          let pass = TrajectoryPass(
            coefficients: coefficients + firstStep + first, densities: UnsafePointer(densities),
            latents: StepRows(latents, from: first), v: StepRows(velocities, from: first), steps: range.count,
            output: output.map {
              TrajectoryPass.Output(
                gradients: StepRows($0.gradients, from: first), upstream: $0.upstream + first,
                upstreamStride: velocities.count, streams: latents[0].exceedsCache(count: 4 * velocities.count))
            })
          pass.run(threads: threads) { sample, j, sums in
            let value = densities[j].logProb(squaredError: sums.squares, elements: elements)
            if !value.isFinite && (first + j, sample) < broken ?? (Int.max, 0) { broken = (first + j, sample) }
            finish(sample, first + j, value)
          }
        }
      }
    }
    if let broken {
      try throwIfBroken(broken.sample, step: firstStep + broken.column, "latents, velocity or next latents")
    }
  }

  private func check(firstStep: Int, latents: TrajectoryView, velocities: TrajectoryView) throws {
    let n = velocities.count
    try check(step: firstStep)
    try require(
      n >= 1 && n <= steps - firstStep,
      "velocities hold \(n) steps, but from step \(firstStep) on there are \(steps - firstStep)")
    try require(
      latents.count > n, "latents hold \(latents.count) steps; \(n) velocities need \(n + 1) of them, one more")
    try latents[0].checkSame(velocities[0], "velocities")
    for t in firstStep..<firstStep + n {
      _ = try checkedDensity(t)
      if coefficients[t].c != 0 { throw needsImage(t) }
    }
  }
}

extension LatentsView {
  /// Both are of one shape and type.
  func copy(from other: LatentsView) {
    for i in 0..<batch {
      memcpy(
        base + i &* batchStride &* type.size, other.base + i &* other.batchStride &* type.size, elements &* type.size)
    }
  }

  func clear() {
    for i in 0..<batch { memset(base + i &* batchStride &* type.size, 0, elements &* type.size) }
  }
}

/// A rollout that owns its buffers. Advance it whole or chunk by chunk.
public final class Trajectory {
  public let sampler: Sampler
  public let noise: Noise?
  /// (T + 1, B, D)
  public let latents: Latents
  /// For second-order steps: the image that the step before `position` predicted.
  private let previousImage: Latents?
  /// (B, S), row-major; filled up to `position`.
  public private(set) var logProbs, relativeL1: [Double]
  /// The step that comes next, 0 … T.
  public private(set) var position: Int

  /// Starts at `initial`, which is copied.
  ///
  /// - Parameters:
  ///   - noise: `.library`, or nil for a deterministic sampler. Bring your own noise through `Sampler.rollout`.
  ///   - position: the step that `initial` takes next: a rollout begun elsewhere can go on here.
  public init(_ sampler: Sampler, initial: LatentsView, noise: Noise?, position: Int = 0) throws {
    if case .library(_, let ids) = noise { try checkSampleIDs(ids?.count, batch: initial.batch) }
    if case .given = noise {
      throw ChunkGRPOError.invalidArgument("noise: a trajectory takes the library's; give your own to Sampler.rollout")
    }
    try require((0...sampler.steps).contains(position), "position = \(position) is outside 0 … \(sampler.steps)")
    self.sampler = sampler
    self.noise = noise
    self.position = position
    latents = try Latents(
      type: initial.type, steps: sampler.steps + 1, batch: initial.batch, elements: initial.elements)
    previousImage =
      try sampler.needsPreviousImage
      ? Latents(type: initial.type, batch: initial.batch, elements: initial.elements) : nil
    try require(
      position == sampler.steps || sampler.coefficients[position].c == 0,
      "position = \(position): a second-order step cannot begin a trajectory; give its previous image to Sampler.rollout"
    )
    logProbs = Array(repeating: 0, count: initial.batch * sampler.trainedSteps)
    relativeL1 = logProbs
    latents[position].copy(from: initial)
  }

  /// Takes the steps up to `end` (by default all). After an error `position` is as before.
  public func advance(to end: Int? = nil, velocity: VelocityFunction) throws {
    let end = end ?? sampler.steps
    try require(
      end > position && end <= sampler.steps, "end = \(end) is outside \(position + 1) … \(sampler.steps)")
    try logProbs.withUnsafeMutableBufferPointer { logProbs in
      try relativeL1.withUnsafeMutableBufferPointer { relativeL1 in
        let buffers = TrajectoryBuffers(
          latents: latents.trajectory, logProbs: logProbs.baseAddress, relativeL1: relativeL1.baseAddress,
          previousImage: previousImage?.view)
        guard case .library(let seed, let ids) = noise else {
          return try sampler.rollout(buffers, range: position..<end, noise: nil, velocity: velocity)
        }
        try ids.withOptionalPointer {
          try sampler.rollout(
            buffers, range: position..<end, noise: .library(seed: seed, sampleIDs: $0), velocity: velocity)
        }
      }
    }
    position = end
  }

  /// The latents at `position`: once it is T, the images.
  public var current: LatentsView { latents[position] }
}

extension Sampler {
  /// A whole rollout from `initial`.
  public func rollout(from initial: LatentsView, noise: Noise?, velocity: VelocityFunction) throws -> Trajectory {
    let trajectory = try Trajectory(self, initial: initial, noise: noise)
    try trajectory.advance(velocity: velocity)
    return trajectory
  }
}
