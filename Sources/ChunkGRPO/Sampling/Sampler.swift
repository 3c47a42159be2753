import Glibc

/// An immutable sampler over one schedule. Every step is `x' = a·x + b·v + c·h + s·ε`; see `Dynamics` for the numbers.
///
/// All latents, velocities and noise of a call have one shape and one element type. Results are the same bits for any
/// number of threads and for a batch split in any way.
public struct Sampler: Sendable {
  public let schedule: Schedule
  public let options: SamplerOptions
  public let threads: Int
  /// T of them.
  public let coefficients: [StepCoefficients]

  /// T
  public var steps: Int { schedule.steps }
  /// S = T − 1: the last step is left out.
  public var trainedSteps: Int { schedule.steps - 1 }
  /// The steps with noise among the trained ones: those that have a log-probability.
  public var stochasticSteps: [Int] { (0..<trainedSteps).filter { coefficients[$0].s > 0 } }

  /// - Parameters:
  ///   - eta: noise scale, ≥ 0; for CPS at most 1.
  ///   - threads: 1 … 256; 0 = one a core.
  public init(
    _ schedule: Schedule, dynamics: Dynamics = SamplerOptions().dynamics, eta: Double = SamplerOptions().eta,
    logProbForm: LogProbForm = SamplerOptions().logProbForm, lastStep: LastStep = SamplerOptions().lastStep,
    threads: Int = SamplerOptions().threads
  ) throws {
    try self.init(
      schedule,
      SamplerOptions {
        ($0.dynamics, $0.eta, $0.logProbForm, $0.lastStep, $0.threads) = (
          dynamics, eta, logProbForm, lastStep, threads
        )
      })
  }

  public init(_ schedule: Schedule, _ options: SamplerOptions) throws {
    self.schedule = schedule
    self.options = options
    threads = try resolvedThreads(options.threads)
    coefficients = try Sampler.coefficients(schedule, options)
  }

  private static func coefficients(_ schedule: Schedule, _ o: SamplerOptions) throws -> [StepCoefficients] {
    let (sigmas, steps) = (schedule.sigmas, schedule.steps)
    let etas = o.etas ?? Array(repeating: o.eta, count: steps)
    try require(etas.count == steps, "etas: \(etas.count) of them for \(steps) steps")
    for (k, eta) in etas.enumerated() {
      let name = o.etas == nil ? "eta" : "etas[\(k)]"
      try require(eta >= 0 && eta.isFinite, "\(name) = \(eta) must be at least 0 and finite")
      try require(
        o.dynamics != .cps || eta <= 1, "\(name) = \(eta): CPS takes at most 1, where all of the noise is new")
    }
    try require((1...2).contains(o.dpmOrder), "dpm_order = \(o.dpmOrder) is neither 1 nor 2")
    for (name, dynamics) in [("outside", o.outside), ("after", o.after ?? o.outside)] {
      try require(
        dynamics == .ode || dynamics == .dpmODE,
        "\(name): steps outside of the window are deterministic, ode or dpm_ode")
    }
    let inside = try windowFlags(o.window, steps: steps)
    let lastInside = inside.lastIndex(of: true) ?? -1
    return try (0..<steps).map { k in
      let last = k == steps - 1
      let dynamics: Dynamics =
        last && o.lastStep == .ode
        ? .ode : inside[k] ? o.dynamics : k > lastInside ? o.after ?? o.outside : o.outside
      let c = dynamics.coefficients(
        StepSigmas(
          sigma: sigmas[k], next: sigmas[k + 1], previous: o.dpmOrder == 2 && k > 0 && !last ? sigmas[k - 1] : nil,
          afterFirst: sigmas[1]), eta: dynamics.followsEta ? etas[k] : 0)
      try require(
        [c.a, c.b, c.s, c.c].allSatisfy { Float($0).isFinite },
        "eta = \(etas[k]) makes step \(k), from sigma \(sigmas[k]) to \(sigmas[k + 1]), overflow")
      return c
    }
  }

  private static func windowFlags(_ window: [Int]?, steps: Int) throws -> [Bool] {
    guard let window else { return Array(repeating: true, count: steps) }
    try require(!window.isEmpty, "window: no step is in it, so nothing would be trained")
    var flags = Array(repeating: false, count: steps)
    for (i, k) in window.enumerated() {
      try require((0..<steps).contains(k), "window[\(i)] = \(k) is outside 0 … \(steps - 1)")
      try require(
        i == 0 || k > window[i - 1], "window[\(i)] = \(k) does not follow \(window[max(i, 1) - 1]): steps rise")
      flags[k] = true
    }
    return flags
  }

