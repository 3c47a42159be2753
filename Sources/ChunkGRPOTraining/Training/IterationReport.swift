import ChunkGRPO

/// The course of one Chunk-GRPO iteration.
public struct IterationReport: Sendable {
  /// Counted from 1.
  public var iteration = 0
  /// Mean and population standard deviation of the rollouts' rewards.
  public var rewardMean = 0.0, rewardStd = 0.0
  /// Means over the optimiser steps; the norm is that before clipping.
  public var loss = 0.0, gradNorm = 0.0
  /// Of the last optimiser step.
  public var stats = ChunkStats()
  /// Mean over the trained steps, and over the optimiser steps; 0 where `TrainerOptions.referenceKL` is 0.
  public var referenceDivergence = 0.0
  /// Mean of (v − v_reference)² at the last step, over the samples and the optimiser steps; 0 where
  /// `TrainerOptions.referenceLastStep` is 0.
  public var lastStepDivergence = 0.0
  /// Wall time of the rollouts, in the reward, of the optimiser steps.
  public var rolloutSeconds = 0.0, rewardSeconds = 0.0, updateSeconds = 0.0

  func requireFinite() throws {
    for (name, value) in [
      ("mean of the rewards", rewardMean), ("deviation of the rewards", rewardStd), ("loss", loss),
      ("norm of the gradient", gradNorm), ("divergence from the reference", referenceDivergence),
      ("divergence of the last step from the reference", lastStepDivergence),
    ] where !value.isFinite {
      throw ChunkGRPOError.nonFinite("the \(name) is \(value) in iteration \(iteration)")
    }
  }
}
