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
      try iterate(conditions: $0) { images, prompts, rewards in
        let values = try reward(Array(images), prompts.map(Int.init))
        try require(
          values.count == prompts.count, "the reward gave \(values.count) numbers for \(prompts.count) images")
        _ = rewards.update(fromContentsOf: values)
      }
    }
  }

  package func iterate(conditions: UnsafeBufferPointer<Float>, reward: BorrowedReward) throws -> IterationReport {
    let promptCount = try rows("conditions", conditions, of: plan.shape.conditionSize)
    let batch = try checkedProduct([promptCount, options.groupSize], "prompts × group_size")
    try require(batch <= 1 << 31, "\(promptCount) prompts × group_size \(options.groupSize) is more than 2^31 samples")
    return try exclusively {
      var report = IterationReport()
      report.iteration = iterations + 1

      let start = seconds()
      let experience = try rollOut(Prompts(conditions, size: plan.shape.conditionSize), batch: batch)
      let rolledOut = seconds()
      let rewards = try evaluate(experience, reward)
      let rewarded = seconds()
      report.rewardMean = rewards.reduce(0, +) / Double(batch)
      report.rewardStd =
        (rewards.reduce(0) { $0 + ($1 - report.rewardMean) * ($1 - report.rewardMean) } / Double(batch)).squareRoot()

      try advantages(
        rewards, AdvantageOptions { ($0.groupSize, $0.clamp) = (options.groupSize, options.advantageClamp) },
        into: experience.advantages.base)
      if options.weightedSelection { try select(experience, weights: weights(experience)) }

      draft.counters = state.counters
      let updates = updateCount(batch)
      for number in 0..<updates {
        let update = try update(experience, samples(ofUpdate: number, batch), first: number == 0)
        report.loss += update.loss / Double(updates)
        report.gradNorm += update.gradNorm / Double(updates)
        report.referenceDivergence += update.referenceDivergence / Double(updates)
        report.stats = update.stats
      }
      draft.counters.iterations += 1
      draft.counters.samplesDrawn &+= UInt64(batch)
      try report.requireFinite()
      try commit()
      report.rolloutSeconds = rolledOut - start
      report.rewardSeconds = rewarded - rolledOut
      report.updateSeconds = seconds() - rewarded
      return report
    }
  }

  /// Optimiser steps of an iteration: at most one per prompt.
  private func updateCount(_ batch: Int) -> Int { min(options.updatesPerRollout, batch / options.groupSize) }

  /// The samples of one optimiser step: whole groups.
  private func samples(ofUpdate number: Int, _ batch: Int) -> Range<Int> {
    let prompts = (0..<batch / options.groupSize).slice(number, of: updateCount(batch))
    return prompts.lowerBound * options.groupSize..<prompts.upperBound * options.groupSize
  }

  /// Draws the chunks to train.
  private func select(_ experience: Experience, weights: Numbers<Double>?) throws {
    let ids = try Buffer<UInt64>(count: experience.batch, for: "the ids of \(experience.batch) samples")
    for i in 0..<ids.count { ids[i] = state.counters.samplesDrawn &+ UInt64(i) }
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

  private func rollOut(_ prompts: Prompts, batch: Int) throws -> Experience {
    var experience = try Experience(
      prompts, plan, groupSize: options.groupSize, batch: batch, parameters: workspace.parameters(state))
    // The first optimiser step has the parameters of the rollout: recorded, it needs no forward pass of its own.
    let first = samples(ofUpdate: 0, batch)
    if !options.weightedSelection {
      try select(experience, weights: nil)
      experience.isRecorded = try canRecord(experience, first)
    }
    let samples = RolloutSamples(
      perPrompt: options.groupSize, perInitialNoise: options.shareNoise ? options.groupSize : 1,
      firstID: state.counters.samplesDrawn, latents: experience.latents.base,
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
        isSelected: { experience.isSelected($0, chunk: chunks.chunk(ofStep: $1)) }, velocities: lanes.map(\.velocity))
    }
    try roller.run(range)
  }

  /// Whether each lane has room for all rows that it trains, beside one step of all of its samples.
  private func canRecord(_ experience: Experience, _ samples: Range<Int>) throws -> Bool {
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
