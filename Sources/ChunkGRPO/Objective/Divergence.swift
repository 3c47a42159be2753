/// How far a step of the policy is from that of another, from their means m = a·x + b·v + …, so that m − m' = b·(v −
/// v'); one number a sample, averaged over the D elements.
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

extension Sampler {
  /// Divergence of a step from that of another velocity, of a reference or of the old policy, and its gradient.
  ///
  /// - Parameters:
  ///   - velocity, other: (B, D), guidance applied.
  ///   - divergence: B numbers, or nil.
  ///   - gradient: B numbers of ∂loss/∂divergence, and where to write ∂loss/∂velocity; `other` has none.
  /// - Throws: `.invalidArgument` for the Gaussian kinds where s = 0.
  public func divergence(
    _ kind: Divergence = .gaussian, _ step: Int, velocity: LatentsView, other: LatentsView,
    divergence: UnsafeMutablePointer<Double>? = nil,
    gradient: (UnsafePointer<Double>, LatentsView)? = nil
  ) throws {
    try check(step: step)
    if other.type != velocity.type {
      throw ChunkGRPOError.wrongType("other_velocity is \(other.type), but velocity is \(velocity.type)")
    }
    try require(
      other.batch == velocity.batch && other.elements == velocity.elements,
      "other_velocity has \(other.batch) samples of \(other.elements) elements, but velocity has \(velocity.batch) of \(velocity.elements)"
    )
    let factor = try factor(kind, step)
    // d²/∂v = 2·(v − v')
    try distance(
      step, velocity, factor: factor, slope: 2 * factor, divergence, gradient, "velocity or other_velocity"
    ) { gradient, finish in
      withExtendedLifetime((velocity, other)) {
        VelocityDistancePass(x: velocity.rows, w: other.rows, gradient: gradient).run(threads: threads, finish: finish)
      }
    }
  }

  /// Divergence of a step from the one that was sampled: its mean is x' − s·ε, with ε made again (or given), so that
  /// neither the old velocity nor the old mean has to be stored. x' is the stored one; its rounding to f16 or bf16
  /// counts as distance.
  ///
  /// - Parameters:
  ///   - noise: that of the step; nil where s = 0.
  ///   - next: x'.
  /// - Throws: `.invalidArgument` for a step of second order, or the Gaussian kinds where s = 0.
  public func divergenceFromSampled(
    _ kind: Divergence = .gaussian, _ step: Int, latents: LatentsView, velocity: LatentsView, noise: Noise?,
    next: LatentsView, divergence: UnsafeMutablePointer<Double>? = nil,
    gradient: (UnsafePointer<Double>, LatentsView)? = nil
  ) throws {
    switch noise {
    case nil:
      try divergenceFromSampled(
        kind, step, latents: latents, velocity: velocity, source: .none, next: next, divergence: divergence,
        gradient: gradient)
    case .given(let noise):
      try latents.checkSame(noise, "noise")
      try withExtendedLifetime(noise) {
        try divergenceFromSampled(
          kind, step, latents: latents, velocity: velocity, source: .given(noise.rows), next: next,
          divergence: divergence, gradient: gradient)
      }
    case .library(let seed, let sampleIDs):
      try checkSampleIDs(sampleIDs?.count, batch: latents.batch)
      try sampleIDs.withOptionalPointer {
        try divergenceFromSampled(
          kind, step, latents: latents, velocity: velocity, seed: seed, sampleIDPointer: $0, next: next,
          divergence: divergence, gradient: gradient)
      }
    }
  }

  /// The same with the library's noise and borrowed sample ids: nil, or B of them.
  public func divergenceFromSampled(
    _ kind: Divergence, _ step: Int, latents: LatentsView, velocity: LatentsView, seed: UInt64,
    sampleIDPointer: UnsafePointer<UInt64>?, next: LatentsView, divergence: UnsafeMutablePointer<Double>? = nil,
    gradient: (UnsafePointer<Double>, LatentsView)? = nil
  ) throws {
    try checkNoiseSize(latents)
    try divergenceFromSampled(
      kind, step, latents: latents, velocity: velocity,
      source: .library(LibraryNoise(seed: seed, sampleIDs: sampleIDPointer, step: step)), next: next,
      divergence: divergence, gradient: gradient)
  }

  private func divergenceFromSampled(
    _ kind: Divergence, _ step: Int, latents: LatentsView, velocity: LatentsView, source: NoiseSource,
    next: LatentsView, divergence: UnsafeMutablePointer<Double>?, gradient: (UnsafePointer<Double>, LatentsView)?
  ) throws {
    try check(step: step)
    try latents.checkSame(velocity, "velocity")
    try latents.checkSame(next, "next_latents")
    let c = coefficients[step]
    try require(
      c.c == 0,
      "step \(step) is of second order: the sampled mean alone does not tell its divergence; give the old velocity")
    if case .none = source {
      try require(c.s == 0, "noise: step \(step) is stochastic (s = \(c.s)) and needs noise or a seed")
    }
    let factor = try factor(kind, step)
    try require(
      kind != .velocity || c.b != 0,
      "step \(step) does not depend on the velocity (b = 0), so that its distance is unknown")
    // Of (m − m')² = b²·(v − v')².
    let ofMeans = kind == .velocity ? 1 / (c.b * c.b) : c.b == 0 ? 0 : factor / (c.b * c.b)
    try distance(
      step, velocity, factor: ofMeans, slope: 2 * c.b * ofMeans, divergence, gradient,
      "latents, velocity, noise or next latents"
    ) { gradient, finish in
      withExtendedLifetime((latents, velocity, next)) {
        MeanDistancePass(
          c: c, x: latents.rows, v: velocity.rows, next: next.rows, noise: source, gradient: gradient
        )
        .run(threads: threads, finish: finish)
      }
    }
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

  /// divergence = factor·mean(d²), gradient = upstream·slope·d/D for the d of `kernel`.
  private func distance(
    _ step: Int, _ velocity: LatentsView, factor: Double, slope: Double, _ divergence: UnsafeMutablePointer<Double>?,
    _ gradient: (UnsafePointer<Double>, LatentsView)?, _ what: String,
    _ kernel: (DistanceGradient?, (Int, SampleSums) -> Void) -> Void
  ) throws {
    let count = Double(velocity.elements)
    var broken: Int?
    func finish(_ sample: Int, _ sums: SampleSums) {
      let value = factor * (sums.squares / count)
      if !value.isFinite && broken == nil { broken = sample }
      divergence?[sample] = value
    }
    if let (upstream, view) = gradient {
      try velocity.checkSame(view, "grad_velocity")
      for i in 0..<velocity.batch {
        guard upstream[i].isFinite else {
          throw ChunkGRPOError.nonFinite("grad_divergence[\(i)] = \(upstream[i]) at step \(step) is not finite")
        }
      }
      withExtendedLifetime(view) {
        kernel(DistanceGradient(view: view.rows, upstream: upstream, slope: slope / count), finish)
      }
    } else {
      kernel(nil, finish)
    }
    try throwIfBroken(broken, step: step, what)
  }
}
