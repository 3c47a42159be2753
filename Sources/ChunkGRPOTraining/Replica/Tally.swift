import ChunkGRPO

/// Numbers of an iteration that are sums over the ranks.
struct Tally {
  /// Rewards in the order of the samples of all ranks; then for each optimiser step the chunks that it trains, and their
  /// steps.
  let values: Buffer<Double>
  private let samples, updates: Int

  /// This rank's part.
  init(_ experience: Experience, rewards: Numbers<Double>, updates: Int) throws {
    samples = try checkedProduct([experience.deal.count, experience.groupSize], "samples")
    self.updates = updates
    values = try Buffer(count: samples + 2 * updates, for: "the rewards of \(samples) images")
    for i in 0..<rewards.count { values[experience.number(i)] = rewards[i] }
    for update in 0..<updates {
      let own = experience.samples(ofUpdate: update, of: updates)
      values[samples + update] = Double(experience.selectedChunks(own))
      values[samples + updates + update] = Double(experience.selectedSteps(own))
    }
  }

  func chunks(ofUpdate number: Int) throws -> Int { try count(samples + number) }
  func rows(ofUpdate number: Int) throws -> Int { try count(samples + updates + number) }

  /// - Throws: where the host's sum is none of counts.
  private func count(_ number: Int) throws -> Int {
    guard let count = Int(exactly: values[number]), count >= 0 else {
      throw ChunkGRPOError.invalidArgument(
        "all_reduce makes \(values[number]) of numbers of chunks: it must sum the values of all ranks, by their type")
    }
    return count
  }

  var rewardMean: Double { rewards.reduce(0, +) / Double(samples) }

  func rewardStd(_ mean: Double) -> Double {
    (rewards.reduce(0) { $0 + ($1 - mean) * ($1 - mean) } / Double(samples)).squareRoot()
  }

  private var rewards: Numbers<Double> { Numbers(values, count: samples) }
}
