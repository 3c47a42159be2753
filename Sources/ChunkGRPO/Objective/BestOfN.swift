/// The best and the worst of n scores: which `keep` of them to train on, ⌈keep/2⌉ of the highest and ⌊keep/2⌋ of the lowest
/// (DanceGRPO's best-of-n, over the whole batch). Whether each is chosen; of equal scores the earlier count as lower.
public func bestOfN(_ scores: [Double], keep: Int) throws -> [Bool] {
  var chosen = [UInt8](repeating: 0, count: scores.count)
  try scores.withUnsafeBufferPointer { scores in
    try chosen.withUnsafeMutableBufferPointer { chosen in
      try bestOfN(Numbers(borrowing: scores), keep: keep, chosen: chosen.baseAddress)
    }
  }
  return chosen.map { $0 != 0 }
}

/// 1 or 0 for each score.
package func bestOfN(_ scores: Numbers<Double>, keep: Int, chosen: UnsafeMutablePointer<UInt8>?) throws {
  try require((1...max(1, scores.count)).contains(keep), "keep = \(keep) is outside 1 … \(scores.count)")
  if let i = scores.firstIndex(where: { !$0.isFinite }) {
    throw ChunkGRPOError.nonFinite("scores[\(i)] = \(scores[i]) is not finite")
  }
  guard let chosen else { return }
  let count = scores.count
  let order = try sorted(count: count, for: "the order of the scores") { scores[$0] }
  let (lowest, highest) = (0..<keep / 2, count - (keep + 1) / 2..<count)
  for place in 0..<count {
    chosen[order[place].index] = lowest.contains(place) || highest.contains(place) ? 1 : 0
  }
}
