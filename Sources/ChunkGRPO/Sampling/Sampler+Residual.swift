// For hosts with an autograd of their own: the forward pass keeps the residual r = x' − m, and the backward pass needs nothing
// else, for ∂ℓ/∂v = b·r/(D·s²). It reads one array instead of three, and gives the bits of `logProbVJP`.

extension Sampler {
  /// `logProb`, and the residual x' − m of the same pass.
  ///
  /// - Parameter residual: like the velocity, written. Both are `float32` or `float64`, the type that is computed in: a smaller one
  ///   would be rounded.
  public func logProbResidual(
    _ step: Int, latents: LatentsView, velocity: LatentsView, extras: StepExtras = StepExtras(), next: LatentsView,
    residual: LatentsView
  ) throws -> [Double] {
    try latents.numbers {
      try logProbResidual(
        step, latents: latents, velocity: velocity, extras: extras, next: next, residual: residual, logProb: $0)
    }
  }

  package func logProbResidual(
    _ step: Int, latents: LatentsView, velocity: LatentsView, extras: StepExtras = StepExtras(), next: LatentsView,
    residual: LatentsView, logProb: UnsafeMutablePointer<Double>?
  ) throws {
    let steps = try checked(step, latents: latents, velocity: velocity, extras, next: next)
    try checkKept(velocity.type)
    try velocity.checkSame(residual, "residual", own: ("velocity is", "velocity has"))
    try residual.checkApart("residual", from: latents, "latents")
    try residual.checkApart("residual", from: velocity, "velocity")
    try residual.checkApart("residual", from: next, "next_latents")
    try residual.checkApart("residual", from: extras.unconditional, "unconditional")
    try residual.checkApart("residual", from: extras.previousImage, "previous_image")
    try latents.checkPart(numbers: logProb != nil, "log_prob")
    let output = GradientOutput(
      gradient: residual.rows, unconditional: nil, upstream: nil, streams: residual.exceedsCache(count: 2))
    try differences(steps, latents, velocity, extras, next, output: output, keeping: (residual, nil), logProb)
  }

  /// Vector-Jacobian product of `logProb` at a residual that `logProbResidual` gave.
  ///
  /// - Parameters:
  ///   - extras: those of that call. Its steps and guidances count; its tensors are not read, and may be absent.
  ///   - gradLogProb: B numbers.
  ///   - gradVelocity: like the residual, or the residual itself.
  ///   - gradUnconditional: for guidance, the gradient of the unconditional velocity, or nil.
  public func residualVJP(
    _ step: Int, residual: LatentsView, extras: StepExtras = StepExtras(), gradLogProb: [Double],
    gradVelocity: LatentsView, gradUnconditional: LatentsView? = nil
  ) throws {
    try require(
      gradLogProb.count == residual.batch,
      "grad_log_prob has \(gradLogProb.count) numbers for a batch of \(residual.batch)")
    try residual.withNumbers(gradLogProb) {
      try residualVJP(
        step, residual: residual, extras: extras, gradLogProb: $0, gradVelocity: gradVelocity,
        gradUnconditional: gradUnconditional)
    }
  }

  package func residualVJP(
    _ step: Int, residual: LatentsView, extras: StepExtras = StepExtras(), gradLogProb: UnsafePointer<Double>,
    gradVelocity: LatentsView, gradUnconditional: LatentsView? = nil
  ) throws {
    let (steps, own) = (try batchSteps(step, extras, batch: residual.batch), ("residual is", "residual has"))
    try checkKept(residual.type)
    try residual.checkSame(gradVelocity, "grad_velocity", own: own)
    try gradVelocity.checkApart("grad_velocity", from: residual, "residual")
    if let gradUnconditional {
      try residual.checkSame(gradUnconditional, "grad_unconditional", own: own)
      try gradUnconditional.checkApart("grad_unconditional", from: residual, "residual", orSame: false)
      try gradUnconditional.checkApart("grad_unconditional", from: gradVelocity, "grad_velocity", orSame: false)
    }
    try checkDensities(steps, batch: residual.batch)
    try checkGuidance(extras, isGuided: true, batch: residual.batch)
    try residual.checkPart(numbers: false, "log_prob", writes: true)
    if !residual.isOnDevice { try checkUpstream(gradLogProb, "grad_log_prob", batch: residual.batch, steps: steps) }
    let table = table
    let numbers = withExtendedLifetime(table) {
      BatchNumbers(steps, table.base, ofImages: false, guidance: extras.guidance, guidances: extras.guidances)
    }
    let output = GradientOutput(
      gradient: gradVelocity.rows, unconditional: gradUnconditional?.rows, upstream: gradLogProb,
      streams: gradVelocity.base != residual.base && residual.exceedsCache(count: 2))
    let r = residual.rows
    let pass = DifferencePass(
      numbers: numbers, x: r, v: r, terms: nil, next: r, output: output, logProb: nil, ofResidual: true)
    try run(
      pass, steps, over: residual, keeping: (residual, extras, gradVelocity, gradUnconditional), residual,
      naming: "elements of residual")
  }

