import ChunkGRPO
internal import Platform

extension ChunkGRPOTrainer {
  /// Rewards of the B images (B, D): one finite number each. `prompts[i]` is the row of `conditions` that image i was
  /// made for. An error stops the iteration and is thrown on.
  public typealias Reward = (_ images: [Float], _ prompts: [Int]) throws -> [Double]

  /// The same on borrowed memory: writes B numbers into `rewards`.
  package typealias BorrowedReward = (
    _ images: UnsafeBufferPointer<Float>, _ prompts: UnsafeBufferPointer<Int64>,
    _ rewards: UnsafeMutableBufferPointer<Double>
  ) throws -> Void

  /// One Chunk-GRPO iteration: `groupSize` samples for each row of conditions (P, C), rewards, advantages, optimiser
  /// steps.
  ///
  /// The log-probabilities of the first optimiser step are those of the rollout, up to the rounding of OpenBLAS where
  /// it computes them anew: its products may differ in the last bits between batch sizes. Ratios are within 1e-6 of 1,
  /// far within any clip range.
  public func iterate(conditions: [Float], reward: Reward) throws -> IterationReport {
    try conditions.withUnsafeBufferPointer {
      try iterate(conditions: { [conditions = $0] in conditions }) { images, prompts, rewards in
        let values = try reward(Array(images), prompts.map(Int.init))
        try require(
          values.count == prompts.count, "the reward gave \(values.count) numbers for \(prompts.count) images")
        _ = rewards.update(fromContentsOf: values)
      }
    }
  }

  /// - Parameter conditions: those of this rank. Where it throws, all ranks hear of it.
  package func iterate(
    conditions: () throws -> UnsafeBufferPointer<Float>, reward: BorrowedReward
  ) throws -> IterationReport {
    try exclusively {
      var report = IterationReport()
      report.iteration = iterations + 1
      let prompts = try begin(conditions)
      let start = seconds()
      var (rolledOut, rewarded) = (start, start)
      let (experience, tally, updates) = try together(.rollout) { _ in
        let experience = try rollOut(prompts, try deal(prompts.index.count))
        rolledOut = seconds()
        let rewards = try evaluate(experience, reward)
        rewarded = seconds()
        try advantages(
          rewards, AdvantageOptions { ($0.groupSize, $0.clamp) = (options.groupSize, options.advantageClamp) },
          into: experience.advantages.base)
        if options.weightedSelection { try select(experience, weights: weights(experience)) }
        let updates = updateCount(experience.deal)
        return (experience, try Tally(experience, rewards: rewards, updates: updates), updates)
      }
      try replica?.sum(tally.values.values)
      report.rewardMean = tally.rewardMean
      report.rewardStd = tally.rewardStd(report.rewardMean)

      draft.counters = state.counters
      for number in 0..<updates {
        let update = try update(experience, tally, number, of: updates)
        report.loss += update.loss / Double(updates)
        report.gradNorm += update.gradNorm / Double(updates)
        report.referenceDivergence += update.referenceDivergence / Double(updates)
        report.lastStepDivergence += update.lastStepDivergence / Double(updates)
        report.stats = update.stats
      }
      try commitTogether {
        draft.counters.iterations += 1
        draft.counters.samplesDrawn &+= UInt64(experience.deal.count &* options.groupSize)
        try report.requireFinite()
      }
      report.rolloutSeconds = rolledOut - start
      report.rewardSeconds = rewarded - rolledOut
      report.updateSeconds = seconds() - rewarded
      return report
    }
  }

  /// Takes in the prompts of this rank, and tells the others how many there are.
  private func begin(_ conditions: () throws -> UnsafeBufferPointer<Float>) throws -> Prompts {
    let prompts = try together(.iterate) { ballot in
      let conditions = try conditions()
      let count = try rows("conditions", conditions, of: plan.shape.conditionSize)
      try requireBatch(count)
      ballot.set(0, Double(count))
      ballot.set(1, Double(iterations))
      return try Prompts(conditions, size: plan.shape.conditionSize)
    }
    try replica?.requireSame(1..<2, "iterations behind it", "load one checkpoint on all ranks")
    return prompts
  }

  private func requireBatch(_ prompts: Int) throws {
    let batch = try checkedProduct([prompts, options.groupSize], "prompts × group_size")
    try require(batch <= 1 << 31, "\(prompts) prompts × group_size \(options.groupSize) is more than 2^31 samples")
  }

  /// Of `count` prompts of this rank, and those of which the others have told.
  private func deal(_ count: Int) throws -> Deal {
    guard let replica else { return Deal(alone: count) }
    let deal = try Deal(rank: replica.rank, of: replica.ranks) { Int(replica.number(0, of: $0)) }
    try requireBatch(deal.count)
    return deal
  }

  /// Optimiser steps of an iteration: at most one per prompt.
  private func updateCount(_ deal: Deal) -> Int { min(options.updatesPerRollout, deal.count) }