  // MARK: Step

  /// One step: next = a·x + b·v + c·h + s·ε. `next` may be `latents`.
  ///
  /// - Parameters:
  ///   - noise: may be nil where s = 0.
  ///   - logProb: B numbers, or nil. 0 where s = 0, so that a deterministic step drops out of every ratio.
  ///   - relativeL1: B numbers, or nil: mean|x' − x| / (mean|x| + 1e-8).
  /// - Throws: `.nonFinite` names the sample and the step; `next` is then to be thrown away.
  public func step(
    _ step: Int, latents: LatentsView, velocity: LatentsView, extras: StepExtras = StepExtras(), noise: Noise?,
    next: LatentsView, logProb: UnsafeMutablePointer<Double>? = nil, relativeL1: UnsafeMutablePointer<Double>? = nil
  ) throws {
    switch noise {
    case nil:
      try self.step(
        step, latents: latents, velocity: velocity, extras: extras, source: nil, next: next,
        logProb: Column(logProb), relativeL1: Column(relativeL1))
    case .given(let noise):
      try withExtendedLifetime(noise) {
        try self.step(
          step, latents: latents, velocity: velocity, extras: extras, source: .given(noise.rows), next: next,
          logProb: Column(logProb), relativeL1: Column(relativeL1))
      }
    case .library(let seed, let sampleIDs):
      try checkSampleIDs(sampleIDs?.count, batch: latents.batch)
      try sampleIDs.withOptionalPointer {
        try self.step(
          step, latents: latents, velocity: velocity, extras: extras, seed: seed, sampleIDPointer: $0, next: next,
          logProb: logProb, relativeL1: relativeL1)
      }
    }
  }

  /// The same with the library's noise and borrowed sample ids: nil, or B of them.
  public func step(
    _ step: Int, latents: LatentsView, velocity: LatentsView, extras: StepExtras = StepExtras(), seed: UInt64,
    sampleIDPointer: UnsafePointer<UInt64>?, next: LatentsView, logProb: UnsafeMutablePointer<Double>? = nil,
    relativeL1: UnsafeMutablePointer<Double>? = nil
  ) throws {
    try self.step(
      step, latents: latents, velocity: velocity, extras: extras,
      source: .library(LibraryNoise(seed: seed, sampleIDs: sampleIDPointer, step: step)), next: next,
      logProb: Column(logProb), relativeL1: Column(relativeL1))
  }

  func step(
    _ step: Int, latents: LatentsView, velocity: LatentsView, extras: StepExtras, source: NoiseSource?,
    next: LatentsView, logProb: Column, relativeL1: Column
  ) throws {
    try check(step: step)
    try latents.checkSame(velocity, "velocity")
    try latents.checkSame(next, "next_latents")
    if case .given(let noise) = source { try latents.rows.checkSame(noise, "noise") }
    if case .library = source { try checkNoiseSize(latents) }
    let s = coefficients[step].s
    try require(s == 0 || source != nil, "noise: step \(step) is stochastic (s = \(s)) and needs noise or a seed")
    let (c, terms) = try mean(step, latents, extras)
    try withExtendedLifetime(extras) {
      try self.step(
        step, c, latents: latents, velocity: velocity, terms: terms, source: s == 0 ? .none : source ?? .none,
        next: next, logProb: logProb, relativeL1: relativeL1)
    }
  }

  /// The step of `c`, whatever the coefficients of `step` are.
  private func step(
    _ step: Int, _ c: StepCoefficients, latents: LatentsView, velocity: LatentsView, terms: LinearTerms?,
    source: NoiseSource, next: LatentsView, logProb: Column, relativeL1: Column
  ) throws {
    let density = density(c)
    let count = Double(latents.elements)
    var broken: Int?
    func finish(_ sample: Int, _ sums: SampleSums) {
      let value = density?.logProb(squaredError: sums.squares, elements: latents.elements) ?? 0
      let change = (sums.change / count) / (sums.magnitude / count + 1e-8)
      // A NaN or infinity anywhere in x, v, noise or x' reaches x' − m.
      if !(sums.squares + change + value).isFinite && broken == nil { broken = sample }
      logProb[sample] = value
      relativeL1[sample] = change
    }
    withExtendedLifetime((latents, velocity, next)) {
      StepPass(
        c: c, x: latents.rows, v: velocity.rows, terms: terms, noise: source, next: next.rows,
        change: relativeL1.base != nil
      )
      .run(threads: threads, finish: finish)
    }
    try throwIfBroken(broken, step: step, "latents, velocity, noise or next latents")
  }

