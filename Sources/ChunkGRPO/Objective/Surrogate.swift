internal import Platform

enum Clipped { case no, low, high }

/// The policy term of one chunk.
struct PolicyTerm {
  let value: Double
  /// ∂value/∂(the chunk's log ratio), or for CISPO ∂value/∂ℓ_j^new.
  let slope: Double
  let clipped: Clipped

  init(_ value: Double, slope: Double, clipped: Clipped = .no) {
    self.value = value
    self.slope = slope
    self.clipped = clipped
  }
}

/// min(r, high) where A > 0, max(r, −low) where A < 0: a log ratio is bounded only where it has moved the advantage's
/// way.
func logClip(_ logRatio: Double, _ advantage: Double, _ clip: ClipRange) -> Double {
  advantage > 0 ? min(logRatio, clip.high) : max(logRatio, -clip.low)
}

extension ChunkLossOptions {
  /// - Parameters:
  ///   - newLogProb: ℓ_j^new.
  ///   - divergence: the chunk's.
  func policyTerm(ratio: Double, advantage: Double, newLogProb: Double, divergence: Double) -> PolicyTerm {
    let side = ratio > 1 ? Clipped.high : .low
    switch surrogate {
    case .clipped:
      return clippedTerm(ratio: ratio, advantage: advantage)
    case .unclipped, .logClipped:
      return PolicyTerm(-advantage * ratio, slope: -advantage * ratio)
    case .cispo:
      let bounded = min(max(ratio, 1 - clip.low), 1 + clip.high)
      return PolicyTerm(
        -advantage * bounded * newLogProb, slope: -advantage * bounded, clipped: bounded == ratio ? .no : side)
    case .divergenceMask:
      let moved = advantage > 0 && ratio > 1 || advantage < 0 && ratio < 1
      return moved && divergence >= divergenceThreshold
        ? PolicyTerm(0, slope: 0, clipped: side) : PolicyTerm(-advantage * ratio, slope: -advantage * ratio)
    }
  }

  /// max(−A·min(ρ, cap), −A·clip(ρ)), and where A < 0 at most −A·dualClip.
  private func clippedTerm(ratio: Double, advantage: Double) -> PolicyTerm {
    let bounded = min(max(ratio, 1 - clip.low), 1 + clip.high)
    let capped = min(ratio, ratioCap)
    let chosen = -advantage * bounded > -advantage * capped ? bounded : capped
    if advantage < 0 && chosen > dualClip { return PolicyTerm(-advantage * dualClip, slope: 0, clipped: .high) }
    let value = -advantage * chosen
    if chosen == ratio || advantage == 0 { return PolicyTerm(value, slope: -advantage * ratio) }
    return PolicyTerm(value, slope: 0, clipped: ratio > 1 ? .high : .low)
  }
}

extension KLEstimator {
  /// The estimate and its slope in ℓ_new, of δ = ℓ_ref − ℓ_new.
  func callAsFunction(_ delta: Double) -> (value: Double, slope: Double) {
    switch self {
    case .k1: return (-delta, 1)
    case .k2: return (0.5 * delta * delta, -delta)
    case .k3: return (expm1(delta) - delta, -expm1(delta))
    }
  }
}
