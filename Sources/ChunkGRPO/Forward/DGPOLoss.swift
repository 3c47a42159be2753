internal import Platform

/// Options of `dgpoLoss`.
public struct DGPOOptions: Options {
  /// β > 0.
  public var beta = 100.0
  /// Consecutive samples of one prompt, or ids; nil = all samples are one group.
  public var groupSize: Int?
  /// The group of each sample, in place of `groupSize`.
  public var groupIDs: Numbers<Int>?
  /// (B, N) distances of the old policy; with them, a distance is clipped whose ratio exp(d_old − d) has left `clip` the
  /// advantage's way.
  public var oldDistance: Numbers<Double>?
  /// How far the distance may move from `oldDistance`.
  public var clip = ClipRange(low: 1e-4, high: 1e-4)
  /// What of a clipped distance has no gradient: its own term, its KL.
  public var clipsDistance = true, clipsKL = false
  /// β ≥ 0 of the velocity KL, and its (B, N) numbers.
  public var kl = 0.0
  /// (B, N): mean |v − v_ref|², for a KL weight above 0.
  public var referenceDivergence: Numbers<Double>?

  public init() {}

  func isClipped(_ i: Int, _ distance: Double, _ advantage: Double) -> Bool {
    guard let oldDistance else { return false }
    let ratio = exp(oldDistance[i] - distance)
    return advantage > 0 ? ratio > 1 + clip.high : ratio < 1 - clip.low
  }
}

/// DGPO (Luo-Yihong/DGPO scripts/train_sd3_dgpo.py; Flow-Factory dgpo.py):
///
///     s    = β/|G| · Σ over the group of A_i·(d_i − d_i^ref)        at each time
///     loss = mean over samples and times of sigmoid(s)·A_i·d_i      no gradient through s
///
/// The samples of a group share noise and times.
///
/// - Parameters:
///   - distance, reference: (B, N).
///   - advantages: (B).
public func dgpoLoss(
  distance: [Double], reference: [Double], advantages: [Double], options: DGPOOptions = DGPOOptions()
) throws -> ForwardLoss {
  try forwardLoss(size: distance.count, gradients: 1, hasReference: options.referenceDivergence != nil) {
    try dgpoLoss(
      distance: Numbers(distance), reference: Numbers(reference), advantages: Numbers(advantages), options: options,
      to: $0)
  }
}

package func dgpoLoss(
  distance: Numbers<Double>, reference: Numbers<Double>, advantages: Numbers<Double>, options: DGPOOptions,
  to output: ForwardLossOutput
) throws -> (loss: Double, stats: ForwardStats) {
  let size = distance.count
  let times = try timesPerSample(size, batch: advantages.count)
  try checkDistances(distance, "distance", size: size, times)
  try checkDistances(reference, "reference_distance", size: size, times)
  try checkAdvantages(advantages)
  try checkPositive(options.beta, "beta")
  if let old = options.oldDistance { try checkDistances(old, "old_distance", size: size, times) }
  try options.clip.check()
  try require(
    options.oldDistance != nil || !options.clipsKL,
    "clip_kl = 1 is of clipped distances, but old_distance is null, so that none is clipped: give it, or clip_kl = 0")
  let groups = try Groups(
    count: advantages.count, size: options.groupSize, ids: options.groupIDs, of: "advantages")
  let kl = try ReferenceKL(options.kl, options.referenceDivergence, output, size: size, times)
  var stats = ForwardStats()
  var ofKL = 0.0
  groups.forEach { group in
    for time in 0..<times {
      var preference = 0.0
      for place in group {
        let (sample, i) = (groups.sample(place), groups.sample(place) * times + time)
        preference += advantages[sample] * options.beta * (distance[i] - reference[i]) / Double(group.count)
      }
      let weight = sigmoid(preference)
      for place in group {
        let (sample, i) = (groups.sample(place), groups.sample(place) * times + time)
        let slope = weight * advantages[sample] / Double(size)
        let clipped = options.isClipped(i, distance[i], advantages[sample])
        stats.policyLoss += slope * distance[i]
        stats.weightMean += weight / Double(size)
        stats.clipFraction += clipped ? 1 / Double(size) : 0
        output.first?[i] = clipped && options.clipsDistance ? 0 : slope
        kl.add(i, kl.weight, size: size, to: &ofKL, &stats.kl, output)
        if clipped && options.clipsKL { output.referenceDivergence?[i] = 0 }
      }
    }
  }
  try checkLoss(stats.policyLoss + ofKL)
  return (stats.policyLoss + ofKL, stats)
}
