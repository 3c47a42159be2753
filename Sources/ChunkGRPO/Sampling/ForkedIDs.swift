/// Sample ids (B × branches) of trajectories that fork before a step: branch j of sample i has number i·branches + j. Its
/// noise from that step on is its own.
///
/// **Collisions**: for one step and one branch, different ids stay different. Any two others of n ids meet with probability
/// n²/2⁶⁵: 3·10⁻⁸ for a million.
public func forkedIDs(_ sampleIDs: [UInt64], step: Int, branches: Int) throws -> [UInt64] {
  try checkFork(step: step, branches: branches)
  return sampleIDs.flatMap { id in (0..<branches).map { forkedID(id, step: step, branch: $0) } }
}

/// Of `batch` samples; without ids theirs are 0, 1, ….
package func forkedIDs(
  _ sampleIDs: UnsafePointer<UInt64>?, batch: Int, step: Int, branches: Int, into ids: UnsafeMutablePointer<UInt64>
) {
  for i in 0..<batch {
    for j in 0..<branches {
      ids[i * branches + j] = forkedID(sampleIDs.map { $0[i] } ?? UInt64(i), step: step, branch: j)
    }
  }
}

package func checkFork(step: Int, branches: Int) throws {
  try require((0..<Int(Int32.max)).contains(step), "step = \(step) is outside 0 … \(Int32.max - 1)")
  try require((1...1 << 20).contains(branches), "branches = \(branches) is outside 1 … \(1 << 20)")
}

package func forkedID(_ id: UInt64, step: Int, branch: Int) -> UInt64 {
  mixed(id ^ mixed(UInt64(step) << 32 | UInt64(branch + 1)))
}

/// SplitMix64's output function (Steele, Lea, Flood 2014): one to one.
private func mixed(_ value: UInt64) -> UInt64 {
  var z = value &+ 0x9e37_79b9_7f4a_7c15
  z = (z ^ z >> 30) &* 0xbf58_476d_1ce4_e5b9
  z = (z ^ z >> 27) &* 0x94d0_49bb_1331_11eb
  return z ^ z >> 31
}
