import ChunkGRPO
import Glibc

/// What one Chunk-GRPO iteration did.
public struct IterationReport: Sendable {
  /// Counted from 1.
  public var iteration = 0
  public var rewardMean = 0.0, rewardStd = 0.0
  /// Means over the optimiser steps; the norm is that before clipping.
  public var loss = 0.0, gradNorm = 0.0
  /// Of the last optimiser step.
  public var stats = ChunkStats()
  public var rolloutSeconds = 0.0, rewardSeconds = 0.0, updateSeconds = 0.0
}

/// The samples of one iteration.
private struct Experience {
  let prompts: Prompts
  let groupSize: Int
  let batch: Int
  /// (T + 1, B, D)
  let latents: Buffer<Float>
  /// (B, S)
  var logProbs, relativeL1: [Double]
  /// (B)
  var advantages: [Double] = []
  /// (B, K)
  var selection: [UInt8] = []

  /// Row of `prompts.distinct` that sample i was made for.
  func prompt(_ sample: Int) -> Int { prompts.index[sample / groupSize] }
}

extension ChunkGRPOTrainer {
  /// The reward: one finite number for each of the B images (B, D) into `rewards`; `prompts[i]` is the row of `conditions`
  /// that image i was made for. What it throws is thrown on.
  public typealias Reward = (
    _ images: UnsafeBufferPointer<Float>, _ prompts: UnsafeBufferPointer<Int64>,
    _ rewards: UnsafeMutableBufferPointer<Double>
  ) throws -> Void

  /// One Chunk-GRPO iteration: `groupSize` samples for each row of conditions (P, C), rewards, advantages, optimiser steps.
  ///
  /// The log-probabilities of the first optimiser step are those of the rollout up to the rounding of OpenBLAS, whose
  /// products may differ in the last bits between batch sizes: ratios within 1e-6 of 1, far within any clip range.
  public func iterate(conditions: UnsafeBufferPointer<Float>, reward: Reward) throws -> IterationReport {
    let promptCount = try rows("conditions", conditions, of: plan.shape.conditionSize)
    let batch = try checkedProduct([promptCount, options.groupSize], "prompts × group_size")
    try require(batch <= 1 << 31, "\(promptCount) prompts × group_size \(options.groupSize) is more than 2^31 samples")
    return try exclusively {
      var report = IterationReport()
      report.iteration = state.iterations + 1

      var clock = Stopwatch()
      var experience = try rollOut(Prompts(conditions, size: plan.shape.conditionSize), batch: batch)
      report.rolloutSeconds = clock.lap()

      let rewards = try evaluate(experience, promptCount: promptCount, reward)
      report.rewardSeconds = clock.lap()
      report.rewardMean = rewards.reduce(0, +) / Double(batch)
      report.rewardStd =
        (rewards.reduce(0) { $0 + ($1 - report.rewardMean) * ($1 - report.rewardMean) } / Double(batch)).squareRoot()

      experience.advantages = try advantages(
        rewards, groupSize: options.groupSize, clamp: options.advantageClamp)
      experience.selection = try plan.chunks.select(
        batch: batch, fraction: options.chunkFraction,
        weights: options.weightedSelection ? plan.chunks.weights(relativeL1: experience.relativeL1) : nil,
        seed: RandomStream.rollout.seed(options.seed), sampleIDs: (0..<UInt64(batch)).map { state.samplesDrawn &+ $0 })

      let before = try TrainingState(parameterCount: parameterCount)
      before.copy(from: state)
      do {
        let updates = min(options.updatesPerRollout, promptCount)
        for u in 0..<updates {
          let samples =
            promptCount * u / updates * options.groupSize..<promptCount * (u + 1) / updates * options.groupSize
          let update = try update(experience, samples)
          report.loss += update.loss / Double(updates)
          report.gradNorm += update.gradNorm / Double(updates)
          report.stats = update.stats
        }
      } catch {
        state.copy(from: before)
        throw error
      }
      state.iterations += 1
      state.samplesDrawn &+= UInt64(batch)
      report.updateSeconds = clock.lap()
      return report
    }
  }

