/// Group-relative advantages: (r − mean_g) / (std_g + ε) with the unbiased standard deviation, then clamped
/// (GCPO, DanceGRPO, MixGRPO).
///
/// **Edge cases**: a group of one, or whose rewards are all equal, gives zeros.
///
/// - Parameters:
///   - rewards: one per sample; the samples of a group are neighbours.
///   - groupSize: must divide the number of rewards; nil = all are one group.
///   - clamp: > 0, `.infinity` for none.
public func advantages(
  _ rewards: [Double], groupSize: Int? = nil, clamp: Double = AdvantageOptions().clamp,
  epsilon: Double = AdvantageOptions().epsilon
) throws -> [Double] {
  try advantages(rewards, AdvantageOptions { ($0.groupSize, $0.clamp, $0.epsilon) = (groupSize, clamp, epsilon) })
}

/// Advantages (n) of rewards (n, R), row-major: R = the number of `rewardWeights`, or
/// `rewardCount`.
///
/// **Edge cases**: a group of one, or whose rewards are all equal, gives zeros, where GCPO has NaN and verl the raw reward.
public func advantages(_ rewards: [Double], _ options: AdvantageOptions) throws -> [Double] {
  var result = [Double](repeating: 0, count: rewards.count / max(1, options.kinds))
  try rewards.withUnsafeBufferPointer { rewards in
    try result.withUnsafeMutableBufferPointer { result in
      try advantages(Numbers(borrowing: rewards), options, into: result.baseAddress)
    }
  }
  return result
}

/// The same, written after everything is read.
package func advantages(
  _ rewards: Numbers<Double>, _ options: AdvantageOptions, into result: UnsafeMutablePointer<Double>?
) throws {
  try options.check()
  let count = try check(rewards, options)
  let normalisation = try Normalisation(count: count, options)
  let total = try Buffer<Double>(count: count, for: "advantages")
  let column = try Buffer<Double>(count: count, for: "advantages")
  let kinds = options.kinds
  if options.mixing == .sum {
    for i in 0..<count {
      for j in 0..<kinds where options.isPresent(i, j) {
        column[i] += options.weight(j) * rewards[i * kinds + j]
      }
    }
    try checkFinite(column, "the weighted sum of the rewards")
    try normalisation.run(column, options) { total[$0] = $1 }
  } else {
    for j in 0..<kinds {
      for i in 0..<count { column[i] = options.isPresent(i, j) ? rewards[i * kinds + j] : 0 }
      try normalisation.run(column, options, isPresent: { options.isPresent($0, j) }) {
        total[$0] += options.weight(j) * $1
      }
    }
  }
  if options.mixing == .gdpo {
    column.copy(from: total)
    var whole = options
    (whole.baseline, whole.scale, whole.trim, whole.subtractsMedian) = (.batch, .batch, 0, false)
    (whole.groupIDs, whole.groupSize) = (nil, nil)
    total.fillWithZeros()
    try Normalisation(count: count, whole).run(column, whole) { total[$0] = $1 }
  }
  try checkFinite(total, "the advantage")
  for i in 0..<count { result?[i] = max(-options.clamp, min(options.clamp, total[i])) }
}

private func checkFinite(_ values: Buffer<Double>, _ what: String) throws {
  if let i = values.values.firstIndex(where: { !$0.isFinite }) { throw tooFarApart(what, sample: i, values[i]) }
}

func tooFarApart(_ what: String, sample: Int, _ value: Double) -> ChunkGRPOError {
  .nonFinite("\(what) of sample \(sample) is \(value): rewards are too far apart")
}

// MARK: - Parts

/// The number of samples.
private func check(_ rewards: Numbers<Double>, _ o: AdvantageOptions) throws -> Int {
  let kinds = o.kinds
  try require(kinds >= 1 && !rewards.isEmpty, "rewards: there are none")
  try require(
    rewards.count % kinds == 0, "rewards: \(rewards.count) numbers are no rows of \(kinds), one for each reward weight")
  let count = rewards.count / kinds
  if let present = o.present {
    try require(
      present.count == rewards.count, "present: \(present.count) entries for \(rewards.count) rewards")
    for i in 0..<count where !(0..<kinds).contains(where: { o.isPresent(i, $0) }) {
      throw ChunkGRPOError.invalidArgument("present: no reward of sample \(i) is")
    }
  }
  if let i = (0..<rewards.count).first(where: { !rewards[$0].isFinite && o.present?[$0] ?? true }) {
    throw ChunkGRPOError.nonFinite("rewards[\(i)] = \(rewards[i]) is not finite")
  }
  return count
}

