/// Groups whose rewards are all equal, so that no advantage comes of them (DAPO, arXiv 2503.14476, samples others instead).
public struct ZeroStdGroups: Sendable, Equatable {
  /// Whether a sample's group says something.
  public let mask: [Bool]
  /// How many groups there are, and how many say nothing.
  public let groups, zeroStd: Int
}

/// A group of one says nothing. `options` says which samples are a group; the rest of it is not read.
public func zeroStdGroups(_ rewards: [Double], _ options: AdvantageOptions) throws -> ZeroStdGroups {
  var mask = [UInt8](repeating: 0, count: rewards.count)
  let found = try zeroStdGroups(Numbers(rewards), options, mask: &mask)
  return ZeroStdGroups(mask: mask.map { $0 != 0 }, groups: found.groups, zeroStd: found.zeroStd)
}

package func zeroStdGroups(
  _ rewards: Numbers<Double>, _ options: AdvantageOptions, mask: UnsafeMutablePointer<UInt8>?
) throws -> (groups: Int, zeroStd: Int) {
  let groups = try checkedGroups(rewards, options)
  var (count, equal) = (0, 0)
  groups.forEach { places in
    let first = rewards[groups.sample(places.lowerBound)]
    let isEqual = places.allSatisfy { rewards[groups.sample($0)] == first }
    for place in places { mask?[groups.sample(place)] = isEqual ? 0 : 1 }
    count += 1
    equal += isEqual ? 1 : 0
  }
  return (count, equal)
}

/// The share of the others of its group that each sample beats, ties counting one half (Pref-GRPO, arXiv 2508.20751, whose
/// judge compares pairs): in [0, 1]. A group of one gives 0.
public func winRates(_ rewards: [Double], _ options: AdvantageOptions) throws -> [Double] {
  var rates = [Double](repeating: 0, count: rewards.count)
  try winRates(Numbers(rewards), options, into: &rates)
  return rates
}

package func winRates(
  _ rewards: Numbers<Double>, _ options: AdvantageOptions, into rates: UnsafeMutablePointer<Double>
) throws {
  let groups = try checkedGroups(rewards, options)
  let values = try Buffer<Placed<Double>>(count: rewards.count, for: "win rates")
  let scratch = try Buffer<Placed<Double>>(count: rewards.count, for: "win rates")
  groups.forEach { places in
    for (i, place) in places.enumerated() {
      let sample = groups.sample(place)
      values[i] = Placed(key: rewards[sample], index: sample)
    }
    sort(values.base, count: places.count, scratch: scratch.base) { $0.key < $1.key }
    var start = 0
    while start < places.count {
      var end = start + 1
      while end < places.count && values[end].key == values[start].key { end += 1 }
      let wins = Double(start) + 0.5 * Double(end - start - 1)
      for i in start..<end { rates[values[i].index] = places.count > 1 ? wins / Double(places.count - 1) : 0 }
      start = end
    }
  }
}

private func checkedGroups(_ rewards: Numbers<Double>, _ options: AdvantageOptions) throws -> Groups {
  try options.check()
  try checkOneReward(options)
  try require(!rewards.isEmpty, "rewards: there are none")
  if let i = rewards.firstIndex(where: { !$0.isFinite }) {
    throw ChunkGRPOError.nonFinite("rewards[\(i)] = \(rewards[i]) is not finite")
  }
  return try Groups(count: rewards.count, options)
}
