/// The numbers that a step gives for each sample.
public struct StepResult: Sendable, Equatable {
  /// B numbers; 0 where s = 0, so that a deterministic step drops out of every ratio. Empty where a part of the samples
  /// does not know them.
  public var logProb: [Double]
  /// B numbers, mean|x' − x| / (mean|x| + 1e-8); empty where they were not asked for.
  public var relativeL1: [Double]
}

extension Sampler {
  /// One step: next = a·x + b·v + c·h + s·ε. `next` may be `latents`, or overlaps nothing that is read.
  ///
  /// - Parameters:
  ///   - noise: may be nil where s = 0.
  ///   - relativeL1: whether the result has them too.
  /// - Throws: `.nonFinite` names the sample and the step; `next` is then to be thrown away.
  @discardableResult
  public func step(
    _ step: Int, latents: LatentsView, velocity: LatentsView, extras: StepExtras = StepExtras(), noise: Noise?,
    next: LatentsView, relativeL1: Bool = false
  ) throws -> StepResult {
    var change: [Double] = []
    let logProb = try latents.numbers { logProb in
      func run(_ change: UnsafeMutablePointer<Double>?) throws {
        try self.step(
          step, latents: latents, velocity: velocity, extras: extras, noise: noise, next: next, logProb: logProb,
          relativeL1: change)
      }
      if relativeL1 { change = try latents.numbers { try run($0) } } else { try run(nil) }
    }
    return StepResult(logProb: logProb, relativeL1: change)
  }

  /// The same into B numbers each, `stride` apart, or nil.
  package func step(
    _ step: Int, latents: LatentsView, velocity: LatentsView, extras: StepExtras = StepExtras(), noise: Noise?,
    next: LatentsView, logProb: UnsafeMutablePointer<Double>?, relativeL1: UnsafeMutablePointer<Double>? = nil,
    stride: Int = 1
  ) throws {
    let steps = try batchSteps(step, extras, batch: latents.batch)
    try latents.checkVelocity(velocity, "velocity")
    try latents.checkSame(next, "next_latents")
    try latents.checkPart(numbers: logProb != nil || relativeL1 != nil, "log_prob or relative_l1")
    let source = try noise?.rows(steps, like: latents)
    try checkNoise(source, steps, batch: latents.batch)
    try self.step(
      steps, latents: latents, velocity: velocity, extras: extras, source: source ?? .none, keeping: noise, next: next,
      logProb: logProb, relativeL1: relativeL1, stride: stride)
  }

  /// x0 = x − σ·v into `image`: what a second-order step needs of the step before it. `image` may be `latents`.
  public func predictedImage(
    _ step: Int, latents: LatentsView, velocity: LatentsView, extras: StepExtras = StepExtras(), image: LatentsView
  ) throws {
    let steps = try batchSteps(step, extras, batch: latents.batch)
    try latents.checkVelocity(velocity, "velocity")
    try latents.checkSame(image, "image")
    try latents.checkPart(numbers: false, "image", writes: true)
    try self.step(
      steps, ofImages: true, latents: latents, velocity: velocity, extras: extras, source: .none, keeping: nil,
      next: image, logProb: nil, relativeL1: nil, stride: 1)
  }

  private func step(
    _ steps: BatchSteps, ofImages: Bool = false, latents: LatentsView, velocity: LatentsView, extras: StepExtras,
    source: NoiseRows, keeping noise: Noise?, next: LatentsView, logProb: UnsafeMutablePointer<Double>?,
    relativeL1: UnsafeMutablePointer<Double>?, stride: Int
  ) throws {
    let (numbers, terms) = try mean(steps, ofImages: ofImages, latents, velocity, extras)
    try next.checkApart("next_latents", from: latents, "latents")
    try next.checkApart("next_latents", from: velocity, "velocity")
    try next.checkApart("next_latents", from: extras.unconditional, "unconditional")
    if terms?.z != nil { try next.checkApart("next_latents", from: extras.previousImage, "previous_image") }
    try next.checkApart("next_latents", from: noise, at: steps)
    let table = table
    let pass = StepPass(
      numbers: numbers, x: latents.rows, v: velocity.rows, terms: terms, noise: source, next: next.rows,
      results: StepNumbers(logProb: logProb, relativeL1: relativeL1, stride: stride))
    let x = pass.x
    let broken = try pass.run(
      over: latents, threads: threads, keeping: (latents, velocity, extras, noise, next),
      partSums: ofImages ? nil : latents.partSums(0b111)
    ) { sample, _, sums in
      let elements = x.length(sample)
      let value =
        ofImages
        ? 0 : numbers.density(sample).logProb(squaredError: sums.squares, elements: elements)
      let change = sums.relativeL1(elements: elements)
      logProb?[sample &* stride] = value
      relativeL1?[sample &* stride] = change
      // A NaN or infinity anywhere in x, v, noise or x' reaches x' − m.
      return sums.squares + change + value
    }
    withExtendedLifetime(table) {}
    try throwIfBroken(broken, from: steps, "latents, velocity, noise or next latents")
  }
}
