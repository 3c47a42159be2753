import Glibc

/// Which number stands for the log-probability of a step.
public enum LogProbForm: Int32, Sendable {
  /// ℓ = −‖x'−m‖²/(2·D·s²) − ln s − ½·ln 2π, the mean over the D elements.
  case gaussian = 1
  /// ℓ = −‖x'−m‖²/D: what Flow-GRPO and Flow-Factory use with CPS.
  case squaredError = 2
}

/// What the last step does, which is never trained.
public enum LastStep: Int32, Sendable {
  /// The same as the others (Flow-GRPO).
  case asOthers = 1
  /// No noise: with a final σ of 0 the result is the predicted image x0 = x − σ·v (GCPO, DanceGRPO).
  case ode = 2
}

/// An immutable sampler over one schedule. Every step is `x' = a·x + b·v + s·ε`; see `Dynamics` for a, b and s.
///
/// All latents, velocities and noise of a call have one shape and one element type. Results are the same bits for any
/// number of threads and for a batch split in any way.
public struct Sampler: Sendable {
  public let schedule: Schedule
  public let dynamics: Dynamics
  public let eta: Double
  public let logProbForm: LogProbForm
  public let lastStep: LastStep
  public let threads: Int
  /// T of them.
  public let coefficients: [StepCoefficients]

  /// T
  public var steps: Int { schedule.steps }
  /// S = T − 1: the last step is left out.
  public var trainedSteps: Int { schedule.steps - 1 }

  /// - Parameters:
  ///   - eta: noise scale, ≥ 0; for CPS at most 1.
  ///   - threads: 1 … 256; 0 = one a core.
  public init(
    _ schedule: Schedule, dynamics: Dynamics = .flowSDE, eta: Double = 0.7, logProbForm: LogProbForm = .gaussian,
    lastStep: LastStep = .asOthers, threads: Int = 1
  ) throws {
    try require(eta >= 0 && eta.isFinite, "eta = \(eta) must be at least 0 and finite")
    try require(dynamics != .cps || eta <= 1, "eta = \(eta): CPS takes at most 1, where all of the noise is new")
    self.schedule = schedule
    self.dynamics = dynamics
    self.eta = eta
    self.logProbForm = logProbForm
    self.lastStep = lastStep
    self.threads = try resolvedThreads(threads)
    let sigmas = schedule.sigmas
    if dynamics == .flowSDE && eta > 0 && sigmas[0] == 1 {
      // sigma_1 stands in for sigma = 1; below it there is nothing to divide by.
      try require(sigmas[1] < 1, "sigmas[1] must be below 1")
    }
    coefficients = (0..<schedule.steps).map { k in
      let dynamics = k == schedule.steps - 1 && lastStep == .ode ? .ode : dynamics
      return dynamics.coefficients(
        sigma: sigmas[k], next: sigmas[k + 1], eta: dynamics == .ode ? 0 : eta, sigmaAfterFirst: sigmas[1])
    }
    for (k, c) in coefficients.enumerated() {
      try require(
        c.a.isFinite && c.b.isFinite && c.s.isFinite && Float(c.a).isFinite && Float(c.b).isFinite
          && Float(c.s).isFinite,
        "eta = \(eta) makes step \(k), from sigma \(sigmas[k]) to \(sigmas[k + 1]), overflow")
    }
  }

  // MARK: Step

  /// One step: next = a·x + b·v + s·ε. `next` may be `latents`.
  ///
  /// - Parameters:
  ///   - noise: may be nil where s = 0.
  ///   - logProb: B numbers, or nil. 0 where s = 0, so that a deterministic step drops out of every ratio.
  ///   - relativeL1: B numbers, or nil: mean|x' − x| / (mean|x| + 1e-8).
  /// - Throws: `.nonFinite` names the sample and the step; `next` is then to be thrown away.
  public func step(
    _ step: Int, latents: LatentsView, velocity: LatentsView, noise: Noise?, next: LatentsView,
    logProb: UnsafeMutablePointer<Double>? = nil, relativeL1: UnsafeMutablePointer<Double>? = nil
  ) throws {
    switch noise {
    case nil:
      try self.step(
        step, latents: latents, velocity: velocity, source: nil, next: next, logProb: Column(logProb),
        relativeL1: Column(relativeL1))
    case .given(let noise):
      try self.step(
        step, latents: latents, velocity: velocity, source: .given(noise), next: next, logProb: Column(logProb),
        relativeL1: Column(relativeL1))
    case .library(let seed, let sampleIDs):
      try checkSampleIDs(sampleIDs?.count, batch: latents.batch)
      try sampleIDs.withOptionalPointer {
        try self.step(
          step, latents: latents, velocity: velocity, seed: seed, sampleIDPointer: $0, next: next, logProb: logProb,
          relativeL1: relativeL1)
      }
    }
  }

