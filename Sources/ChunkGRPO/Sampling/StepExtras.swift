/// Inputs of a step beside latents and velocity.
public struct StepExtras {
  /// Classifier-free guidance: the velocity is u + w·(v − u) for the `velocity` v of the call and this u. nil = v alone.
  public var unconditional: LatentsView?
  /// w; 1 = v alone.
  public var guidance: Double
  /// x0 = x − σ·v of the step before: second-order steps need it.
  public var previousImage: LatentsView?

  public init(unconditional: LatentsView? = nil, guidance: Double = 1, previousImage: LatentsView? = nil) {
    self.unconditional = unconditional
    self.guidance = guidance
    self.previousImage = previousImage
  }
}
