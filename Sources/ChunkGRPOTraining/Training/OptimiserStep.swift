import ChunkGRPO

extension ChunkGRPOTrainer {
  struct Update {
    var loss = 0.0, gradNorm = 0.0, referenceDivergence = 0.0
    var stats = ChunkStats()
  }

  /// One optimiser step on the selected chunks of `samples`, from the state (the first) or the draft to the draft.
  func update(_ experience: Experience, _ samples: Range<Int>, first: Bool) throws -> Update {
    let steps = plan.chunks.steps
    let chunks = samples.reduce(0) { sum, sample in
      sum + (0..<plan.chunks.count).count { experience.isSelected(sample, chunk: $0) }
    }
    let parameters = first ? experience.parameters : workspace.parameters(draft)
    let lanes = try workspace.lanes(for: samples.count)
    try reference?.begin(lanes: lanes.count, maxRows: workspace.maxRows, rows: experience.selectedSteps(samples))
    var logProbs = [Double](repeating: 0, count: samples.count * steps)
    try logProbs.withUnsafeMutableBufferPointer { logProbs in
      try forEachLane(of: samples, count: lanes.count, threads: workspace.threads) { number, own in
        let lane = lanes[number]
        // A pass has whole samples: its loss and gradient need no other pass.
        for pass in experience.passes(own, maxRows: workspace.maxRows) {
          let rows = SelectedRows(experience, pass, sigmas: plan.sampler.schedule.sigmas, into: lane)
          if !(first && experience.isRecorded) {
            try lane.forward(parameters, sigmas: rows.sigmas, contextOfRow: rows.contexts)
          }
          let new = try newLogProbs(experience, rows, pass, lane)
          let loss = try loss(experience, new, pass)
          // `loss` is the mean over the chunks of the pass; the gradient is that of the mean over all.
          let share = Double(loss.stats.selected) / Double(chunks)
          try gradVelocities(rows, pass, lane, gradLogProbs: loss.gradLogProbs.map { $0 * share })
          try reference?.pull(rows, lane, number)
          try lane.backward(parameters, adding: pass.lowerBound > own.lowerBound)
          for (i, value) in new.enumerated() { logProbs[(pass.lowerBound - samples.lowerBound) * steps + i] = value }
        }
      }
    }
    let whole = try loss(experience, logProbs, samples)

    let norm = workspace.sumGradients(lanes)
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

  private func loss(_ experience: Experience, _ new: [Double], _ samples: Range<Int>) throws -> ChunkLoss {
    func rows<T>(_ values: [T], _ size: Int) -> [T] {
      Array(values[samples.lowerBound * size..<samples.upperBound * size])
    }
    return try chunkLoss(
      new: new, old: rows(experience.logProbs, plan.chunks.steps), advantages: rows(experience.advantages, 1),
      plan: plan.chunks, clip: plan.clip, kl: options.kl, selection: rows(experience.selection, 1))
  }

  /// The log-probabilities (samples, S): new ones where selected, else the old.
  private func newLogProbs(
    _ experience: Experience, _ rows: SelectedRows, _ samples: Range<Int>, _ lane: TrainingLane
  ) throws -> [Double] {
    let steps = plan.chunks.steps
    var result = Array(experience.logProbs[samples.lowerBound * steps..<samples.upperBound * steps])
    var logProbs = [Double](repeating: 0, count: samples.count)
    for (step, range) in rows.ofStep.enumerated() where !range.isEmpty {
      try plan.sampler.logProb(
        step, latents: lane.view(lane.latents, range), velocity: lane.view(lane.velocity, range),
        next: lane.view(lane.next, range), logProb: &logProbs)
      for (i, row) in range.enumerated() {
        result[(rows.samples[row] - samples.lowerBound) * steps + step] = logProbs[i]
      }
    }
    return result
  }

  /// The gradients of the lane's velocities, given those of the log-probabilities (samples, S).
  private func gradVelocities(
    _ rows: SelectedRows, _ samples: Range<Int>, _ lane: TrainingLane, gradLogProbs: [Double]
  ) throws {
    for (step, range) in rows.ofStep.enumerated() where !range.isEmpty {
      let gradients = range.map { gradLogProbs[(rows.samples[$0] - samples.lowerBound) * plan.chunks.steps + step] }
      try plan.sampler.logProbVJP(
        step, latents: lane.view(lane.latents, range), velocity: lane.view(lane.velocity, range),
        next: lane.view(lane.next, range), gradLogProb: gradients, gradVelocity: lane.view(lane.gradVelocity, range),
        logProb: nil)
    }
  }
}