  /// `logProbs`, and the residuals (B, n, …) of the same pass, as `logProbResidual` has them.
  public func logProbsResiduals(
    firstStep: Int = 0, firstSteps: [Int]? = nil, latents: TrajectoryView, velocities: TrajectoryView,
    residuals: TrajectoryView
  ) throws -> [Double] {
    let count = try checkedProduct([velocities.batch, velocities.count], "log_probs")
    return try withSteps(firstSteps, "first_steps", batch: latents.batch) { steps in
      try latents.latents(0).numbers(count) {
        try logProbsResiduals(
          firstStep: firstStep, firstSteps: steps, latents: latents, velocities: velocities, residuals: residuals,
          into: $0)
      }
    }
  }

  package func logProbsResiduals(
    firstStep: Int, firstSteps: UnsafePointer<Int>? = nil, latents: TrajectoryView, velocities: TrajectoryView,
    residuals: TrajectoryView, into logProbs: UnsafeMutablePointer<Double>?
  ) throws {
    let steps = try check(firstStep, firstSteps, latents, velocities)
    let n = velocities.count
    try checkKept(velocities.type)
    try require(residuals.count == n, "residuals hold \(residuals.count) steps, but the velocities have \(n)")
    try velocities.latents(0).checkSame(
      residuals.latents(0), "residuals", own: ("velocities are", "velocities have"))
    try latents.latents(0).checkPart(numbers: logProbs != nil, "log_probs")
    try residuals.checkApart("residuals", from: latents, "latents", orSame: false)
    try residuals.checkApart("residuals", from: velocities, "velocities", orSame: true)
    for first in stride(from: 0, to: n, by: maxSteps) {
      try run(steps, first..<min(n, first + maxSteps), latents, velocities, output: (nil, residuals), logProbs)
    }
  }

  /// Vector-Jacobian product of `logProbs` at residuals that `logProbsResiduals` gave: gradLogProbs (B, n) to gradVelocities
  /// (B, n, …), which may be the residuals. Steps whose gradient is zero for the whole batch are filled with zeros.
  public func residualsVJP(
    firstStep: Int = 0, firstSteps: [Int]? = nil, residuals: TrajectoryView, gradLogProbs: [Double],
    gradVelocities: TrajectoryView
  ) throws {
    let count = try checkedProduct([residuals.batch, residuals.count], "grad_log_probs")
    try require(gradLogProbs.count == count, "grad_log_probs has \(gradLogProbs.count) numbers, not \(count)")
    if count == 0 { return }
    try residuals.latents(0).withNumbers(gradLogProbs) { upstream in
      try withSteps(firstSteps, "first_steps", batch: residuals.batch) {
        try residualsVJP(
          firstStep: firstStep, firstSteps: $0, residuals: residuals, gradLogProbs: upstream,
          gradVelocities: gradVelocities)
      }
    }
  }

  package func residualsVJP(
    firstStep: Int, firstSteps: UnsafePointer<Int>? = nil, residuals: TrajectoryView,
    gradLogProbs: UnsafePointer<Double>, gradVelocities: TrajectoryView
  ) throws {
    let n = residuals.count
    let steps = try taken(firstStep, firstSteps, n, "residuals", batch: residuals.batch)
    try checkKept(residuals.type)
    for t in 0..<n { try checkDensities(steps.later(t), batch: residuals.batch) }
    try require(
      gradVelocities.count == n, "grad_velocities hold \(gradVelocities.count) steps, but the residuals have \(n)")
    try residuals.latents(0).checkSame(
      gradVelocities.latents(0), "grad_velocities", own: ("residuals are", "residuals have"))
    try residuals.latents(0).checkPart(numbers: false, "log_probs", writes: true)
    try gradVelocities.checkApart("grad_velocities", from: residuals, "residuals", orSame: true)
    try gradients(steps, residuals, residuals, gradLogProbs, gradVelocities, ofResiduals: true)
  }

  /// Refuses a residual that would be rounded.
  private func checkKept(_ velocity: ElementType) throws {
    if velocity.size == 2 {
      throw ChunkGRPOError.wrongType(
        "residual: velocities of \(velocity) are computed with in float32, and a residual of their type would be rounded: "
          + "take the gradient from latents and velocities, with log_prob_vjp or trajectory_log_probs_vjp")
    }
  }
}
