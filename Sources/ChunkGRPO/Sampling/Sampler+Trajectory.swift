extension Sampler {
  /// Log-probabilities (B, n) of the steps `firstStep …` from latents (B, n + 1, …) and velocities (B, n, …).
  public func logProbs(firstStep: Int, latents: TrajectoryView, velocities: TrajectoryView) throws -> [Double] {
    let count = try checkedProduct([velocities.batch, velocities.count], "log_probs")
    var result = [Double](repeating: 0, count: count)
    try logProbs(firstStep: firstStep, latents: latents, velocities: velocities, into: &result)
    return result
  }

  package func logProbs(
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
    firstStep: Int, latents: TrajectoryView, velocities: TrajectoryView, gradLogProbs: [Double],
    gradVelocities: TrajectoryView
  ) throws {
    let count = try checkedProduct([velocities.batch, velocities.count], "grad_log_probs")
    try require(gradLogProbs.count == count, "grad_log_probs has \(gradLogProbs.count) numbers, not \(count)")
    try gradLogProbs.withUnsafeBufferPointer {
      guard let base = $0.baseAddress else { return }
      try logProbsVJP(
        firstStep: firstStep, latents: latents, velocities: velocities, gradLogProbs: base,
        gradVelocities: gradVelocities)
    }
  }

  package func logProbsVJP(
    firstStep: Int, latents: TrajectoryView, velocities: TrajectoryView, gradLogProbs: UnsafePointer<Double>,
    gradVelocities: TrajectoryView
  ) throws {
    try check(firstStep: firstStep, latents: latents, velocities: velocities)
    let n = velocities.count
    try require(
      gradVelocities.count == n, "grad_velocities hold \(gradVelocities.count) steps, but the velocities have \(n)")
    try latents.latents(0).checkSame(gradVelocities.latents(0), "grad_velocities")
    try gradVelocities.checkApart("grad_velocities", from: latents, "latents", orSame: false)
    try gradVelocities.checkApart("grad_velocities", from: velocities, "velocities", orSame: true)
    var first = 0
    for t in 0..<n {
      let column = gradLogProbs + t
      try checkUpstream(column, "grad_log_prob", batch: latents.batch, step: firstStep + t, stride: n)
      let isZero = (0..<latents.batch).allSatisfy { column[$0 &* n] == 0 }
      if isZero { gradVelocities.latents(t).clear() }
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
    let first = range.lowerBound
    var check = GradientCheck()
    let broken = try withUnsafeTemporaryAllocation(of: StepDensity.self, capacity: maxSteps) { densities in
      for t in range { densities[t - first] = try checkedDensity(firstStep + t) }
      return withExtendedLifetime(coefficients) { () -> Broken? in
        guard let coefficients = coefficients.pointer, let densities = densities.baseAddress else { return nil }
        let pass = TrajectoryPass(
          coefficients: coefficients + firstStep + first, densities: UnsafePointer(densities),
          latents: StepRows(latents, from: first), v: StepRows(velocities, from: first), steps: range.count,
          output: output.map {
            TrajectoryPass.Output(
              gradients: StepRows($0.gradients, from: first), upstream: $0.upstream + first,
              upstreamStride: velocities.count,
              streams: latents.latents(0).exceedsCache(count: 4 * velocities.count))
          })
        return pass.run(threads: threads, keeping: (latents, velocities, output?.gradients)) { sample, j, sums in
          let value = densities[j].logProb(squaredError: sums.squares, elements: latents.elements)
          finish(sample, first + j, value)
          if let output {
            let slope = densities[j].slope(b: coefficients[firstStep + first + j].b, elements: latents.elements)
            check.look(
              at: output.gradients.latents(first + j).rows, sample, step: j,
              scale: output.upstream[sample &* velocities.count &+ first &+ j] * slope, squares: sums.squares)
          }
          return value
        }
      }
    }
    try throwIfBroken(broken, from: firstStep + first, "latents, velocity or next latents")
    try check.throwIfBroken(from: firstStep + first, "grad_log_prob", latents.latents(0))
  }

  private func check(firstStep: Int, latents: TrajectoryView, velocities: TrajectoryView) throws {
    let n = velocities.count
    try check(step: firstStep)
    try require(
      n >= 1 && n <= steps - firstStep,
      "velocities hold \(n) steps, but from step \(firstStep) on there are \(steps - firstStep)")
    try require(
      latents.count > n, "latents hold \(latents.count) steps; \(n) velocities need \(n + 1) of them, one more")
    try latents.latents(0).checkSame(velocities.latents(0), "velocities")
    for t in firstStep..<firstStep + n {
      _ = try checkedDensity(t)
      if coefficients[t].c != 0 { throw needsImage(t) }
    }
  }
}
