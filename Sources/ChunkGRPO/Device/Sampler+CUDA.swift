// Calls on a CUDA device, where numbers stay on it: (B) each, or nil.

extension Sampler {
  /// One step; see `step(_:latents:velocity:extras:noise:next:relativeL1:)`. Nothing waits.
  public func step(
    _ step: Int, latents: LatentsView, velocity: LatentsView, extras: StepExtras = StepExtras(), noise: Noise?,
    next: LatentsView, logProb: CUDADoubles?, relativeL1: CUDADoubles? = nil
  ) throws {
    try check(logProb, "log_prob", latents.batch)
    try check(relativeL1, "relative_l1", latents.batch)
    try self.step(
      step, latents: latents, velocity: velocity, extras: extras, noise: noise, next: next, logProb: logProb?.base,
      relativeL1: relativeL1?.base)
    withExtendedLifetime((logProb, relativeL1)) {}
  }

  /// Log-probabilities of given next latents.
  public func logProb(
    _ step: Int, latents: LatentsView, velocity: LatentsView, extras: StepExtras = StepExtras(), next: LatentsView,
    into logProb: CUDADoubles
  ) throws {
    try check(logProb, "log_prob", latents.batch)
    try self.logProb(step, latents: latents, velocity: velocity, extras: extras, next: next, logProb: logProb.base)
    withExtendedLifetime(logProb) {}
  }

  /// Their vector-Jacobian product; see `logProbVJP`.
  public func logProbVJP(
    _ step: Int, latents: LatentsView, velocity: LatentsView, extras: StepExtras = StepExtras(), next: LatentsView,
    gradLogProb: CUDADoubles, gradVelocity: LatentsView, gradUnconditional: LatentsView? = nil,
    logProb: CUDADoubles? = nil
  ) throws {
    try check(gradLogProb, "grad_log_prob", latents.batch)
    try check(logProb, "log_prob", latents.batch)
    try logProbVJP(
      step, latents: latents, velocity: velocity, extras: extras, next: next,
      gradLogProb: UnsafePointer(gradLogProb.base), gradVelocity: gradVelocity, gradUnconditional: gradUnconditional,
      logProb: logProb?.base)
    withExtendedLifetime((gradLogProb, logProb)) {}
  }

  private func check(_ numbers: CUDADoubles?, _ name: String, _ batch: Int) throws {
    guard let numbers else { return }
    try require(numbers.count == batch, "\(name) has \(numbers.count) numbers for a batch of \(batch)")
  }
}
