import ChunkGRPO

extension ChunkGRPOTrainer {
  struct Update {
    var loss = 0.0, gradNorm = 0.0, referenceDivergence = 0.0
    var stats = ChunkStats()
  }

  /// One optimiser step on the selected chunks of `samples`, from the state (the first) or the draft to the draft.
  func update(_ experience: Experience, _ samples: Range<Int>, first: Bool) throws -> Update {
    let chunks = experience.selectedChunks(samples)
    let parameters = first ? experience.parameters : workspace.parameters(draft)
    let lanes = try workspace.lanes(for: samples.count)
    try reference?.begin(lanes: lanes.count, maxRows: workspace.maxRows, rows: experience.selectedSteps(samples))
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

    let norm = try workspace.sumGradients(lanes)
    guard norm.isFinite else {
      throw ChunkGRPOError.nonFinite("the gradient is not finite in iteration \(iterations + 1)")
    }
    draft.step(
      from: first ? state : draft, options, gradients: lanes[0].gradients, scale: min(1, options.maxGradNorm / norm),
      learningRate: options.learningRate, emaDecay: options.emaDecay, threads: workspace.threads)
    var update = Update(loss: whole.loss, gradNorm: norm, stats: whole.stats)
    if let reference {
      update.referenceDivergence = reference.meanDivergence
      update.loss += options.referenceKL * update.referenceDivergence
    }
    return update
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
  }
}
