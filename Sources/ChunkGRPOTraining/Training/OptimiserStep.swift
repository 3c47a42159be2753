import ChunkGRPO

/// What an optimiser step tells of itself: the mean loss and the statistics of the chunks that it trained.
struct Update {
  var loss = 0.0, gradNorm = 0.0, referenceDivergence = 0.0, lastStepDivergence = 0.0
  var stats = ChunkStats()
}

extension ChunkGRPOTrainer {
  /// Optimiser step `number` of `updates`, on the selected chunks of its samples: from the state (the first) or the draft to
  /// the draft.
  func update(_ experience: Experience, _ tally: Tally, _ number: Int, of updates: Int) throws -> Update {
    let samples = experience.samples(ofUpdate: number, of: updates)
    let first = number == 0
    let (lanes, own, chunks) = try together(.gradient) { ballot in
      let chunks = try tally.chunks(ofUpdate: number)
      let lanes = try workspace.lanes(for: samples.count)
      let own = try addGradients(
        experience, samples, lanes, first: first, chunks: chunks, rows: try tally.rows(ofUpdate: number),
        all: experience.sampleCount(ofUpdate: number, of: updates))
      if replica != nil {
        _ = try workspace.sumGradients(lanes)
        own.write(to: ballot)
      }
      return (lanes, own, chunks)
    }
    try replica?.sum(lanes[0].gradients.values)
    return try together(.step) { _ in
      var update = try replica.map { try Update(merging: $0, chunks: chunks) } ?? own
      update.loss +=
        options.referenceKL * update.referenceDivergence + options.referenceLastStep * update.lastStepDivergence
      update.gradNorm = try workspace.sumGradients(replica == nil ? lanes : Array(lanes[..<1]))
      guard update.gradNorm.isFinite else {
        throw ChunkGRPOError.nonFinite("the gradient is not finite in iteration \(iterations + 1)")
      }
      draft.step(
        from: first ? state : draft, options, gradients: lanes[0].gradients,
        scale: min(1, options.maxGradNorm / update.gradNorm), learningRate: options.learningRate,
        emaDecay: options.emaDecay, threads: workspace.threads)
      return update
    }
  }

  /// The gradients of `lanes` for the selected chunks of `samples`, which are this rank's.
  ///
  /// - Parameters:
  ///   - chunks, rows, all: selected chunks and steps, and samples, of the optimiser step, on all ranks.
  private func addGradients(
    _ experience: Experience, _ samples: Range<Int>, _ lanes: [TrainingLane], first: Bool, chunks: Int, rows: Int,
    all: Int
  ) throws -> Update {
    try reference?.begin(lanes: lanes.count, maxRows: workspace.maxRows, rows: rows, samples: all)
    if samples.isEmpty {
      for lane in lanes { lane.gradients.fillWithZeros() }
      return Update()
    }
    let parameters = first ? experience.parameters : workspace.parameters(draft)
    // (B, S): the new log-probabilities where selected, else the old; and the gradients of the passes' losses.
    let new = try Buffer(
      copying: UnsafeBufferPointer(experience.logProbs.values), for: "the log-probabilities of an optimiser step")
    let gradient = try Buffer<Double>(count: new.count, for: "the gradients of log-probabilities")
    try forEachLane(of: samples, count: lanes.count, threads: workspace.threads) { number, own in
      let lane = lanes[number]
      // A pass has whole samples: its loss and gradient need no other pass.
      try experience.forEachPass(own, maxRows: workspace.maxRows) { pass in
        let rows = try SelectedRows(experience, pass, sigmas: plan.sampler.schedule.sigmas, into: lane)
        if !(first && experience.isRecorded) {
          try lane.forward(parameters, rows: rows.contexts.count, contexts: rows.sigmas.count)
        }
        try computeLogProbs(rows, lane, into: new)
        let loss = try loss(experience, new, pass, gradLogProbs: gradient)
        // `loss` is the mean over the chunks of the pass; the gradient is that of the mean over all.
        let share = Double(loss.stats.selected) / Double(chunks)
        try computeGradVelocities(rows, lane, gradLogProbs: gradient, share: share)
        try reference?.pull(rows, lane, number)
        try lane.backward(parameters, adding: pass.lowerBound > own.lowerBound)
      }
    }
    let whole = try loss(experience, new, samples, gradLogProbs: nil)
    return Update(
      loss: whole.loss, referenceDivergence: reference?.meanDivergence ?? 0,
      lastStepDivergence: reference?.lastStepDivergence ?? 0, stats: whole.stats)
  }

  /// - Parameter gradLogProbs: (B, S), of which the rows of `samples` are written; nil = nowhere.
  private func loss(
    _ experience: Experience, _ new: Buffer<Double>, _ samples: Range<Int>, gradLogProbs: Buffer<Double>?
  ) throws -> (loss: Double, stats: ChunkStats) {
    let (chunks, steps) = (plan.chunks, plan.chunks.steps)
    func rows<T>(_ values: Buffer<T>, _ size: Int) -> Numbers<T> {
      Numbers(values, samples.lowerBound * size..<samples.upperBound * size)
    }
    return try withExtendedLifetime(gradLogProbs) {
      try chunkLoss(
        new: rows(new, steps), old: rows(experience.logProbs, steps), advantages: rows(experience.advantages, 1),
        plan: chunks,
        options: ChunkLossOptions {
          ($0.clip, $0.kl, $0.weights) = (plan.clip, options.kl, self.options.chunkWeights)
          $0.selection = Flags(rows(experience.selection, chunks.count))
        },
        to: ChunkLossOutput(
          gradLogProbs: gradLogProbs.map { $0.base + samples.lowerBound * steps }, gradRatioBias: nil, ratios: nil))
    }
  }

  /// Writes the log-probabilities of the rows to their places in (B, S).
  private func computeLogProbs(_ rows: SelectedRows, _ lane: TrainingLane, into new: Buffer<Double>) throws {
    for (step, range) in rows.ofStep.enumerated() where !range.isEmpty {
      try plan.sampler.logProb(
        step, latents: lane.view(lane.latents, range), velocity: lane.view(lane.velocity, range),
        next: lane.view(lane.next, range), logProb: lane.numbers.base)
      for (i, row) in range.enumerated() { new[rows.sample(row) * plan.chunks.steps + step] = lane.numbers[i] }
    }
  }

  /// The gradients of the lane's velocities, given those of the log-probabilities, (B, S), times `share`.
  private func computeGradVelocities(
    _ rows: SelectedRows, _ lane: TrainingLane, gradLogProbs: Buffer<Double>, share: Double
  ) throws {
    for (step, range) in rows.ofStep.enumerated() where !range.isEmpty {
      for (i, row) in range.enumerated() {
        lane.numbers[i] = gradLogProbs[rows.sample(row) * plan.chunks.steps + step] * share
      }
      try plan.sampler.logProbVJP(
        step, latents: lane.view(lane.latents, range), velocity: lane.view(lane.velocity, range),
        next: lane.view(lane.next, range), gradLogProb: lane.numbers.base,
        gradVelocity: lane.view(lane.gradVelocity, range), logProb: nil)
    }
    // The last step has no log-probability. What `reference` pulls is added.
    let (last, size) = (rows.ofLastStep, plan.shape.latentSize)
    (lane.gradVelocity.base + last.lowerBound &* size).update(repeating: 0, count: last.count &* size)
  }
}
