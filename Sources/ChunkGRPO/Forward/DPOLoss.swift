internal import Platform

/// Options of `dpoLoss`.
public struct DPOOptions: Options {
  /// β > 0.
  public var beta = 100.0

  public init() {}
}

/// Diffusion-DPO on flow matching (arXiv 2311.12908; Flow-Factory dpo.py; yifan123/flow_grpo scripts/train_sd3_dpo.py):
///
///     loss = mean over pairs and times of −ln sigmoid(−β/2 · ((d_w − d_w^ref) − (d_l − d_l^ref)))
///
/// for chosen (w) and rejected (l) images that share noise and times. For pairs of a rollout see `preferencePairs`.
///
/// - Parameter chosen, rejected, chosenReference, rejectedReference: distances, (P, N).
public func dpoLoss(
  chosen: [Double], rejected: [Double], chosenReference: [Double], rejectedReference: [Double],
  options: DPOOptions = DPOOptions()
) throws -> ForwardLoss {
  try forwardLoss(size: chosen.count, gradients: 2, hasReference: false) {
    try dpoLoss(
      chosen: Numbers(chosen), rejected: Numbers(rejected), chosenReference: Numbers(chosenReference),
      rejectedReference: Numbers(rejectedReference), times: 1, options: options, to: $0)
  }
}

/// - Parameter times: N, which a message counts by.
package func dpoLoss(
  chosen: Numbers<Double>, rejected: Numbers<Double>, chosenReference: Numbers<Double>,
  rejectedReference: Numbers<Double>, times: Int, options: DPOOptions, to output: ForwardLossOutput
) throws -> (loss: Double, stats: ForwardStats) {
  let size = chosen.count
  try require(size >= 1, "chosen_distance: there are no pairs")
  try checkDistances(chosen, "chosen_distance", size: size, times)
  try checkDistances(rejected, "rejected_distance", size: size, times)
  try checkDistances(chosenReference, "chosen_reference_distance", size: size, times)
  try checkDistances(rejectedReference, "rejected_reference_distance", size: size, times)
  try checkPositive(options.beta, "beta")
  var stats = ForwardStats()
  for i in 0..<size {
    let worse = (chosen[i] - chosenReference[i]) - (rejected[i] - rejectedReference[i])
    let margin = -0.5 * options.beta * worse
    let slope = sigmoid(-margin) * 0.5 * options.beta / Double(size)
    stats.policyLoss += softplus(-margin) / Double(size)
    stats.rewardMean += min(max(margin, -.greatestFiniteMagnitude), .greatestFiniteMagnitude) / Double(size)
    stats.accuracy += margin > 0 ? 1 / Double(size) : 0
    output.first?[i] = slope
    output.second?[i] = -slope
  }
  try checkLoss(stats.policyLoss)
  return (stats.policyLoss, stats)
}

/// The pair of the highest and the lowest score of each group (Flow-Factory dpo.py `_form_pairs_from_advantages`); of equal
/// scores the first counts. A group whose scores are all equal has none.
///
/// - Parameters:
///   - groupSize, groupIDs: consecutive groups, or ids, in whose order the pairs come; without either, one group.
public func preferencePairs(
  _ scores: [Double], groupSize: Int? = nil, groupIDs: [Int]? = nil
) throws -> [(chosen: Int, rejected: Int)] {
  var pairs: [(chosen: Int, rejected: Int)] = []
  try preferencePairs(Numbers(scores), groupSize: groupSize, groupIDs: groupIDs.map { Numbers($0) }) {
    pairs.append(($0, $1))
  }
  return pairs
}

package func preferencePairs(
  _ scores: Numbers<Double>, groupSize: Int?, groupIDs: Numbers<Int>?, pair: (_ chosen: Int, _ rejected: Int) -> Void
) throws {
  if let i = scores.firstIndex(where: { !$0.isFinite }) {
    throw ChunkGRPOError.nonFinite("scores[\(i)] = \(scores[i]) is not finite")
  }
  let groups = try Groups(count: scores.count, size: groupSize, ids: groupIDs, of: "scores")
  groups.forEach { group in
    var (best, worst) = (groups.sample(group.lowerBound), groups.sample(group.lowerBound))
    for place in group {
      let sample = groups.sample(place)
      if scores[sample] > scores[best] { best = sample }
      if scores[sample] < scores[worst] { worst = sample }
    }
    if scores[best] > scores[worst] { pair(best, worst) }
  }
}