  /// x0 = x − σ·v into `image`: what a second-order step needs of the step before it. `image` may be `latents`.
  public func predictedImage(
    _ step: Int, latents: LatentsView, velocity: LatentsView, extras: StepExtras = StepExtras(), image: LatentsView
  ) throws {
    try check(step: step)
    try latents.checkSame(velocity, "velocity")
    try latents.checkSame(image, "image")
    // A step to σ' = 0 without noise.
    let (c, terms) = try mean(step, StepCoefficients(a: 1, b: -schedule.sigmas[step], s: 0), latents, extras)
    try self.step(
      step, c, latents: latents, velocity: velocity, terms: terms, source: .none, next: image, logProb: Column(nil),
      relativeL1: Column(nil))
  }

  // MARK: Log-probability

  /// Log-probability of given next latents, B numbers.
  ///
  /// - Throws: `.invalidArgument` where s = 0, for a deterministic step has no density.
  public func logProb(
    _ step: Int, latents: LatentsView, velocity: LatentsView, extras: StepExtras = StepExtras(), next: LatentsView,
    logProb: UnsafeMutablePointer<Double>
  ) throws {
    try self.logProb(
      step, latents: latents, velocity: velocity, extras: extras, next: next, into: Column(logProb))
  }

  func logProb(
    _ step: Int, latents: LatentsView, velocity: LatentsView, extras: StepExtras, next: LatentsView,
    into logProb: Column
  ) throws {
    let density = try checkedDensity(step, latents: latents, velocity: velocity, next: next)
    let (c, terms) = try mean(step, latents, extras)
    var broken: Int?
    func finish(_ sample: Int, _ sums: SampleSums) {
      let value = density.logProb(squaredError: sums.squares, elements: latents.elements)
      if !value.isFinite && broken == nil { broken = sample }
      logProb[sample] = value
    }
    withExtendedLifetime((latents, velocity, next, extras)) {
      DifferencePass(c: c, x: latents.rows, v: velocity.rows, terms: terms, next: next.rows)
        .run(threads: threads, finish: finish)
    }
    try throwIfBroken(broken, step: step, "latents, velocity or next latents")
  }

  /// Vector-Jacobian product: gradVelocity = gradLogProb[i] · ∂ℓ[i]/∂v[i], with ∂ℓ/∂v = b·(x'−m)/(D·s²).
  ///
  /// - Parameters:
  ///   - gradLogProb: B numbers.
  ///   - gradUnconditional: for guidance, the gradient of the unconditional velocity, or nil.
  ///   - logProb: B numbers or nil: written in the same pass.
  public func logProbVJP(
    _ step: Int, latents: LatentsView, velocity: LatentsView, extras: StepExtras = StepExtras(), next: LatentsView,
    gradLogProb: UnsafePointer<Double>, gradVelocity: LatentsView, gradUnconditional: LatentsView? = nil,
    logProb: UnsafeMutablePointer<Double>? = nil
  ) throws {
    try logProbVJP(
      step, latents: latents, velocity: velocity, extras: extras, next: next,
      gradLogProb: Column(UnsafeMutablePointer(mutating: gradLogProb)), gradVelocity: gradVelocity,
      gradUnconditional: gradUnconditional, logProb: logProb)
  }