  private func rollOut(_ prompts: Prompts, batch: Int) throws -> Experience {
    let size = try checkedProduct([batch, plan.shape.latentSize], "samples of an iteration")
    let steps = plan.sampler.trainedSteps
    var experience = Experience(
      prompts: prompts, groupSize: options.groupSize, batch: batch,
      latents: try Buffer(
        count: checkedProduct([plan.sampler.steps + 1, size], "trajectories"),
        for: "the trajectories of \(batch) samples"),
      logProbs: [Double](repeating: 0, count: try checkedProduct([batch, steps], "log-probabilities")),
      relativeL1: [Double](repeating: 0, count: batch * steps))
    let roller = Roller(
      network: workspace.network, parameters: state.weights.base, sampler: plan.sampler, prompts: prompts,
      seed: RandomStream.rollout.seed(options.seed))
    let first = state.samplesDrawn
    let group = options.shareNoise ? options.groupSize : 1
    try experience.logProbs.withUnsafeMutableBufferPointer { logProbs in
      try experience.relativeL1.withUnsafeMutableBufferPointer { relativeL1 in
        try roller.run(
          batch: batch, promptOfSample: { $0 / options.groupSize }, sampleID: { first &+ UInt64($0) },
          initialID: { first &+ UInt64($0 / group * group) },
          latents: { [latents = experience.latents] in latents.base + $0 &* size }, logProbs: logProbs.baseAddress,
          relativeL1: relativeL1.baseAddress)
      }
    }
    return experience
  }

  private func evaluate(_ experience: Experience, promptCount: Int, _ reward: Reward) throws -> [Double] {
    let size = experience.batch * plan.shape.latentSize
    let prompts = (0..<experience.batch).map { Int64($0 / options.groupSize) }
    var rewards = [Double](repeating: .nan, count: experience.batch)
    try rewards.withUnsafeMutableBufferPointer { rewards in
      try prompts.withUnsafeBufferPointer { prompts in
        try reward(
          UnsafeBufferPointer(start: experience.latents.base + plan.sampler.steps * size, count: size), prompts, rewards
        )
      }
    }
    if let i = rewards.firstIndex(where: { !$0.isFinite }) {
      throw ChunkGRPOError.nonFinite("the reward of image \(i), of prompt \(i / options.groupSize), is \(rewards[i])")
    }
    return rewards
  }

  // MARK: Optimiser step

  private struct Update {
    var loss = 0.0, gradNorm = 0.0
    var stats = ChunkStats()
  }

  /// One optimiser step on the selected chunks of `samples`.
  private func update(_ experience: Experience, _ samples: Range<Int>) throws -> Update {
    let steps = plan.chunks.steps
    let count = plan.chunks.count
    func part<T>(_ values: [T], _ size: Int, _ samples: Range<Int>) -> [T] {
      Array(values[samples.lowerBound * size..<samples.upperBound * size])
    }
    func loss(_ new: [Double], _ samples: Range<Int>) throws -> ChunkLoss {
      try chunkLoss(
        new: new, old: part(experience.logProbs, steps, samples), advantages: part(experience.advantages, 1, samples),
        plan: plan.chunks, clip: plan.clip, kl: options.kl, selection: part(experience.selection, count, samples))
    }

    workspace.gradients.fillWithZeros()
    let selected = part(experience.selection, count, samples).count { $0 != 0 }
    var new: [Double] = []
    // Each piece has whole samples, so that its loss and gradient need no other piece.
    for piece in pieces(experience, samples) {
      let rows = gather(experience, piece)
      let logProbs = try forward(experience, rows, piece)
      let loss = try loss(logProbs, piece)
      // `loss` is the mean over its own chunks; the gradient is that of the mean over all.
      let share = Double(loss.stats.selected) / Double(selected)
      try backward(rows, piece, gradLogProbs: loss.gradLogProbs.map { $0 * share })
      new += logProbs
    }
    let whole = try loss(new, samples)

    let norm = euclideanNorm(workspace.gradients.base, count: parameterCount)
    guard norm.isFinite else {
      throw ChunkGRPOError.nonFinite("the gradient is not finite in iteration \(state.iterations + 1)")
    }
    state.optimiserSteps += 1
    plan.adam.update(
      parameters: state.weights.base, gradients: workspace.gradients.base, firstMoment: state.firstMoment.base,
      secondMoment: state.secondMoment.base, count: parameterCount, step: state.optimiserSteps,
      learningRate: options.learningRate, gradientScale: min(1, options.maxGradNorm / norm))
    updateAverage(
      state.average.base, weights: state.weights.base, count: parameterCount, decay: options.emaDecay)
    return Update(loss: whole.loss, gradNorm: norm, stats: whole.stats)
  }

  /// `samples` cut so that the selected steps of each piece fit into one pass.
  private func pieces(_ experience: Experience, _ samples: Range<Int>) -> [Range<Int>] {
    var pieces: [Range<Int>] = []
    var start = samples.lowerBound
    var rows = 0
    for sample in samples {
      var own = 0
      for (j, size) in plan.chunks.sizes.enumerated()
      where experience.selection[sample * plan.chunks.count + j] != 0 { own += size }
      if rows + own > workspace.maxRows {
        pieces.append(start..<sample)
        start = sample
        rows = 0
      }
      rows += own
    }
    return pieces + [start..<samples.upperBound]
  }