  /// The same with the library's noise and borrowed sample ids: nil, or B of them.
  public func step(
    _ step: Int, latents: LatentsView, velocity: LatentsView, seed: UInt64, sampleIDPointer: UnsafePointer<UInt64>?,
    next: LatentsView, logProb: UnsafeMutablePointer<Double>? = nil, relativeL1: UnsafeMutablePointer<Double>? = nil
  ) throws {
    try self.step(
      step, latents: latents, velocity: velocity,
      source: .library(seed: seed, sampleIDs: sampleIDPointer, step: UInt32(truncatingIfNeeded: step)), next: next,
      logProb: Column(logProb), relativeL1: Column(relativeL1))
  }

  func step(
    _ step: Int, latents: LatentsView, velocity: LatentsView, source: NoiseSource?, next: LatentsView,
    logProb: Column, relativeL1: Column
  ) throws {
    try check(step: step)
    try latents.checkSame(velocity, "velocity")
    try latents.checkSame(next, "next_latents")
    if case .given(let noise) = source { try latents.checkSame(noise, "noise") }
    if case .library = source { try checkNoiseSize(latents) }
    let c = coefficients[step]
    try require(
      c.s == 0 || source != nil, "noise: step \(step) is stochastic (s = \(c.s)) and needs noise or a seed")
    let density = density(step)
    let count = Double(latents.elements)
    let source: NoiseSource = c.s == 0 ? .none : source ?? .none
    var broken: Int?
    func finish(_ sample: Int, _ sums: SampleSums) {
      let value = density?.logProb(squaredError: sums.squaredError, elements: latents.elements) ?? 0
      let change = (sums.change / count) / (sums.magnitude / count + 1e-8)
      // A NaN or infinity anywhere in x, v, noise or x' reaches one of the sums.
      if !(sums.squaredError + change + value).isFinite && broken == nil { broken = sample }
      logProb[sample] = value
      relativeL1[sample] = change
    }
    switch latents.type {
    case .float32:
      stepKernel(c, x: latents, v: velocity, noise: source, next: next, threads: threads, as: Float.self, finish: finish)
    case .float64:
      stepKernel(c, x: latents, v: velocity, noise: source, next: next, threads: threads, as: Double.self, finish: finish)
    case .bfloat16:
      stepKernel(
        c, x: latents, v: velocity, noise: source, next: next, threads: threads, as: BFloat16.self, finish: finish)
    case .float16:
      stepKernel(c, x: latents, v: velocity, noise: source, next: next, threads: threads, as: Half.self, finish: finish)
    }
    try throwIfBroken(broken, step: step, "latents, velocity, noise or next latents")
  }

  // MARK: Log-probability

  /// Log-probability of given next latents, B numbers.
  ///
  /// - Throws: `.invalidArgument` where s = 0, for a deterministic step has no density.
  public func logProb(
    _ step: Int, latents: LatentsView, velocity: LatentsView, next: LatentsView,
    logProb: UnsafeMutablePointer<Double>
  ) throws {
    try self.logProb(step, latents: latents, velocity: velocity, next: next, into: Column(logProb))
  }

  func logProb(
    _ step: Int, latents: LatentsView, velocity: LatentsView, next: LatentsView, into logProb: Column
  ) throws {
    let density = try checkedDensity(step, latents: latents, velocity: velocity, next: next)
    let c = coefficients[step]
    var broken: Int?
    func finish(_ sample: Int, _ sums: SampleSums) {
      let value = density.logProb(squaredError: sums.squaredError, elements: latents.elements)
      if !value.isFinite && broken == nil { broken = sample }
      logProb[sample] = value
    }
    switch latents.type {
    case .float32:
      squaredErrorKernel(c, x: latents, v: velocity, next: next, threads: threads, as: Float.self, finish: finish)
    case .float64:
      squaredErrorKernel(c, x: latents, v: velocity, next: next, threads: threads, as: Double.self, finish: finish)
    case .bfloat16:
      squaredErrorKernel(c, x: latents, v: velocity, next: next, threads: threads, as: BFloat16.self, finish: finish)
    case .float16:
      squaredErrorKernel(c, x: latents, v: velocity, next: next, threads: threads, as: Half.self, finish: finish)
    }
    try throwIfBroken(broken, step: step, "latents, velocity or next latents")
  }