  func logProbVJP(
    _ step: Int, latents: LatentsView, velocity: LatentsView, extras: StepExtras = StepExtras(), next: LatentsView,
    gradLogProb: Column, gradVelocity: LatentsView, gradUnconditional: LatentsView? = nil,
    logProb: UnsafeMutablePointer<Double>? = nil
  ) throws {
    let density = try checkedDensity(step, latents: latents, velocity: velocity, next: next)
    let (c, terms) = try mean(step, latents, extras)
    try latents.checkSame(gradVelocity, "grad_velocity")
    if let gradUnconditional {
      try latents.checkSame(gradUnconditional, "grad_unconditional")
      try require(extras.unconditional != nil, "grad_unconditional: there is no unconditional velocity")
    }
    var broken: Int?
    func finish(_ sample: Int, _ sums: SampleSums) {
      let value = density.logProb(squaredError: sums.squares, elements: latents.elements)
      if !value.isFinite && broken == nil { broken = sample }
      logProb?[sample] = value
    }
    try check(gradLogProb: gradLogProb, batch: latents.batch, step: step)
    let slope = density.slope(b: coefficients[step].b, elements: latents.elements)
    // Guidance: ∂v/∂(conditional) = w and ∂v/∂(unconditional) = 1 − w.
    let w = extras.unconditional == nil ? 1 : extras.guidance
    let output = GradientOutput(
      gradient: gradVelocity.rows, unconditional: gradUnconditional?.rows, upstream: gradLogProb, scale: slope * w,
      unconditionalScale: slope * (1 - w), streams: latents.exceedsCache(count: 4))
    withExtendedLifetime((latents, velocity, next, extras, gradVelocity, gradUnconditional)) {
      DifferencePass(c: c, x: latents.rows, v: velocity.rows, terms: terms, next: next.rows, output: output)
        .run(threads: threads, finish: finish)
    }
    try throwIfBroken(broken, step: step, "latents, velocity or next latents")
  }

  // MARK: Checks

  /// The numbers of a step's mean and its terms beside a·x + b·v: guidance splits v in two, a second-order step has h.
  private func mean(
    _ step: Int, _ latents: LatentsView, _ extras: StepExtras
  ) throws -> (StepCoefficients, LinearTerms?) {
    try mean(step, coefficients[step], latents, extras)
  }

  private func mean(
    _ step: Int, _ c: StepCoefficients, _ latents: LatentsView, _ extras: StepExtras
  ) throws -> (StepCoefficients, LinearTerms?) {
    var terms = LinearTerms()
    var b = c.b
    if let u = extras.unconditional {
      try latents.checkSame(u, "unconditional")
      try require(Float(extras.guidance).isFinite, "guidance = \(extras.guidance) is not finite")
      terms.y = u.rows
      terms.p = c.b * (1 - extras.guidance)
      b *= extras.guidance
    } else {
      try require(
        extras.guidance == 1, "guidance = \(extras.guidance) needs the unconditional velocity")
    }
    if c.c != 0 {
      guard let h = extras.previousImage else { throw needsImage(step) }
      try latents.checkSame(h, "previous_image")
      terms.z = h.rows
      terms.q = c.c
    }
    return (StepCoefficients(a: c.a, b: b, s: c.s, c: c.c), terms.y == nil && terms.z == nil ? nil : terms)
  }

  private func density(_ c: StepCoefficients) -> StepDensity? {
    let s = c.s
    if s == 0 { return nil }
    switch options.logProbForm {
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
    return try checkedDensity(step)
  }

  func checkedDensity(_ step: Int) throws -> StepDensity {
    guard let density = density(coefficients[step]) else {
      throw ChunkGRPOError.invalidArgument(
        "step \(step) is deterministic (s = 0) and has no log-probability: use a stochastic sampler with eta > 0")
    }
    return density
  }

  func needsImage(_ step: Int) -> ChunkGRPOError {
    .invalidArgument(
      "previous_image: step \(step) is of second order and needs the image that the step before it predicted")
  }

  func check(gradLogProb: Column, batch: Int, step: Int) throws {
    for i in 0..<batch {
      guard gradLogProb[i].isFinite else {
        throw ChunkGRPOError.nonFinite("grad_log_prob[\(i)] = \(gradLogProb[i]) at step \(step) is not finite")
      }
    }
  }

  func check(step: Int) throws {
    try require((0..<steps).contains(step), "step = \(step) is outside 0 … \(steps - 1)")
  }
}

/// ℓ = −precision·‖x'−m‖²/D + constant
struct StepDensity {
  let precision, constant: Double

  /// What x' − m is multiplied by in ∂ℓ/∂v.
  func slope(b: Double, elements: Int) -> Double { 2 * precision * b / Double(elements) }

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
  func checkSame(_ other: LatentsView, _ name: String) throws { try rows.checkSame(other.rows, name) }
}

extension Rows {
  func checkSame(_ other: Rows, _ name: String) throws {
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
