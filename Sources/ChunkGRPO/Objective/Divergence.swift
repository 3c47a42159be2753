/// How far a step of the policy is from that of another, from their means m = a·x + b·v + …, so that m − m' = b·(v −
/// v'); one number per sample, averaged over the D elements.
public enum Divergence: Int32, Sendable, CaseIterable {
  /// mean((m − m')²)/(2s²): the exact KL divergence of the step's Gaussians (Pref-GRPO, Flow-GRPO on Wan and with CPS;
  /// verl-omni's Flow-DPPO, and the ratio bias of GRPO-Guard).
  case gaussian = 1
  /// mean((m − m')²)·Δ/(2s²): the same without Δ in the variance (Flow-GRPO on SD3, FLUX and Qwen-Image; verl-omni).
  case gaussianPerTime = 2
  /// mean((m − m')²) (Flow-Factory, "x-based").
  case mean = 3
  /// mean((v − v')²) (Flow-Factory, "v-based").
  case velocity = 4
}

/// Where the gradient of a divergence goes: B numbers of ∂loss/∂divergence, and the view for ∂loss/∂velocity.
package typealias DivergenceGradient = (upstream: UnsafePointer<Double>, gradVelocity: LatentsView)

extension Sampler {
  /// Divergence of a step from that of another velocity, of a reference or of the old policy: B numbers.
  ///
  /// - Parameters:
  ///   - steps: the step of each sample, B of them, where `step` is 0; nil = `step` for all.
  ///   - velocity, other: (B, D), guidance applied.
  ///   - gradient: B numbers of ∂loss/∂divergence, and where to write ∂loss/∂velocity; `other` has none.
  /// - Throws: `.invalidArgument` for the Gaussian kinds where s = 0.
  @discardableResult
  public func divergence(
    _ kind: Divergence = .gaussian, _ step: Int, steps: [Int]? = nil, velocity: LatentsView,
    other: LatentsView, gradient: ([Double], LatentsView)? = nil
  ) throws -> [Double] {
    try divergences(velocity, gradient) { values, gradient in
      try withSteps(steps, "steps", batch: velocity.batch) {
        try divergence(
          kind, step, steps: $0, velocity: velocity, other: other, divergence: values, gradient: gradient)
      }
    }
  }

  package func divergence(
    _ kind: Divergence, _ step: Int, steps each: UnsafePointer<Int>? = nil, velocity: LatentsView, other: LatentsView,
    divergence: UnsafeMutablePointer<Double>?, gradient: DivergenceGradient?
  ) throws {
    let steps = try batchSteps(step, each, batch: velocity.batch)
    try velocity.checkSame(other, "other_velocity", own: ("velocity is", "velocity has"))
    try check(kind, steps, batch: velocity.batch)
    let table = table
    let factors = DistanceFactors(kind: kind, ofMeans: false, steps: steps, table: table.base)
    let output = try output(steps, velocity, factors, gradient)
    try velocity.checkPart(numbers: divergence != nil, "divergence", writes: gradient != nil)
    let pass = VelocityDistancePass(
      x: velocity.rows, w: other.rows, gradient: output, factors: factors, distance: divergence)
    try gradient?.gradVelocity.checkApart("grad_velocity", from: velocity, "velocity")
    try gradient?.gradVelocity.checkApart("grad_velocity", from: other, "other_velocity")
    var check = GradientCheck()
    let x = pass.x
    let broken = try pass.run(
      over: velocity, threads: threads, keeping: (velocity, other, gradient?.gradVelocity),
      partSums: velocity.partSums(1)
    ) { sample, _, sums in
      let elements = x.length(sample)
      let value = factors.factor(sample) * (sums.squares / Double(elements))
      divergence?[sample] = value
      look(at: gradient, output, sample, elements, squares: sums.squares, &check)
      return value
    }
    withExtendedLifetime(table) {}
    try throwIfBroken(broken, from: steps, "velocity or other_velocity")
    try check.throwIfBroken(from: steps, "grad_divergence", velocity)
  }

  /// Divergence of a step from the one that was sampled: its mean is x' − s·ε, with ε made again (or given), so that
  /// neither the old velocity nor the old mean has to be stored. x' is the stored one; its rounding to f16 or bf16
  /// counts as distance.
  ///
  /// - Parameters:
  ///   - steps: the step of each sample, B of them, where `step` is 0; nil = `step` for all.
  ///   - noise: that of the step; nil where s = 0.
  ///   - next: x'.
  /// - Throws: `.invalidArgument` for a step of second order, or the Gaussian kinds where s = 0.
  @discardableResult
  public func divergenceFromSampled(
    _ kind: Divergence = .gaussian, _ step: Int, steps: [Int]? = nil, latents: LatentsView,
    velocity: LatentsView, noise: Noise?, next: LatentsView, gradient: ([Double], LatentsView)? = nil
  ) throws -> [Double] {
    try divergences(velocity, gradient) { values, gradient in
      try withSteps(steps, "steps", batch: latents.batch) {
        try divergenceFromSampled(
          kind, step, steps: $0, latents: latents, velocity: velocity, noise: noise, next: next, divergence: values,
          gradient: gradient)
      }
    }
  }

