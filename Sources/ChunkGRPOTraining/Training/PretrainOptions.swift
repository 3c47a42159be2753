import ChunkGRPO

/// How flow matching is pretrained. The fields of `cgrpo_pretrain_options`, in its order; the defaults are here alone.
public struct PretrainOptions: Equatable, Sendable {
  /// Optimiser steps, ≥ 1.
  public var steps = 2000
  /// Images per step, ≥ 1.
  public var batchSize = 256
  /// At first; falls to a tenth along a cosine. ≥ 0.
  public var learningRate = 2e-3
  /// Decay of the averaged parameters, which the network has afterwards; [0, 1). It rises to this over the first steps.
  public var emaDecay = 0.99

  public init() {}

  func check() throws {
    try requireBounds("steps", steps, 1...1 << 40)
    try requireBounds("batch_size", batchSize, 1...1 << 30)
    try requireLearningRate(learningRate)
    try requireDecay(emaDecay)
  }
}
