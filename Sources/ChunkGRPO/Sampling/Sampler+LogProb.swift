extension Sampler {
  /// Log-probabilities of given next latents, B numbers; none where a part of the samples does not know them.
  ///
  /// - Throws: `.invalidArgument` where s = 0, for a deterministic step has no density.
  public func logProb(
    _ step: Int, latents: LatentsView, velocity: LatentsView, extras: StepExtras = StepExtras(), next: LatentsView
  ) throws -> [Double] {
    try latents.numbers {
      try logProb(step, latents: latents, velocity: velocity, extras: extras, next: next, logProb: $0)
    }
  }

  package func logProb(
    _ step: Int, latents: LatentsView, velocity: LatentsView, extras: StepExtras = StepExtras(), next: LatentsView,
    logProb: UnsafeMutablePointer<Double>?
  ) throws {
    let steps = try checked(step, latents: latents, velocity: velocity, extras, next: next)
    try latents.checkPart(numbers: logProb != nil, "log_prob")
    try differences(steps, latents, velocity, extras, next, output: nil, keeping: nil, logProb)
  }

  /// Vector-Jacobian product: gradVelocity = gradLogProb[i] · ∂ℓ[i]/∂v[i], with ∂ℓ/∂v = b·(x'−m)/(D·s²).
  ///
  /// - Parameters:
  ///   - gradLogProb: B numbers.
  ///   - gradUnconditional: for guidance, the gradient of the unconditional velocity, or nil.
  /// - Returns: the log-probabilities, from the same pass.
  @discardableResult
  public func logProbVJP(
    _ step: Int, latents: LatentsView, velocity: LatentsView, extras: StepExtras = StepExtras(), next: LatentsView,
    gradLogProb: [Double], gradVelocity: LatentsView, gradUnconditional: LatentsView? = nil
  ) throws -> [Double] {
    try require(
      gradLogProb.count == latents.batch,
      "grad_log_prob has \(gradLogProb.count) numbers for a batch of \(latents.batch)")
    return try latents.withNumbers(gradLogProb) { upstream in
      try latents.numbers {
        try logProbVJP(
          step, latents: latents, velocity: velocity, extras: extras, next: next, gradLogProb: upstream,
          gradVelocity: gradVelocity, gradUnconditional: gradUnconditional, logProb: $0)
      }
    }
  }

  /// The same for B numbers each; `logProb` may be nil.
  package func logProbVJP(
    _ step: Int, latents: LatentsView, velocity: LatentsView, extras: StepExtras = StepExtras(), next: LatentsView,
    gradLogProb: UnsafePointer<Double>, gradVelocity: LatentsView, gradUnconditional: LatentsView? = nil,
    logProb: UnsafeMutablePointer<Double>?
  ) throws {
    let steps = try checked(step, latents: latents, velocity: velocity, extras, next: next)
    try velocity.checkSame(gradVelocity, "grad_velocity", own: ("velocity is", "velocity has"))
    if let gradUnconditional {
      try velocity.checkSame(gradUnconditional, "grad_unconditional", own: ("velocity is", "velocity has"))
      try require(extras.unconditional != nil, "grad_unconditional: there is no unconditional velocity")
    }
    try checkApart(gradVelocity, gradUnconditional, latents, velocity, extras, next)
    try latents.checkPart(numbers: logProb != nil, "log_prob", writes: true)
    if !latents.isOnDevice { try checkUpstream(gradLogProb, "grad_log_prob", batch: latents.batch, steps: steps) }
    let output = GradientOutput(
      gradient: gradVelocity.rows, unconditional: gradUnconditional?.rows, upstream: gradLogProb,
      streams: latents.exceedsCache(count: 4))
    try differences(
      steps, latents, velocity, extras, next, output: output, keeping: (gradVelocity, gradUnconditional),
      logProb)
  }

  /// The pass behind both, and behind the residuals.
  func differences(
    _ steps: BatchSteps, _ latents: LatentsView, _ velocity: LatentsView, _ extras: StepExtras,
    _ next: LatentsView, output: GradientOutput?, keeping owners: (LatentsView, LatentsView?)?,
    _ logProb: UnsafeMutablePointer<Double>?
  ) throws {
    let (numbers, terms) = try mean(steps, latents, velocity, extras)
    let pass = DifferencePass(
      numbers: numbers, x: latents.rows, v: velocity.rows, terms: terms, next: next.rows, output: output,
      logProb: logProb)
    try run(
      pass, steps, over: latents, keeping: (latents, velocity, extras, next, owners), velocity,
      naming: "latents, velocity or next latents")
  }

  /// - Parameter what: the arrays that are read, for a message.
  @inline(__always)
  func run<Owners>(
    _ pass: DifferencePass, _ steps: BatchSteps, over latents: LatentsView, keeping owners: Owners,
    _ velocity: LatentsView, naming what: String
  ) throws {
    let (numbers, output, logProb, table) = (pass.numbers, pass.output, pass.logProb, table)
    var check = GradientCheck()
    let x = pass.x
    let broken = try pass.run(
      over: latents, threads: threads, keeping: owners, partSums: latents.partSums(1)
    ) { sample, _, sums in
      let elements = x.length(sample)
      let value = numbers.density(sample).logProb(squaredError: sums.squares, elements: elements)
      logProb?[sample] = value
      if let output {
        let scales = output.scales(sample, elements: elements, numbers)
        check.look(at: output.gradient, sample, scale: scales.conditional, squares: sums.squares)
        if let unconditional = output.unconditional {
          check.look(at: unconditional, sample, scale: scales.unconditional, squares: sums.squares)
        }
      }
      return value
    }
    withExtendedLifetime(table) {}
    try throwIfBroken(broken, from: steps, what)
    try check.throwIfBroken(from: steps, "grad_log_prob", velocity)
  }

  /// The gradient of the unconditional velocity is written while the block is still to be read once more.
  private func checkApart(
    _ gradient: LatentsView, _ unconditional: LatentsView?, _ latents: LatentsView, _ velocity: LatentsView,
    _ extras: StepExtras, _ next: LatentsView
  ) throws {
    try gradient.checkApart("grad_velocity", from: latents, "latents")
    try gradient.checkApart("grad_velocity", from: velocity, "velocity")
    try gradient.checkApart("grad_velocity", from: next, "next_latents")
    try gradient.checkApart("grad_velocity", from: extras.unconditional, "unconditional")
    try gradient.checkApart("grad_velocity", from: extras.previousImage, "previous_image")
    guard let unconditional else { return }
    try unconditional.checkApart("grad_unconditional", from: latents, "latents", orSame: false)
    try unconditional.checkApart("grad_unconditional", from: velocity, "velocity", orSame: false)
    try unconditional.checkApart("grad_unconditional", from: next, "next_latents", orSame: false)
    try unconditional.checkApart("grad_unconditional", from: extras.unconditional, "unconditional")
    try unconditional.checkApart("grad_unconditional", from: extras.previousImage, "previous_image")
    try unconditional.checkApart("grad_unconditional", from: gradient, "grad_velocity", orSame: false)
  }

  func checked(
    _ step: Int, latents: LatentsView, velocity: LatentsView, _ extras: StepExtras, next: LatentsView
  ) throws -> BatchSteps {
    let steps = try batchSteps(step, extras, batch: latents.batch)
    try latents.checkVelocity(velocity, "velocity")
    try latents.checkSame(next, "next_latents")
    try checkDensities(steps, batch: latents.batch)
    return steps
  }
}

/// Refuses a gradient that comes from above and is not finite.
func checkUpstream(
  _ upstream: UnsafePointer<Double>, _ name: String, batch: Int, steps: BatchSteps, stride: Int = 1
) throws {
  for i in 0..<batch where !upstream[i &* stride].isFinite {
    throw ChunkGRPOError.nonFinite("\(name)[\(i)] = \(upstream[i &* stride]) at step \(steps[i]) is not finite")
  }
}
