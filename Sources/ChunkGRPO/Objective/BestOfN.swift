/// The best and the worst of n scores: which `keep` of them to train on, ⌈keep/2⌉ of the highest and ⌊keep/2⌋ of the lowest
/// (DanceGRPO's best-of-n, over the whole batch). Whether each is chosen; of equal scores the earlier count as lower.
public func bestOfN(_ scores: [Double], keep: Int) throws -> [Bool] {
  try require((1...max(1, scores.count)).contains(keep), "keep = \(keep) is outside 1 … \(scores.count)")
  if let i = scores.firstIndex(where: { !$0.isFinite }) {
    throw ChunkGRPOError.nonFinite("scores[\(i)] = \(scores[i]) is not finite")
  }
  let order = scores.indices.sorted { (scores[$0], $0) < (scores[$1], $1) }
  var chosen = [Bool](repeating: false, count: scores.count)
  for i in order.suffix((keep + 1) / 2) + order.prefix(keep / 2) { chosen[i] = true }
  return chosen
}