  /// Draws the chunks to train.
  private func select(_ experience: Experience, weights: Numbers<Double>?) throws {
    let ids = try Buffer<UInt64>(count: experience.batch, for: "the ids of \(experience.batch) samples")
    for i in 0..<ids.count { ids[i] = state.counters.samplesDrawn &+ UInt64(experience.number(i)) }
    try selectChunks(
      batch: experience.batch, count: plan.chunks.count,
      ChunkSelectionOptions {
        ($0.fraction, $0.weights, $0.sampleIDs) = (options.chunkFraction, weights, Numbers(ids))
        $0.seed = RandomStream.rollout.seed(options.seed)
      }, into: experience.selection.base)
  }

  private func weights(_ experience: Experience) throws -> Numbers<Double> {
    let weights = try Buffer<Double>(
      count: experience.selection.count, for: "the weights of the chunks of \(experience.batch) samples")
    try plan.chunks.weights(relativeL1: Numbers(experience.relativeL1), into: weights.base)
    return Numbers(weights)
  }

  // MARK: Rollout

  private func rollOut(_ prompts: Prompts, _ deal: Deal) throws -> Experience {
    let batch = prompts.index.count &* options.groupSize
    var experience = try Experience(
      prompts, deal, plan, groupSize: options.groupSize, batch: batch,
      holdsLastStep: options.referenceLastStep > 0, parameters: workspace.parameters(state))
    // The first optimiser step has the parameters of the rollout: recorded, it needs no forward pass of its own.
    let first = experience.samples(ofUpdate: 0, of: updateCount(deal))
    if !options.weightedSelection {
      try select(experience, weights: nil)
      experience.isRecorded = try canRecord(experience, first)
    }
    let samples = RolloutSamples(
      perPrompt: options.groupSize, perInitialNoise: options.shareNoise ? options.groupSize : 1,
      deal: deal, firstID: state.counters.samplesDrawn, latents: experience.latents.base,
      stepStride: batch &* plan.shape.latentSize, logProbs: experience.logProbs.base,
      relativeL1: experience.relativeL1.base)
    if experience.isRecorded {
      if first.upperBound < batch { try roll(first.upperBound..<batch, samples, experience, recording: false) }
      try roll(first, samples, experience, recording: true)
    } else {
      try roll(0..<batch, samples, experience, recording: false)
    }
    return experience
  }

  private func roll(_ range: Range<Int>, _ samples: RolloutSamples, _ experience: Experience, recording: Bool) throws {
    let lanes = try workspace.lanes(for: range.count)
    var roller = Roller(
      networks: lanes.map(\.network), parameters: experience.parameters, sampler: plan.sampler,
      prompts: experience.prompts, seed: RandomStream.rollout.seed(options.seed), samples: samples)
    if recording {
      let chunks = plan.chunks
      roller.recording = Recording(
        isSelected: {
          $1 < chunks.steps
            ? experience.isSelected($0, chunk: chunks.chunk(ofStep: $1)) : experience.holdsLastStep
        }, velocities: lanes.map(\.velocity))
    }
    try roller.run(range)
  }

  /// Whether each lane has room for all rows that it trains, beside one step of all of its samples.
  private func canRecord(_ experience: Experience, _ samples: Range<Int>) throws -> Bool {
    if samples.isEmpty { return false }
    let count = laneCount(samples.count, plan.shape)
    return try (0..<count).allSatisfy {
      let own = samples.slice($0, of: count)
      let prompts = try Numbering(count: own.count, for: "the prompts of \(own.count) samples") {
        experience.prompt(own.lowerBound + $0)
      }.firsts.count
      return experience.selectedSteps(own) + own.count <= workspace.maxRows
        && prompts * plan.sampler.steps <= workspace.maxRows
    }
  }

  private func evaluate(_ experience: Experience, _ reward: BorrowedReward) throws -> Numbers<Double> {
    let size = experience.batch * plan.shape.latentSize
    let images = UnsafeBufferPointer(start: experience.latents.base + plan.sampler.steps * size, count: size)
    let prompts = try Buffer<Int64>(count: experience.batch, for: "the prompts of \(experience.batch) images")
    let rewards = try Buffer<Double>(count: experience.batch, for: "the rewards of \(experience.batch) images")
    for i in 0..<experience.batch { (prompts.base[i], rewards.base[i]) = (Int64(i / options.groupSize), .nan) }
    try reward(images, UnsafeBufferPointer(prompts.values), rewards.values)
    withExtendedLifetime((prompts, rewards)) {}
    let given = Numbers(rewards)
    if let i = given.firstIndex(where: { !$0.isFinite }) {
      throw ChunkGRPOError.nonFinite("the reward of image \(i), of prompt \(i / options.groupSize), is \(given[i])")
    }
    return given
  }
}

/// Of a clock that only goes forward.
private func seconds() -> Double {
  var time = timespec()
  clock_gettime(CLOCK_MONOTONIC, &time)
  return Double(time.tv_sec) + 1e-9 * Double(time.tv_nsec)
}