  /// The selected (sample, step) rows of a piece, ordered by step.
  private struct SelectedRows {
    /// Sample of each row.
    var samples: [Int] = []
    /// Rows of each step.
    var ofStep: [Range<Int>] = []
    /// For each row its context, and for each context its σ.
    var contexts: [Int32] = []
    var sigmas: [Double] = []
  }

  /// Copies what the rows need into the workspace.
  private func gather(_ experience: Experience, _ samples: Range<Int>) -> SelectedRows {
    let shape = plan.shape
    let size = shape.latentSize
    var rows = SelectedRows()
    for (j, range) in plan.chunks.ranges.enumerated() {
      let chosen = samples.filter { experience.selection[$0 * plan.chunks.count + j] != 0 }
      let (numbers, prompts) = numbered(chosen.map(experience.prompt))
      for step in range {
        let first = rows.samples.count
        let firstContext = Int32(truncatingIfNeeded: rows.sigmas.count)
        for prompt in prompts {
          experience.prompts.copy(prompt, to: workspace.conditions.base + rows.sigmas.count &* shape.conditionSize)
          rows.sigmas.append(plan.sampler.schedule.sigmas[step])
        }
        for (sample, number) in zip(chosen, numbers) {
          let row = rows.samples.count &* size
          let source = experience.latents.base + (step &* experience.batch &+ sample) &* size
          (workspace.latents.base + row).update(from: source, count: size)
          (workspace.next.base + row).update(from: source + experience.batch &* size, count: size)
          rows.samples.append(sample)
          rows.contexts.append(firstContext &+ number)
        }
        rows.ofStep.append(first..<rows.samples.count)
      }
    }
    return rows
  }

  /// The velocities of the rows, and the log-probabilities (samples, S): new ones where selected, else the old.
  private func forward(_ experience: Experience, _ rows: SelectedRows, _ samples: Range<Int>) throws -> [Double] {
    let w = workspace
    let size = plan.shape.latentSize
    let steps = plan.chunks.steps
    try rows.sigmas.withUnsafeBufferPointer {
      try w.network.setContexts(parameters: state.weights.base, sigmas: $0, conditions: w.conditions.base)
    }
    try rows.contexts.withUnsafeBufferPointer {
      try w.network.forward(
        parameters: state.weights.base, latents: w.latents.base, contextOfRow: $0, velocity: w.velocity.base)
    }
    var result = Array(experience.logProbs[samples.lowerBound * steps..<samples.upperBound * steps])
    var logProbs = [Double](repeating: 0, count: samples.count)
    for (step, range) in rows.ofStep.enumerated() where !range.isEmpty {
      try plan.sampler.logProb(
        step, latents: w.view(w.latents, range, of: size), velocity: w.view(w.velocity, range, of: size),
        next: w.view(w.next, range, of: size), logProb: &logProbs)
      for (i, row) in range.enumerated() {
        result[(rows.samples[row] - samples.lowerBound) * steps + step] = logProbs[i]
      }
    }
    return result
  }

  /// Adds to the gradients of the weights, given those of the log-probabilities (samples, S).
  private func backward(_ rows: SelectedRows, _ samples: Range<Int>, gradLogProbs: [Double]) throws {
    let w = workspace
    let size = plan.shape.latentSize
    for (step, range) in rows.ofStep.enumerated() where !range.isEmpty {
      let gradients = range.map { gradLogProbs[(rows.samples[$0] - samples.lowerBound) * plan.chunks.steps + step] }
      try plan.sampler.logProbVJP(
        step, latents: w.view(w.latents, range, of: size), velocity: w.view(w.velocity, range, of: size),
        next: w.view(w.next, range, of: size), gradLogProb: gradients,
        gradVelocity: w.view(w.gradVelocity, range, of: size))
    }
    try w.network.backward(
      parameters: state.weights.base, gradVelocity: w.gradVelocity.base, gradParameters: w.gradients.base)
  }
}

struct Stopwatch {
  private var last = Stopwatch.now()

  /// Seconds since the last lap, or the start.
  mutating func lap() -> Double {
    let now = Stopwatch.now()
    defer { last = now }
    return now - last
  }

  private static func now() -> Double {
    var time = timespec()
    clock_gettime(CLOCK_MONOTONIC, &time)
    return Double(time.tv_sec) + 1e-9 * Double(time.tv_nsec)
  }
}
