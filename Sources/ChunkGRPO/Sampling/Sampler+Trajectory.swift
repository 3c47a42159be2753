extension Sampler {
  /// Log-probabilities (B, n) of the steps `firstStep …` from latents (B, n + 1, …) and velocities (B, n, …).
  ///
  /// - Parameter firstSteps: the first step of each sample, B of them, where `firstStep` is 0; nil = `firstStep` for all.
  public func logProbs(
    firstStep: Int = 0, firstSteps: [Int]? = nil, latents: TrajectoryView, velocities: TrajectoryView
  ) throws -> [Double] {
    let count = try checkedProduct([velocities.batch, velocities.count], "log_probs")
    return try withSteps(firstSteps, "first_steps", batch: latents.batch) { steps in
      try latents.latents(0).numbers(count) {
        try logProbs(firstStep: firstStep, firstSteps: steps, latents: latents, velocities: velocities, into: $0)
      }
    }
  }

  package func logProbs(
    firstStep: Int, firstSteps: UnsafePointer<Int>? = nil, latents: TrajectoryView, velocities: TrajectoryView,
    into logProbs: UnsafeMutablePointer<Double>?
  ) throws {
    let steps = try check(firstStep, firstSteps, latents, velocities)
    let n = velocities.count
    try latents.latents(0).checkPart(numbers: logProbs != nil, "log_probs")
    for first in stride(from: 0, to: n, by: maxSteps) {
      try run(steps, first..<min(n, first + maxSteps), latents, velocities, output: nil, logProbs)
    }
  }

  /// Vector-Jacobian product of `logProbs`: gradLogProbs (B, n) to gradVelocities (B, n, …). Steps whose gradient is
  /// zero for the whole batch are not computed but filled with zeros.
  public func logProbsVJP(
    firstStep: Int = 0, firstSteps: [Int]? = nil, latents: TrajectoryView, velocities: TrajectoryView,
    gradLogProbs: [Double],
    gradVelocities: TrajectoryView
  ) throws {
    let count = try checkedProduct([velocities.batch, velocities.count], "grad_log_probs")
    try require(gradLogProbs.count == count, "grad_log_probs has \(gradLogProbs.count) numbers, not \(count)")
    if count == 0 { return }
    try latents.latents(0).withNumbers(gradLogProbs) { upstream in
      try withSteps(firstSteps, "first_steps", batch: latents.batch) {
        try logProbsVJP(
          firstStep: firstStep, firstSteps: $0, latents: latents, velocities: velocities, gradLogProbs: upstream,
          gradVelocities: gradVelocities)
      }
    }
  }

  package func logProbsVJP(
    firstStep: Int, firstSteps: UnsafePointer<Int>? = nil, latents: TrajectoryView, velocities: TrajectoryView,
    gradLogProbs: UnsafePointer<Double>, gradVelocities: TrajectoryView
  ) throws {
    let steps = try check(firstStep, firstSteps, latents, velocities)
    let n = velocities.count
    try require(
      gradVelocities.count == n, "grad_velocities hold \(gradVelocities.count) steps, but the velocities have \(n)")
    try velocities.latents(0).checkSame(
      gradVelocities.latents(0), "grad_velocities", own: ("velocities are", "velocities have"))
    try latents.latents(0).checkPart(numbers: false, "log_probs", writes: true)
    try gradVelocities.checkApart("grad_velocities", from: latents, "latents", orSame: false)
    try gradVelocities.checkApart("grad_velocities", from: velocities, "velocities", orSame: true)
    try gradients(steps, latents, velocities, gradLogProbs, gradVelocities)
  }

  /// - Parameter ofResiduals: whether latents and velocities are both the residuals that were kept.
  func gradients(
    _ steps: BatchSteps, _ latents: TrajectoryView, _ velocities: TrajectoryView,
    _ gradLogProbs: UnsafePointer<Double>, _ gradVelocities: TrajectoryView, ofResiduals: Bool = false
  ) throws {
    let n = velocities.count
    var first = 0
    for t in 0..<n {
      let column = gradLogProbs + t
      // On a CUDA device nobody waits for the gradients to look at them.
      let isZero = try !latents.isOnDevice && areZero(column, batch: latents.batch, steps: steps.later(t), stride: n)
      if isZero { gradVelocities.latents(t).clear() }
      let end = isZero ? t : t + 1
      if isZero || end - first == maxSteps || end == n {
        if first < end {
          try run(
            steps, first..<end, latents, velocities, output: (gradLogProbs, gradVelocities), nil,
            ofResiduals: ofResiduals)
        }
        first = t + 1
      }
    }
  }

  private func areZero(
    _ column: UnsafePointer<Double>, batch: Int, steps: BatchSteps, stride: Int
  ) throws -> Bool {
    try checkUpstream(column, "grad_log_prob", batch: batch, steps: steps, stride: stride)
    return (0..<batch).allSatisfy { column[$0 &* stride] == 0 }
  }

  /// Takes columns `range` of a trajectory, up to `maxSteps`, through one pass.
  func run(
    _ steps: BatchSteps, _ range: Range<Int>, _ latents: TrajectoryView, _ velocities: TrajectoryView,
    output: (upstream: UnsafePointer<Double>?, gradients: TrajectoryView)?,
    _ logProbs: UnsafeMutablePointer<Double>?, ofResiduals: Bool = false
  ) throws {
    let (first, n) = (range.lowerBound, velocities.count)
    let steps = steps.later(first)
    let table = table
    let base = table.base
    let pass = TrajectoryPass(
      table: base, latents: StepRows(latents, from: first), v: StepRows(velocities, from: first), first: steps,
      steps: range.count,
      output: output.map {
        TrajectoryPass.Output(
          gradients: StepRows($0.gradients, from: first), upstream: $0.upstream.map { $0 + first },
          upstreamStride: velocities.count, streams: latents.latents(0).exceedsCache(count: 4 * velocities.count))
      }, logProbs: logProbs.map { $0 + first }, stride: n, ofResiduals: ofResiduals)
    var check = GradientCheck()
    let (view, x) = (latents.latents(first), pass.x)
    let broken = try pass.run(
      over: view, threads: threads, keeping: (latents, velocities, output?.gradients),
      partSums: output?.upstream == nil ? view.partSums(1, steps: velocities.count, at: first) : nil
    ) { sample, j, sums in
      let elements = x.length(sample)
      let at = base + (steps[sample] &+ j)
      let value = at.pointee.density.logProb(squaredError: sums.squares, elements: elements)
      logProbs?[sample &* n &+ first &+ j] = value
      if let output, let scale = pass.output?.scale(sample, j, elements: elements, at.pointee) {
        check.look(
          at: output.gradients.latents(first + j).rows, sample, step: j, scale: scale, squares: sums.squares)
      }
      return value
    }
    withExtendedLifetime(table) {}
    try throwIfBroken(broken, from: steps, ofResiduals ? "residuals" : "latents, velocity or next latents")
    try check.throwIfBroken(from: steps, "grad_log_prob", velocities.latents(0))
  }

  func check(
    _ firstStep: Int, _ firstSteps: UnsafePointer<Int>?, _ latents: TrajectoryView, _ velocities: TrajectoryView
  ) throws -> BatchSteps {
    let n = velocities.count
    let first = try taken(firstStep, firstSteps, n, "velocities", batch: latents.batch)
    try require(
      latents.count > n, "latents hold \(latents.count) steps; \(n) velocities need \(n + 1) of them, one more")
    try latents.latents(0).checkVelocity(velocities.latents(0), "velocities")
    for t in 0..<n {
      let at = first.later(t)
      try checkDensities(at, batch: latents.batch)
      if let sample = secondOrder(at, batch: latents.batch) { throw needsImage(at.name(sample)) }
    }
    return first
  }

  /// The first step of each sample, of which `name` has n.
  func taken(
    _ firstStep: Int, _ firstSteps: UnsafePointer<Int>?, _ n: Int, _ name: String, batch: Int
  ) throws -> BatchSteps {
    if firstSteps == nil { try check(step: firstStep) }
    let left = firstSteps == nil ? steps - firstStep : steps
    try require(
      n >= 1 && n <= left,
      "\(name) hold \(n) steps, but from step \(steps - left) on there are \(left)")
    return try batchSteps(firstStep, firstSteps, batch: batch, taking: n, "first_step")
  }
}
