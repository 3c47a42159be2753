import ChunkGRPO
internal import Platform

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

  /// The weights that drew them. Until the first optimiser step its rows are in the networks, where `keptFirst`.
  let weights: NetworkWeights
  var keptFirst = false

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
  /// The log-probabilities of the first optimiser step are those of the rollout, up to the rounding of OpenBLAS where it
  /// computes them anew: its products may differ in the last bits between batch sizes. Ratios are within 1e-6 of 1, far
  /// within any clip range.
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
      if options.weightedSelection {
        experience.selection = try selection(batch, plan.chunks.weights(relativeL1: experience.relativeL1))
      }

      draft.copyCounters(from: state)
      let updates = min(options.updatesPerRollout, promptCount)
      for u in 0..<updates {
        let update = try update(experience, samples(of: u, batch), first: u == 0)
        report.loss += update.loss / Double(updates)
        report.gradNorm += update.gradNorm / Double(updates)
        report.stats = update.stats
      }
      draft.iterations += 1
      draft.samplesDrawn &+= UInt64(batch)
      commit()
      report.updateSeconds = clock.lap()
      return report
    }
  }

  /// The samples that optimiser step u takes.
  private func samples(of u: Int, _ batch: Int) -> Range<Int> {
    let prompts = batch / options.groupSize
    let own = part(u, of: 0..<prompts, count: min(options.updatesPerRollout, prompts))
    return own.lowerBound * options.groupSize..<own.upperBound * options.groupSize
  }

  private func selection(_ batch: Int, _ weights: [Double]?) throws -> [UInt8] {
    try plan.chunks.select(
      batch: batch,
      ChunkSelectionOptions {
        ($0.fraction, $0.weights) = (options.chunkFraction, weights)
        $0.seed = RandomStream.rollout.seed(options.seed)
        $0.sampleIDs = (0..<UInt64(batch)).map { state.samplesDrawn &+ $0 }
      })
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
      relativeL1: [Double](repeating: 0, count: batch * steps), weights: workspace.weights(state))
    // The first optimiser step is on the weights that draw the samples, and needs no forward pass of its own.
    let first = samples(of: 0, batch)
    if !options.weightedSelection {
      experience.selection = try selection(batch, nil)
      experience.keptFirst = canKeep(experience, first)
    }
    let id = state.samplesDrawn
    let group = options.shareNoise ? options.groupSize : 1
    let chunkOfStep = plan.chunks.sizes.enumerated().flatMap { Array(repeating: $0.offset, count: $0.element) }
    func run(_ range: Range<Int>, _ samples: RolloutSamples, keeping: Bool) throws {
      let parts = try workspace.parts(for: range.count)
      let roller = Roller(
        networks: parts.map(\.network), weights: experience.weights, sampler: plan.sampler, prompts: prompts,
        seed: RandomStream.rollout.seed(options.seed))
      let selected = { [plan] (sample: Int, step: Int) in
        experience.selection[sample * plan.chunks.count + chunkOfStep[step]] != 0
      }
      try roller.run(
        range, of: samples,
        keeping: keeping ? KeptRows(selected: selected, velocities: parts.map(\.velocity)) : nil)
    }
    var (logProbs, relativeL1) = (experience.logProbs, experience.relativeL1)
    try logProbs.withUnsafeMutableBufferPointer { logProbs in
      try relativeL1.withUnsafeMutableBufferPointer { relativeL1 in
        let samples = RolloutSamples(
          prompt: { [groupSize = options.groupSize] in $0 / groupSize }, id: { id &+ UInt64($0) },
          initialID: { id &+ UInt64($0 / group * group) },
          latents: { [latents = experience.latents] in latents.base + $0 &* size }, logProbs: logProbs.baseAddress,
          relativeL1: relativeL1.baseAddress)
        if experience.keptFirst {
          if first.upperBound < batch { try run(first.upperBound..<batch, samples, keeping: false) }
          try run(first, samples, keeping: true)
        } else {
          try run(0..<batch, samples, keeping: false)
        }
      }
    }
    experience.logProbs = logProbs
    experience.relativeL1 = relativeL1
    return experience
  }

  /// Whether the memory of each part has room for all of its rows that are trained, beside one step of all of its samples.
  private func canKeep(_ experience: Experience, _ samples: Range<Int>) -> Bool {
    let count = partCount(samples.count, plan.shape)
    return (0..<count).allSatisfy {
      let own = part($0, of: samples, count: count)
      let prompts = Set(own.map(experience.prompt)).count
      return trainedRows(experience, own) + own.count <= workspace.maxRows
        && prompts * plan.sampler.steps <= workspace.maxRows
    }
  }

  private func trainedRows(_ experience: Experience, _ samples: Range<Int>) -> Int {
    samples.reduce(0) { rows, sample in
      plan.chunks.sizes.enumerated().reduce(rows) {
        $0 + (experience.selection[sample * plan.chunks.count + $1.offset] != 0 ? $1.element : 0)
      }
    }
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

  /// One optimiser step on the selected chunks of `samples`, from the state (the first) or the draft to the draft.
  private func update(_ experience: Experience, _ samples: Range<Int>, first: Bool) throws -> Update {
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

    let selected = part(experience.selection, count, samples).count { $0 != 0 }
    let weights = first ? experience.weights : workspace.weights(draft)
    let kept = first && experience.keptFirst
    let parts = try workspace.parts(for: samples.count)
    var new = [Double](repeating: 0, count: samples.count * steps)
    try new.withUnsafeMutableBufferPointer { new in
      try forEachPart(of: samples, count: parts.count, threads: workspace.threads) { number, own in
        // Each piece has whole samples, so that its loss and gradient need no other piece.
        for piece in pieces(experience, own) {
          let rows = gather(experience, piece, parts[number])
          if !kept { try forward(rows, weights, parts[number]) }
          let logProbs = try logProbs(experience, rows, piece, parts[number])
          let loss = try loss(logProbs, piece)
          // `loss` is the mean over its own chunks; the gradient is that of the mean over all.
          let share = Double(loss.stats.selected) / Double(selected)
          try backward(
            rows, piece, weights, parts[number], gradLogProbs: loss.gradLogProbs.map { $0 * share },
            adding: piece.lowerBound > own.lowerBound)
          for (i, value) in logProbs.enumerated() { new[(piece.lowerBound - samples.lowerBound) * steps + i] = value }
        }
      }
    }
    let whole = try loss(new, samples)

    let norm = workspace.sumGradients(parts)
    guard norm.isFinite else {
      throw ChunkGRPOError.nonFinite("the gradient is not finite in iteration \(state.iterations + 1)")
    }
    draft.step(
      from: first ? state : draft, plan.adam, gradients: parts[0].gradients, scale: min(1, options.maxGradNorm / norm),
      learningRate: options.learningRate, emaDecay: options.emaDecay, threads: workspace.threads)
    return Update(loss: whole.loss, gradNorm: norm, stats: whole.stats)
  }

  /// `samples` cut so that the selected steps of each piece fit into one pass.
  private func pieces(_ experience: Experience, _ samples: Range<Int>) -> [Range<Int>] {
    var pieces: [Range<Int>] = []
    var start = samples.lowerBound
    var rows = 0
    for sample in samples {
      let own = trainedRows(experience, sample..<sample + 1)
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

  /// Copies what the rows need into the memory of `part`.
  private func gather(_ experience: Experience, _ samples: Range<Int>, _ part: TrainingPart) -> SelectedRows {
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
          experience.prompts.copy(prompt, to: part.conditions.base + rows.sigmas.count &* shape.conditionSize)
          rows.sigmas.append(plan.sampler.schedule.sigmas[step])
        }
        for (sample, number) in zip(chosen, numbers) {
          let row = rows.samples.count &* size
          let source = experience.latents.base + (step &* experience.batch &+ sample) &* size
          (part.latents.base + row).update(from: source, count: size)
          (part.next.base + row).update(from: source + experience.batch &* size, count: size)
          rows.samples.append(sample)
          rows.contexts.append(firstContext &+ number)
        }
        rows.ofStep.append(first..<rows.samples.count)
      }
    }
    return rows
  }

  /// The velocities of the rows.
  private func forward(_ rows: SelectedRows, _ weights: NetworkWeights, _ part: TrainingPart) throws {
    try rows.sigmas.withUnsafeBufferPointer {
      try part.network.setContexts(
        parameters: weights.parameters, transposed: weights.transposed, sigmas: $0, conditions: part.conditions.base)
    }
    try rows.contexts.withUnsafeBufferPointer {
      try part.network.forward(
        parameters: weights.parameters, transposed: weights.transposed, latents: part.latents.base, contextOfRow: $0,
        velocity: part.velocity.base)
    }
  }

  /// The log-probabilities (samples, S): new ones where selected, else the old.
  private func logProbs(
    _ experience: Experience, _ rows: SelectedRows, _ samples: Range<Int>, _ part: TrainingPart
  ) throws -> [Double] {
    let size = plan.shape.latentSize
    let steps = plan.chunks.steps
    var result = Array(experience.logProbs[samples.lowerBound * steps..<samples.upperBound * steps])
    var logProbs = [Double](repeating: 0, count: samples.count)
    for (step, range) in rows.ofStep.enumerated() where !range.isEmpty {
      try plan.sampler.logProb(
        step, latents: part.view(part.latents, range, of: size), velocity: part.view(part.velocity, range, of: size),
        next: part.view(part.next, range, of: size), logProb: &logProbs)
      for (i, row) in range.enumerated() {
        result[(rows.samples[row] - samples.lowerBound) * steps + step] = logProbs[i]
      }
    }
    return result
  }

  /// The gradients of the weights, added to those of the part or written over them, given those of the log-probabilities
  /// (samples, S).
  private func backward(
    _ rows: SelectedRows, _ samples: Range<Int>, _ weights: NetworkWeights, _ part: TrainingPart,
    gradLogProbs: [Double],
    adding: Bool
  ) throws {
    let size = plan.shape.latentSize
    for (step, range) in rows.ofStep.enumerated() where !range.isEmpty {
      let gradients = range.map { gradLogProbs[(rows.samples[$0] - samples.lowerBound) * plan.chunks.steps + step] }
      try plan.sampler.logProbVJP(
        step, latents: part.view(part.latents, range, of: size), velocity: part.view(part.velocity, range, of: size),
        next: part.view(part.next, range, of: size), gradLogProb: gradients,
        gradVelocity: part.view(part.gradVelocity, range, of: size), logProb: nil)
    }
    try part.network.backward(
      parameters: weights.parameters, gradVelocity: part.gradVelocity.base, gradParameters: part.gradients.base,
      adding: adding)
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
