/// Group-relative advantages: (r − mean_g) / (std_g + ε) with the unbiased standard deviation, then clamped
/// (GCPO, DanceGRPO, MixGRPO).
///
/// **Edge cases**: a group of one, or whose rewards are all equal, gives zeros.
///
/// - Parameters:
///   - rewards: one a sample; the samples of a group are neighbours.
///   - groupSize: must divide the number of rewards; nil = all are one group.
///   - clamp: > 0, `.infinity` for none.
public func advantages(
  _ rewards: [Double], groupSize: Int? = nil, clamp: Double = 5, epsilon: Double = 1e-8
) throws -> [Double] {
  try require(!rewards.isEmpty, "rewards: there are none")
  let groupSize = groupSize ?? rewards.count
  try require(
    groupSize >= 1 && rewards.count % groupSize == 0,
    "group_size = \(groupSize) does not divide the \(rewards.count) rewards")
  try require(clamp > 0, "clamp = \(clamp) must be positive")
  try require(epsilon >= 0 && epsilon.isFinite, "epsilon = \(epsilon) must be at least 0 and finite")
  if let i = rewards.firstIndex(where: { !$0.isFinite }) {
    throw ChunkGRPOError.nonFinite("rewards[\(i)] = \(rewards[i]) is not finite")
  }
  var result: [Double] = []
  result.reserveCapacity(rewards.count)
  for start in stride(from: 0, to: rewards.count, by: groupSize) {
    let group = rewards[start..<start + groupSize]
    let first = rewards[start]
    if group.allSatisfy({ $0 == first }) {
      result.append(contentsOf: repeatElement(0, count: groupSize))
      continue
    }
    let mean = group.reduce(0, +) / Double(groupSize)
    let variance = group.reduce(0) { $0 + ($1 - mean) * ($1 - mean) } / Double(groupSize - 1)
    let scale = variance.squareRoot() + epsilon
    guard scale.isFinite && scale > 0 else {
      throw ChunkGRPOError.nonFinite("rewards of group \(start / groupSize) are too far apart, or too close: their standard deviation is \(scale)")
    }
    result.append(contentsOf: group.map { max(-clamp, min(clamp, ($0 - mean) / scale)) })
  }
  return result
}
