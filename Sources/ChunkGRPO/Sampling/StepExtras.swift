/// Inputs of a step beside latents and velocity.
public struct StepExtras {
  // Not `LatentsView?`: that would be made nil first and then assigned, which small calls would pay for.
  /// Classifier-free guidance: the velocity is u + w·(v − u) for the `velocity` v of the call and this u. nil = v alone.
  public var unconditional: Optional<LatentsView>
  /// w; 1 = v alone.
  public var guidance: Double
  /// x0 = x − σ·v of the step before: second-order steps need it.
  public var previousImage: Optional<LatentsView>
  /// Of each sample, or nil. Borrowed as the memory of a `LatentsView` is: `owner` holds it, or the caller keeps it alive.
  let steps: UnsafePointer<Int>?, guidances: UnsafePointer<Double>?
  /// How many there are; nil where the caller vouches for it.
  let stepCount: Int?, guidanceCount: Int?
  private let owner: AnyObject?

  /// - Parameters:
  ///   - steps: the step of each sample, B of them, so that one batch mixes steps; the call's step is then 0. It gives the
  ///     bits of its samples one by one. nil = the call's step for all.
  ///   - guidances: w of each sample, B of them. nil = `guidance` for all.
  public init(
    unconditional: LatentsView? = nil, guidance: Double = 1, previousImage: LatentsView? = nil, steps: [Int]? = nil,
    guidances: [Double]? = nil
  ) {
    let owned = (steps.map { CArray($0) }, guidances.map { CArray($0) })
    self.unconditional = unconditional
    self.guidance = guidance
    self.previousImage = previousImage
    self.steps = owned.0?.start
    self.guidances = owned.1?.start
    stepCount = steps?.count
    guidanceCount = guidances?.count
    owner = steps == nil && guidances == nil ? nil : Pair(first: owned.0, second: owned.1)
  }

  /// The same with B numbers each, which the caller keeps alive, or nil.
  package init(
    unconditional: LatentsView?, guidance: Double, previousImage: LatentsView?, borrowing steps: UnsafePointer<Int>?,
    guidances: UnsafePointer<Double>?
  ) {
    self.unconditional = unconditional
    self.guidance = guidance
    self.previousImage = previousImage
    self.steps = steps
    self.guidances = guidances
    (stepCount, guidanceCount, owner) = (nil, nil, nil)
  }
}

private final class Pair {
  let first, second: AnyObject?

  init(first: AnyObject?, second: AnyObject?) {
    self.first = first
    self.second = second
  }
}
