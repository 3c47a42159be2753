// The numbers that a pass computes with: one set for the batch, or one per sample, by its step and its guidance. Those of a
// sample are looked up block by block, so that a batch of mixed steps takes no memory.

/// What passes look up of a step of the schedule.
struct ScheduledStep: BitwiseCopyable {
  let coefficients: StepCoefficients
  let density: StepDensity
  let sigma, next: Double

  /// Of x0 = x − σ·v: a step to σ' = 0 without noise.
  var image: StepCoefficients { StepCoefficients(a: 1, b: -sigma, s: 0) }
}

/// The steps that the samples of a batch are at.
struct BatchSteps {
  /// Of all samples; with `each`, what is added to theirs.
  let first: Int
  let each: UnsafePointer<Int>?

  init(_ first: Int, each: UnsafePointer<Int>? = nil) {
    self.first = first
    self.each = each
  }

  var isMixed: Bool { each != nil }

  @inline(__always)
  subscript(sample: Int) -> Int { first &+ (each?[sample] ?? 0) }

  /// Those of so many steps later.
  func later(_ count: Int) -> BatchSteps { BatchSteps(first &+ count, each: each) }

  /// The first sample that is at such a step. Of one step for all, sample 0 stands for them.
  @inline(__always)
  func sample(batch: Int, where isSuch: (_ step: Int) throws -> Bool) rethrows -> Int? {
    for sample in 0..<(isMixed ? batch : 1) where try isSuch(self[sample]) { return sample }
    return nil
  }

  /// For messages.
  func name(_ sample: Int) -> String { isMixed ? "step \(self[sample]) of sample \(sample)" : "step \(first)" }
}

/// The numbers with which one sample takes its step.
struct SampleNumbers {
  /// Of the step.
  let c: StepCoefficients
  /// w: guidance splits b between the two velocities.
  let guidance: Double

  var a: Double { c.a }
  var s: Double { c.s }
  /// Of the velocity and of the unconditional one.
  var b: Double { c.b * guidance }
  var p: Double { c.b * (1 - guidance) }
  /// Of the image that the step before predicted.
  var q: Double { c.c }
}

/// `SampleNumbers` of every sample of a batch.
struct BatchNumbers {
  private let one: SampleNumbers
  private let steps: BatchSteps
  private let table: UnsafePointer<ScheduledStep>
  private let guidances: UnsafePointer<Double>?
  private let ofImages: Bool

  /// - Parameters:
  ///   - table: of the schedule.
  ///   - ofImages: whether they are those of the predicted image, not of the step.
  ///   - guidances: one per sample; nil = `guidance` for all.
  init(
    _ steps: BatchSteps, _ table: UnsafePointer<ScheduledStep>, ofImages: Bool, guidance: Double,
    guidances: UnsafePointer<Double>?
  ) {
    self.steps = steps
    self.table = table
    self.ofImages = ofImages
    self.guidances = guidances
    let at = table + steps.first
    one = SampleNumbers(c: ofImages ? at.pointee.image : at.pointee.coefficients, guidance: guidance)
  }

  /// Whether each sample has numbers of its own.
  var areOwn: Bool { steps.isMixed || guidances != nil }

  func step(_ sample: Int) -> Int { steps[sample] }

  @inline(__always)
  subscript(sample: Int) -> SampleNumbers { areOwn ? own(sample) : one }

  @inline(never)
  private func own(_ sample: Int) -> SampleNumbers {
    let at = table + steps[sample]
    return SampleNumbers(
      c: ofImages ? at.pointee.image : at.pointee.coefficients, guidance: guidances?[sample] ?? one.guidance)
  }

  @inline(__always)
  func density(_ sample: Int) -> StepDensity { table[steps[sample]].density }
}

/// What a divergence makes of a sample's distance d: factor·mean d², with the gradient slope·d/D.
struct DistanceFactors {
  let kind: Divergence
  /// Whether d = m − m' = b·(v − v'), the distance of the means; else it is that of the velocities.
  let ofMeans: Bool
  let steps: BatchSteps
  let table: UnsafePointer<ScheduledStep>

  func factor(_ sample: Int) -> Double { factor(table[steps[sample]]) }

  func slope(_ sample: Int) -> Double {
    let step = table[steps[sample]]
    // ∂d²/∂v = 2·d·∂d/∂v
    return ofMeans ? 2 * step.coefficients.b * factor(step) : 2 * factor(step)
  }

  private func factor(_ step: ScheduledStep) -> Double {
    let (b, ofVelocities) = (step.coefficients.b, ofVelocities(step))
    if !ofMeans { return ofVelocities }
    return kind == .velocity ? 1 / (b * b) : b == 0 ? 0 : ofVelocities / (b * b)
  }

  private func ofVelocities(_ step: ScheduledStep) -> Double {
    let (b, s) = (step.coefficients.b, step.coefficients.s)
    switch kind {
    case .gaussian: return b * b / (2 * s * s)
    case .gaussianPerTime: return b * b * (step.sigma - step.next) / (2 * s * s)
    case .mean: return b * b
    case .velocity: return 1
    }
  }
}