/// Normalises one number per sample within groups: memory for any of them, and the order of the samples.
private struct Normalisation {
  private let count: Int
  private let groups: Groups
  /// Of the members of a group that are present: their samples and values, and room to sort these.
  private let samples: Buffer<Int>
  private let values: Buffer<Double>
  private let scratch: (Buffer<Double>, Buffer<Double>)?

  init(count: Int, _ o: AdvantageOptions) throws {
    self.count = count
    groups = try Groups(count: count, o)
    samples = try Buffer(count: count, for: "groups")
    values = try Buffer(count: count, for: "groups")
    scratch =
      o.trim == 0 && !o.subtractsMedian
      ? nil : (try Buffer(count: count, for: "sorted rewards"), try Buffer(count: count, for: "sorted rewards"))
  }

  /// `write` gets a sample and its number; those of a group whose rewards say nothing, and that are absent, are left out.
  func run(
    _ rewards: Buffer<Double>, _ o: AdvantageOptions, isPresent: (Int) -> Bool = { _ in true },
    write: (Int, Double) -> Void
  ) throws {
    let all = gather(0..<count, rewards, isPresent)
    if all == 0 { return }
    let batch = try statistics(all, o)
    if o.baseline == .batch && areEqual(all) { return }
    try groups.forEach { places in
      let members = gather(places, rewards, isPresent)
      // Equal rewards say nothing; rounding of their mean would. Against the batch they do.
      if members == 0 || o.baseline != .batch && areEqual(members) { return }
      let own = try members > 1 ? statistics(members, o) : Statistics(mean: values[0], deviation: 0)
      try normalise(members, own, batch, o)
      for m in 0..<members { write(samples[m], values[m]) }
    }
  }

  /// How many of these places are present.
  private func gather(_ places: Range<Int>, _ rewards: Buffer<Double>, _ isPresent: (Int) -> Bool) -> Int {
    var members = 0
    for place in places {
      let sample = groups.sample(place)
      guard isPresent(sample) else { continue }
      (samples[members], values[members]) = (sample, rewards[sample])
      members += 1
    }
    return members
  }

  private func areEqual(_ members: Int) -> Bool { (0..<members).allSatisfy { values[$0] == values[0] } }

  /// In place.
  private func normalise(_ members: Int, _ own: Statistics, _ batch: Statistics, _ o: AdvantageOptions) throws {
    let scale =
      switch o.scale {
      case .group: max(own.deviation, o.floor) + o.epsilon
      case .batch: max(batch.deviation, o.floor) + o.epsilon
      case .none: 1.0
      }
    guard scale.isFinite && scale > 0 else {
      throw ChunkGRPOError.nonFinite(
        "rewards are too far apart, or too close, to be divided by their standard deviation \(scale)")
    }
    let n = Double(members)
    for m in 0..<members {
      let reward = values[m]
      values[m] =
        switch o.baseline {
        case .group: (reward - own.mean) / scale
        case .leaveOneOut: (reward - own.mean) * n / (n - 1) / scale
        case .batch: (reward - batch.mean) / scale
        }
    }
    if o.subtractsMedian, let sorted = sortedValues(members) {
      let middle = members / 2
      let median = members % 2 == 1 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2
      for m in 0..<members { values[m] -= median }
    }
  }

  private func sortedValues(_ members: Int) -> UnsafeMutablePointer<Double>? {
    guard let (result, room) = scratch else { return nil }
    result.base.update(from: values.base, count: members)
    sort(result.base, count: members, scratch: room.base, by: <)
    return result.base
  }

  private func statistics(_ members: Int, _ o: AdvantageOptions) throws -> Statistics {
    let dropped = Int(Double(members) * o.trim)
    let kept = members - dropped
    try require(
      kept >= 2 || members < 2, "trim = \(o.trim) leaves \(kept) of \(members) rewards; a deviation needs two")
    let first = (dropped == 0 ? nil : sortedValues(members)) ?? values.base
    return Statistics(UnsafeBufferPointer(start: first + dropped, count: kept), o.deviation)
  }
}

private struct Statistics {
  let mean, deviation: Double

  init(mean: Double, deviation: Double) { (self.mean, self.deviation) = (mean, deviation) }

  init(_ values: UnsafeBufferPointer<Double>, _ form: AdvantageOptions.Deviation) {
    let mean = values.reduce(0, +) / Double(values.count)
    let count = form == .unbiased ? values.count - 1 : values.count
    self.mean = mean
    deviation =
      values.count < 2 ? 0 : (values.reduce(0) { $0 + ($1 - mean) * ($1 - mean) } / Double(count)).squareRoot()
  }
}