  package func divergenceFromSampled(
    _ kind: Divergence, _ step: Int, steps each: UnsafePointer<Int>? = nil, latents: LatentsView, velocity: LatentsView,
    noise: Noise?, next: LatentsView, divergence: UnsafeMutablePointer<Double>?, gradient: DivergenceGradient?
  ) throws {
    let steps = try batchSteps(step, each, batch: latents.batch)
    let source = try noise?.rows(steps, like: latents)
    try latents.checkVelocity(velocity, "velocity")
    try latents.checkSame(next, "next_latents")
    if let sample = secondOrder(steps, batch: latents.batch) {
      throw ChunkGRPOError.invalidArgument(
        "\(steps.name(sample)) is of second order: the sampled mean alone does not tell its divergence; give the old "
          + "velocity")
    }
    try checkNoise(source, steps, batch: latents.batch)
    try check(kind, steps, batch: latents.batch)
    let table = table
    if kind == .velocity, let sample = steps.sample(batch: latents.batch, where: { table[$0].coefficients.b == 0 }) {
      throw ChunkGRPOError.invalidArgument(
        "\(steps.name(sample)) does not depend on the velocity (b = 0), so that its distance is unknown")
    }
    let factors = DistanceFactors(kind: kind, ofMeans: true, steps: steps, table: table.base)
    let output = try output(steps, velocity, factors, gradient)
    try velocity.checkPart(numbers: divergence != nil, "divergence", writes: gradient != nil)
    let pass = MeanDistancePass(
      table: table.base, steps: steps, x: latents.rows, v: velocity.rows, next: next.rows, noise: source ?? .none,
      gradient: output, factors: factors, distance: divergence)
    if let view = gradient?.gradVelocity {
      try view.checkApart("grad_velocity", from: latents, "latents")
      try view.checkApart("grad_velocity", from: velocity, "velocity")
      try view.checkApart("grad_velocity", from: next, "next_latents")
      try view.checkApart("grad_velocity", from: noise, at: steps)
    }
    let owners = (latents, velocity, next, noise, gradient?.gradVelocity)
    var check = GradientCheck()
    let x = pass.x
    let broken = try pass.run(over: latents, threads: threads, keeping: owners, partSums: velocity.partSums(1)) {
      sample, _, sums in
      let elements = x.length(sample)
      let value = factors.factor(sample) * (sums.squares / Double(elements))
      divergence?[sample] = value
      look(at: gradient, output, sample, elements, squares: sums.squares, &check)
      return value
    }
    withExtendedLifetime(table) {}
    try throwIfBroken(broken, from: steps, "latents, velocity, noise or next latents")
    try check.throwIfBroken(from: steps, "grad_divergence", velocity)
  }

  private func look(
    at gradient: DivergenceGradient?, _ output: DistanceGradient?, _ sample: Int, _ elements: Int,
    squares: Double, _ check: inout GradientCheck
  ) {
    if let gradient, let output {
      check.look(
        at: gradient.gradVelocity.rows, sample, scale: output.scale(sample, elements: elements), squares: squares)
    }
  }

  /// Arrays around one of the two.
  private func divergences(
    _ velocity: LatentsView, _ gradient: ([Double], LatentsView)?,
    _ body: (UnsafeMutablePointer<Double>?, DivergenceGradient?) throws -> Void
  ) throws -> [Double] {
    guard let (upstream, view) = gradient else { return try velocity.numbers { try body($0, nil) } }
    try require(
      upstream.count == velocity.batch,
      "grad_divergence has \(upstream.count) numbers for a batch of \(velocity.batch)")
    return try velocity.withNumbers(upstream) { upstream in
      try velocity.numbers { try body($0, (upstream, view)) }
    }
  }

  private func check(_ kind: Divergence, _ steps: BatchSteps, batch: Int) throws {
    guard kind == .gaussian || kind == .gaussianPerTime else { return }
    let table = table
    if let sample = steps.sample(batch: batch, where: { table[$0].coefficients.s == 0 }) {
      throw ChunkGRPOError.invalidArgument(
        "\(steps.name(sample)) is deterministic (s = 0), so that its Gaussian divergence is infinite: use the mean or "
          + "the velocity")
    }
  }

  private func output(
    _ steps: BatchSteps, _ velocity: LatentsView, _ factors: DistanceFactors, _ gradient: DivergenceGradient?
  ) throws -> DistanceGradient? {
    guard let (upstream, view) = gradient else { return nil }
    try velocity.checkSame(view, "grad_velocity", own: ("velocity is", "velocity has"))
    if !velocity.isOnDevice { try checkUpstream(upstream, "grad_divergence", batch: velocity.batch, steps: steps) }
    return DistanceGradient(view: view.rows, upstream: upstream, factors: factors)
  }
}
