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
  ///   - velocity, other: (B, D), guidance applied.
  ///   - gradient: B numbers of ∂loss/∂divergence, and where to write ∂loss/∂velocity; `other` has none.
  /// - Throws: `.invalidArgument` for the Gaussian kinds where s = 0.
  @discardableResult
  public func divergence(
    _ kind: Divergence = .gaussian, _ step: Int, velocity: LatentsView, other: LatentsView,
    gradient: ([Double], LatentsView)? = nil
  ) throws -> [Double] {
    try divergences(velocity.batch, gradient) {
      try divergence(kind, step, velocity: velocity, other: other, divergence: $0, gradient: $1)
    }
  }

  package func divergence(
    _ kind: Divergence, _ step: Int, velocity: LatentsView, other: LatentsView,
    divergence: UnsafeMutablePointer<Double>?, gradient: DivergenceGradient?
  ) throws {
    try check(step: step)
    try velocity.checkSame(other, "other_velocity", own: ("velocity is", "velocity has"))
    let factor = try factor(kind, step)
    // d²/∂v = 2·(v − v')
    let output = try output(step, velocity, slope: 2 * factor, gradient)
    let pass = VelocityDistancePass(x: velocity.rows, w: other.rows, gradient: output)
    try gradient?.gradVelocity.checkApart("grad_velocity", from: velocity, "velocity")
    try gradient?.gradVelocity.checkApart("grad_velocity", from: other, "other_velocity")
    var check = GradientCheck()
    let broken = pass.run(threads: threads, keeping: (velocity, other, gradient?.gradVelocity)) { sample, _, sums in
      let value = factor * (sums.squares / Double(velocity.elements))
      divergence?[sample] = value
      look(at: gradient, output, sample, squares: sums.squares, &check)
      return value
    }
    try throwIfBroken(broken, from: step, "velocity or other_velocity")
    try check.throwIfBroken(from: step, "grad_divergence", velocity)
  }

  /// Divergence of a step from the one that was sampled: its mean is x' − s·ε, with ε made again (or given), so that
  /// neither the old velocity nor the old mean has to be stored. x' is the stored one; its rounding to f16 or bf16
  /// counts as distance.
  ///
  /// - Parameters:
  ///   - noise: that of the step; nil where s = 0.
  ///   - next: x'.
  /// - Throws: `.invalidArgument` for a step of second order, or the Gaussian kinds where s = 0.
  @discardableResult
  public func divergenceFromSampled(
    _ kind: Divergence = .gaussian, _ step: Int, latents: LatentsView, velocity: LatentsView, noise: Noise?,
    next: LatentsView, gradient: ([Double], LatentsView)? = nil
  ) throws -> [Double] {
    try divergences(velocity.batch, gradient) {
      try divergenceFromSampled(
        kind, step, latents: latents, velocity: velocity, noise: noise, next: next, divergence: $0, gradient: $1)
    }
  }

  package func divergenceFromSampled(
    _ kind: Divergence, _ step: Int, latents: LatentsView, velocity: LatentsView, noise: Noise?, next: LatentsView,
    divergence: UnsafeMutablePointer<Double>?, gradient: DivergenceGradient?
  ) throws {
    let source = try noise?.rows(step: step, like: latents)
    try check(step: step)
    try latents.checkSame(velocity, "velocity")
    try latents.checkSame(next, "next_latents")
    let c = coefficients[step]
    try require(
      c.c == 0,
      "step \(step) is of second order: the sampled mean alone does not tell its divergence; give the old velocity")
    if c.s != 0 && source == nil { throw needsNoise(step) }
    let factor = try factor(kind, step)
    try require(
      kind != .velocity || c.b != 0,
      "step \(step) does not depend on the velocity (b = 0), so that its distance is unknown")
    // Of (m − m')² = b²·(v − v')².
    let ofMeans = kind == .velocity ? 1 / (c.b * c.b) : c.b == 0 ? 0 : factor / (c.b * c.b)
    let output = try output(step, velocity, slope: 2 * c.b * ofMeans, gradient)
    let pass = MeanDistancePass(
      c: c, x: latents.rows, v: velocity.rows, next: next.rows, noise: source ?? .none, gradient: output)
    if let view = gradient?.gradVelocity {
      try view.checkApart("grad_velocity", from: latents, "latents")
      try view.checkApart("grad_velocity", from: velocity, "velocity")
      try view.checkApart("grad_velocity", from: next, "next_latents")
      try view.checkApart("grad_velocity", from: noise?.given(step: step), "noise")
    }
    let owners = (latents, velocity, next, noise, gradient?.gradVelocity)
    var check = GradientCheck()
    let broken = pass.run(threads: threads, keeping: owners) { sample, _, sums in
      let value = ofMeans * (sums.squares / Double(velocity.elements))
      divergence?[sample] = value
      look(at: gradient, output, sample, squares: sums.squares, &check)
      return value
    }
    try throwIfBroken(broken, from: step, "latents, velocity, noise or next latents")
    try check.throwIfBroken(from: step, "grad_divergence", velocity)
  }

  private func look(
    at gradient: DivergenceGradient?, _ output: DistanceGradient?, _ sample: Int, squares: Double,
    _ check: inout GradientCheck
  ) {
    if let gradient, let output {
      let scale = output.slope * output.upstream[sample]
      check.look(at: gradient.gradVelocity.rows, sample, scale: scale, squares: squares)
    }
  }

  /// Arrays around one of the two.
  private func divergences(
    _ batch: Int, _ gradient: ([Double], LatentsView)?,
    _ body: (UnsafeMutablePointer<Double>?, DivergenceGradient?) throws -> Void
  ) throws -> [Double] {
    var values = [Double](repeating: 0, count: max(0, batch))
    guard let (upstream, view) = gradient else {
      try body(&values, nil)
      return values
    }
    try require(upstream.count == batch, "grad_divergence has \(upstream.count) numbers for a batch of \(batch)")
    try upstream.withUnsafeBufferPointer { upstream in
      try body(&values, upstream.baseAddress.map { ($0, view) })
    }
    return values
  }

  /// Of mean((v − v')²).
  private func factor(_ kind: Divergence, _ step: Int) throws -> Double {
    let c = coefficients[step]
    if kind == .gaussian || kind == .gaussianPerTime {
      try require(
        c.s > 0,
        "step \(step) is deterministic (s = 0), so that its Gaussian divergence is infinite: use the mean or the velocity"
      )
    }
    switch kind {
    case .gaussian: return c.b * c.b / (2 * c.s * c.s)
    case .gaussianPerTime:
      return c.b * c.b * (schedule.sigmas[step] - schedule.sigmas[step + 1]) / (2 * c.s * c.s)
    case .mean: return c.b * c.b
    case .velocity: return 1
    }
  }

  /// gradient = upstream·slope·d/D for the d of a pass.
  private func output(
    _ step: Int, _ velocity: LatentsView, slope: Double, _ gradient: DivergenceGradient?
  ) throws -> DistanceGradient? {
    guard let (upstream, view) = gradient else { return nil }
    try velocity.checkSame(view, "grad_velocity")
    try checkUpstream(upstream, "grad_divergence", batch: velocity.batch, step: step)
    return DistanceGradient(view: view.rows, upstream: upstream, slope: slope / Double(velocity.elements))
  }
}
