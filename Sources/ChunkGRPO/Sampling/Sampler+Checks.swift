// What the calls of a sampler have in common: which steps the samples are at, and whether these are what the call needs.

extension Sampler {
  /// The steps of a batch: `step` for all, or of each sample its own of `each`, where `step` is 0.
  ///
  /// - Parameter taking: how many steps each sample takes.
  @inline(__always)
  func batchSteps(
    _ step: Int, _ each: UnsafePointer<Int>?, batch: Int, taking count: Int = 1, _ name: StaticString = "step"
  ) throws -> BatchSteps {
    if let each { return try mixedSteps(step, each, batch, count, name) }
    try check(step: step)
    return BatchSteps(step)
  }

  @inline(never)
  private func mixedSteps(
    _ step: Int, _ each: UnsafePointer<Int>, _ batch: Int, _ count: Int, _ name: StaticString
  ) throws -> BatchSteps {
    try require(step == 0, "\(name) = \(step), but \(name)s has one per sample: give \(name) = 0 beside it")
    for i in 0..<batch {
      try require(
        each[i] >= 0 && each[i] <= steps - count, "\(name)s[\(i)] = \(each[i]) is outside 0 … \(steps - count)")
    }
    return BatchSteps(0, each: each)
  }

  /// The same of a call's extras.
  @inline(__always)
  func batchSteps(_ step: Int, _ extras: StepExtras, batch: Int) throws -> BatchSteps {
    if let count = extras.stepCount { try checkCount(count, "steps", batch: batch) }
    return try batchSteps(step, extras.steps, batch: batch)
  }

  /// Steps that an array has, for a call that borrows them.
  func withSteps<R>(
    _ steps: [Int]?, _ name: String, batch: Int, _ body: (UnsafePointer<Int>?) throws -> R
  ) throws -> R {
    guard let steps else { return try body(nil) }
    try checkCount(steps.count, name, batch: batch)
    return try steps.withUnsafeBufferPointer { try body($0.baseAddress) }
  }

  private func checkCount(_ count: Int, _ name: String, batch: Int) throws {
    try require(count == batch, "\(name) has \(count) numbers for a batch of \(batch)")
  }

  func check(step: Int) throws {
    try require((0..<steps).contains(step), "step = \(step) is outside 0 … \(steps - 1)")
  }

  /// The numbers of the means of a batch and their terms beside a·x + b·v: guidance splits v in two, a second-order step
  /// has h.
  func mean(
    _ steps: BatchSteps, ofImages: Bool = false, _ latents: LatentsView, _ velocity: LatentsView, _ extras: StepExtras
  ) throws -> (BatchNumbers, LinearTerms?) {
    var terms = LinearTerms()
    try checkGuidance(extras, isGuided: extras.unconditional != nil, batch: latents.batch)
    if let u = extras.unconditional {
      try velocity.checkSame(u, "unconditional", own: ("velocity is", "velocity has"))
      terms.y = u.rows
    }
    if !ofImages, let sample = secondOrder(steps, batch: latents.batch) {
      guard let h = extras.previousImage else { throw needsImage(steps.name(sample)) }
      try latents.checkSame(h, "previous_image")
      terms.z = h.rows
    }
    let table = table
    let numbers = withExtendedLifetime(table) {
      BatchNumbers(
        steps, table.base, ofImages: ofImages, guidance: extras.guidance, guidances: extras.guidances)
    }
    return (numbers, terms.y == nil && terms.z == nil ? nil : terms)
  }

  /// - Parameter isGuided: whether there is an unconditional velocity.
  @inline(__always)
  func checkGuidance(_ extras: StepExtras, isGuided: Bool, batch: Int) throws {
    if let each = extras.guidances {
      try require(isGuided, "guidances needs the unconditional velocity")
      try require(
        extras.guidance == 1, "guidance = \(extras.guidance) and guidances exclude each other: give one of them")
      if let count = extras.guidanceCount { try checkCount(count, "guidances", batch: batch) }
      for i in 0..<batch { try require(Float(each[i]).isFinite, "guidances[\(i)] = \(each[i]) is not finite") }
    } else if isGuided {
      try require(Float(extras.guidance).isFinite, "guidance = \(extras.guidance) is not finite")
    } else {
      try require(extras.guidance == 1, "guidance = \(extras.guidance) needs the unconditional velocity")
    }
  }

  /// The first sample at a step of second order.
  @inline(__always)
  func secondOrder(_ steps: BatchSteps, batch: Int) -> Int? {
    let table = table
    return steps.sample(batch: batch) { table[$0].coefficients.c != 0 }
  }

  /// Refuses steps without a density.
  @inline(__always)
  func checkDensities(_ steps: BatchSteps, batch: Int) throws {
    let table = table
    if let sample = steps.sample(batch: batch, where: { table[$0].coefficients.s == 0 }) {
      throw ChunkGRPOError.invalidArgument(
        "\(steps.name(sample)) is deterministic (s = 0) and has no log-probability: use a stochastic sampler with eta > 0"
      )
    }
  }

  /// Refuses steps with noise where there is none for them.
  @inline(__always)
  func checkNoise(_ source: NoiseRows?, _ steps: BatchSteps, batch: Int) throws {
    if source != nil { return }
    let table = table
    if let sample = steps.sample(batch: batch, where: { table[$0].coefficients.s != 0 }) {
      throw ChunkGRPOError.invalidArgument(
        "noise: \(steps.name(sample)) is stochastic (s = \(table[steps[sample]].coefficients.s)) and needs noise or a seed"
      )
    }
  }

  func needsImage(_ step: String) -> ChunkGRPOError {
    .invalidArgument(
      "previous_image: \(step) is of second order and needs the image that the step before it predicted")
  }
}