  /// Vector-Jacobian product: gradVelocity = gradLogProb[i] · ∂ℓ[i]/∂v[i], with ∂ℓ/∂v = b·(x'−m)/(D·s²).
  ///
  /// - Parameters:
  ///   - gradLogProb: B numbers.
  ///   - logProb: B numbers or nil: written in the same pass.
  public func logProbVJP(
    _ step: Int, latents: LatentsView, velocity: LatentsView, next: LatentsView,
    gradLogProb: UnsafePointer<Double>, gradVelocity: LatentsView, logProb: UnsafeMutablePointer<Double>? = nil
  ) throws {
    let density = try checkedDensity(step, latents: latents, velocity: velocity, next: next)
    try latents.checkSame(gradVelocity, "grad_velocity")
    let c = coefficients[step]
    var broken: Int?
    func finish(_ sample: Int, _ sums: SampleSums) {
      let value = density.logProb(squaredError: sums.squaredError, elements: latents.elements)
      if !value.isFinite && broken == nil { broken = sample }
      logProb?[sample] = value
    }
    try withUnsafeTemporaryAllocation(of: Double.self, capacity: latents.batch) { scale in
      guard let scale = scale.baseAddress else { return }
      for i in 0..<latents.batch {
        let g = gradLogProb[i]
        guard g.isFinite else {
          throw ChunkGRPOError.nonFinite("grad_log_prob[\(i)] = \(g) at step \(step) is not finite")
        }
        (scale + i).initialize(to: g * 2 * density.precision * c.b / Double(latents.elements))
      }
      switch latents.type {
      case .float32:
        gradientKernel(
          c, x: latents, v: velocity, next: next, gradient: gradVelocity, scale: scale, threads: threads,
          as: Float.self, finish: finish)
      case .float64:
        gradientKernel(
          c, x: latents, v: velocity, next: next, gradient: gradVelocity, scale: scale, threads: threads,
          as: Double.self, finish: finish)
      case .bfloat16:
        gradientKernel(
          c, x: latents, v: velocity, next: next, gradient: gradVelocity, scale: scale, threads: threads,
          as: BFloat16.self, finish: finish)
      case .float16:
        gradientKernel(
          c, x: latents, v: velocity, next: next, gradient: gradVelocity, scale: scale, threads: threads,
          as: Half.self, finish: finish)
      }
    }
    try throwIfBroken(broken, step: step, "latents, velocity or next latents")
  }

  // MARK: Checks

  private func density(_ step: Int) -> StepDensity? {
    let s = coefficients[step].s
    if s == 0 { return nil }
    switch logProbForm {
    case .gaussian: return StepDensity(precision: 1 / (2 * s * s), constant: -log(s) - 0.5 * log(2 * Double.pi))
    case .squaredError: return StepDensity(precision: 1, constant: 0)
    }
  }

  private func checkedDensity(
    _ step: Int, latents: LatentsView, velocity: LatentsView, next: LatentsView
  ) throws -> StepDensity {
    try check(step: step)
    try latents.checkSame(velocity, "velocity")
    try latents.checkSame(next, "next_latents")
    guard let density = density(step) else {
      throw ChunkGRPOError.invalidArgument(
        "step \(step) is deterministic (s = 0) and has no log-probability: use a stochastic sampler with eta > 0")
    }
    return density
  }

  func check(step: Int) throws {
    try require((0..<steps).contains(step), "step = \(step) is outside 0 … \(steps - 1)")
  }
}

/// ℓ = −precision·‖x'−m‖²/D + constant
private struct StepDensity {
  let precision, constant: Double

  func logProb(squaredError: Double, elements: Int) -> Double {
    constant - precision * (squaredError / Double(elements))
  }
}

/// One number a sample, at a distance: a column of a (B, S) array. Writing to none is fine.
struct Column {
  let base: UnsafeMutablePointer<Double>?
  let stride: Int

  init(_ base: UnsafeMutablePointer<Double>?, stride: Int = 1) {
    self.base = base
    self.stride = stride
  }

  subscript(sample: Int) -> Double {
    get { base?[sample &* stride] ?? 0 }
    nonmutating set { base?[sample &* stride] = newValue }
  }
}

extension LatentsView {
  /// Throws unless `other` has the shape and element type of these latents.
  func checkSame(_ other: LatentsView, _ name: String) throws {
    if other.type != type {
      throw ChunkGRPOError.wrongType("\(name) is \(other.type), but the latents are \(type)")
    }
    try require(
      other.batch == batch && other.elements == elements,
      "\(name) has \(other.batch) samples of \(other.elements) elements, but the latents have \(batch) of \(elements)")
  }
}

func throwIfBroken(_ sample: Int?, step: Int, _ what: String) throws {
  if let sample {
    throw ChunkGRPOError.nonFinite("\(what) of sample \(sample) at step \(step) are not finite, or too large to square")
  }
}
