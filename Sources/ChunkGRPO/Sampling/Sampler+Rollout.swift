/// The model: write the velocity at `latents` (B, D) into `velocity` (B, D). (step, σ, latents, velocity)
public typealias VelocityFunction = (Int, Double, LatentsView, LatentsView) throws -> Void

/// Borrowed buffers that a rollout fills: the C ABI's. In Swift, `Trajectory` has its own.
package struct TrajectoryBuffers {
  /// (B, T + 1, …)
  package let latents: TrajectoryView
  /// (B, S) each, or nil.
  package let logProbs, relativeL1: UnsafeMutablePointer<Double>?
  /// (B, …) or nil: the image that the step before the range predicted, and after the rollout that of its last step. Only
  /// second-order steps use it; without it they must be in one range with the step before them.
  package let previousImage: LatentsView?
  /// Of the velocities; by default the latents'.
  package let velocityType: ElementType

  package init(
    latents: TrajectoryView, logProbs: UnsafeMutablePointer<Double>?, relativeL1: UnsafeMutablePointer<Double>?,
    previousImage: LatentsView? = nil, velocityType: ElementType? = nil
  ) {
    self.latents = latents
    self.logProbs = logProbs
    self.relativeL1 = relativeL1
    self.previousImage = previousImage
    self.velocityType = velocityType ?? latents.type
  }
}

extension Sampler {
  /// Takes the steps of `range`, which starts at latents that are there.
  ///
  /// An error leaves what lies beyond `range.lowerBound` to be thrown away; the same call can be made again.
  package func rollout(
    _ buffers: TrajectoryBuffers, range: Range<Int>, noise: Noise?, velocity: VelocityFunction
  ) throws {
    let x = buffers.latents
    try require(
      x.count == steps + 1, "latents hold \(x.count) steps, but a trajectory of \(steps) steps has \(steps + 1)")
    try require(
      range.lowerBound >= 0 && range.upperBound <= steps && !range.isEmpty,
      "steps \(range.lowerBound) ..< \(range.upperBound) are not within 0 ..< \(steps), or none")
    if case .given(let noise) = noise?.source { try noise.checkSteps(self) }
    try require(
      x.part?.pointee.sums == nil, "latents.part.sums: a rollout gives no sums; log_probs of its trajectory do")
    if let image = buffers.previousImage {
      try x.latents(0).checkSame(image, "previous_image")
      let one = TrajectoryView(image)
      try one.checkApart("previous_image", from: x, "latents", orSame: false)
    }
    if coefficients[range.lowerBound].c != 0 && buffers.previousImage == nil {
      throw needsImage("step \(range.lowerBound)")
    }
    if x.isOnDevice { return try rolloutOnDevice(buffers, range: range, noise: noise, velocity: velocity) }
    let velocities = try Latents(type: buffers.velocityType, batch: x.batch, elements: x.elements).view.with(x.part)
    try x.latents(0).checkVelocity(velocities, "velocity")
    // A copy, so that a rollout that fails leaves the caller's as it was.
    let wanted = needsPreviousImage || buffers.previousImage != nil
    let image = try wanted ? Latents(type: x.type, batch: x.batch, elements: x.elements).view.with(x.part) : nil
    if let image, let given = buffers.previousImage { try image.copy(from: given) }
    for k in range {
      let latents = x.latents(k)
      try velocity(k, schedule.sigmas[k], latents, velocities)
      let trained = k < trainedSteps
      try step(
        k, latents: latents, velocity: velocities, extras: StepExtras(previousImage: image), noise: noise,
        next: x.latents(k + 1), logProb: trained ? buffers.logProbs.map { $0 + k } : nil,
        relativeL1: trained ? buffers.relativeL1.map { $0 + k } : nil, stride: trainedSteps)
      if let image { try predictedImage(k, latents: latents, velocity: velocities, image: image) }
    }
    if let image { try buffers.previousImage?.copy(from: image) }
  }

  /// Whether any step is of second order.
  public var needsPreviousImage: Bool { coefficients.contains { $0.c != 0 } }

  /// A whole rollout from `initial`; `velocityType` as in `Trajectory.advance`.
  public func rollout(
    from initial: LatentsView, noise: Noise?, velocityType: ElementType? = nil, velocity: VelocityFunction
  ) throws -> Trajectory {
    let trajectory = try Trajectory(self, initial: initial, noise: noise)
    try trajectory.advance(velocityType: velocityType, velocity: velocity)
    return trajectory
  }
}
