import ChunkGRPO
internal import Platform

extension ChunkGRPOTrainer {
  /// Called about 200 times, at most 400, and after the last step: with the optimiser steps done, their total and the
  /// mean loss since the last call. An error stops the work and is thrown on.
  public typealias Progress = (_ done: Int, _ total: Int, _ loss: Double) throws -> Void

  /// Flow matching on (image, condition) pairs: the mean of |v(x_σ, σ, c) − (ε − x0)|², x_σ = (1 − σ)·x0 + σ·ε, with σ
  /// uniform in (0, 1] under the trainer's shift.
  ///
  /// Afterwards the network has the averaged parameters, and the optimiser is fresh. So has the reference.
  ///
  /// - Parameters:
  ///   - images: (N, D).
  ///   - conditions: (N, C).
  public func pretrain(
    images: [Float], conditions: [Float], options: PretrainOptions = PretrainOptions(), progress: Progress? = nil
  ) throws {
    try images.withUnsafeBufferPointer { images in
      try conditions.withUnsafeBufferPointer { conditions in
        try pretrain({ (images, conditions, options) }, progress: progress)
      }
    }
  }

  /// The same on borrowed memory.
  package typealias PretrainingArguments = (
    images: UnsafeBufferPointer<Float>, conditions: UnsafeBufferPointer<Float>, options: PretrainOptions
  )

  /// - Parameter arguments: the same on all ranks. Where it throws on one, all hear of it.
  package func pretrain(_ arguments: () throws -> PretrainingArguments, progress: Progress?) throws {
    try exclusively {
      let (data, options) = try begin(arguments)
      draft.copy(from: state)
      draft.average.copy(from: draft.parameters)
      draft.resetOptimiser()
      var (lossSum, lossCount) = (0.0, 0)
      for step in 0..<options.steps {
        let (lanes, own) = try together(.gradient) { ballot in try addGradients(data, options, ballot) }
        lossSum += replica?.total(0) ?? own
        lossCount += 1
        try replica?.sum(lanes[0].gradients.values)
        let done = step + 1
        let isTold = done % max(1, options.steps / 200) == 0 || done == options.steps
        try together(.step) { _ in
          try pretrainingStep(step, options, lanes, loss: lossSum)
          if let progress, isTold { try progress(done, options.steps, lossSum / Double(lossCount)) }
        }
        if isTold { (lossSum, lossCount) = (0, 0) }
      }
      try commitTogether {
        draft.parameters.copy(from: draft.average)
        draft.resetOptimiser()
      }
      reference?.copy(from: state.parameters)
    }
  }

  private func begin(
    _ arguments: () throws -> PretrainingArguments
  ) throws -> (PretrainingData, PretrainOptions) {
    let (data, options) = try together(.pretrain) { ballot in
      let (images, conditions, options) = try arguments()
      try options.check()
      let count = try rows("images", images, of: plan.shape.latentSize)
      let conditionRows = try rows("conditions", conditions, of: plan.shape.conditionSize)
      try require(conditionRows == count, "conditions has \(conditionRows) rows for \(count) images")
      guard let x = images.baseAddress, let c = conditions.baseAddress else {
        throw ChunkGRPOError.invalidArgument("images has no rows")
      }
      if replica != nil {
        let hash = fnv1a(images.lazy.map(\.bitPattern), from: fnv1a(conditions.lazy.map(\.bitPattern)))
        ballot.set(0, hash: hash)
        ballot.set(2, Double(options.steps))
        ballot.set(3, Double(options.batchSize))
        ballot.set(4, options.learningRate)
        ballot.set(5, options.emaDecay)
      }
      return (PretrainingData(images: x, conditions: c, count: count), options)
    }
    try replica?.requireSame(0..<2, "images or conditions", "each rank draws its rows of all pairs: give all the same")
    try replica?.requireSame(2..<6, "options of pretrain", "give all the same")
    return (data, options)
  }

  /// One optimiser step of the draft with the gradients of `lanes`, which with a replica are summed into the first's.
  private func pretrainingStep(
    _ step: Int, _ options: PretrainOptions, _ lanes: [TrainingLane], loss: Double
  ) throws {
    let norm = try workspace.sumGradients(replica == nil ? lanes : Array(lanes[..<1]))
    guard norm.isFinite, loss.isFinite else {
      throw ChunkGRPOError.nonFinite(
        "the \(norm.isFinite ? "loss" : "gradient") is not finite at pretraining step \(step + 1)")
    }
    let turn = Double(step) / Double(options.steps)
    // Early on the average follows closely: it forgets the first parameters.
    draft.step(
      from: draft, self.options, gradients: lanes[0].gradients, scale: min(1, self.options.maxGradNorm / norm),
      learningRate: options.learningRate * (0.1 + 0.45 * (1 + cos(.pi * turn))),
      emaDecay: min(options.emaDecay, Double(1 + step) / Double(10 + step)), threads: workspace.threads)
  }

  /// The gradients of a batch in its lanes, and its loss: with a replica of this rank's rows of it.
  private func addGradients(
    _ data: PretrainingData, _ options: PretrainOptions, _ ballot: Ballot
  ) throws -> (lanes: [TrainingLane], loss: Double) {
    let own = (0..<options.batchSize).slice(replica?.rank ?? 0, of: replica?.ranks ?? 1)
    let lanes = try workspace.lanes(for: own.count)
    let loss = try addGradients(data, own, batchSize: options.batchSize, lanes)
    if replica != nil {
      _ = try workspace.sumGradients(lanes)
      ballot.set(0, loss)
    }
    return (lanes, loss)
  }

  /// The gradients of `lanes` for the rows `own` of a batch, which are this rank's; returns their part of its loss.
  private func addGradients(
    _ data: PretrainingData, _ own: Range<Int>, batchSize: Int, _ lanes: [TrainingLane]
  ) throws -> Double {
    if own.isEmpty { for lane in lanes { lane.gradients.fillWithZeros() } }
    let parameters = workspace.parameters(draft)
    var losses = [Double](repeating: 0, count: lanes.count)
    try losses.withUnsafeMutableBufferPointer { losses in
      try forEachLane(of: own, count: lanes.count, threads: workspace.threads) { lane, range in
        for start in stride(from: range.lowerBound, to: range.upperBound, by: workspace.maxRows) {
          let rows = start..<min(range.upperBound, start + workspace.maxRows)
          try fill(lanes[lane], data, rows, batchSize: batchSize)
          try lanes[lane].forward(parameters, rows: rows.count, contexts: rows.count)
          let share = 1 / (Double(batchSize) * Double(plan.shape.latentSize))
          losses[lane] +=
            share
            * squaredError(
              lanes[lane].velocity.base, target: lanes[lane].next.base, count: rows.count &* plan.shape.latentSize,
              gradient: lanes[lane].gradVelocity.base, scale: Float(2 * share))
          try lanes[lane].backward(parameters, adding: start > range.lowerBound)
        }
      }
    }
    draft.counters.rowsDrawn &+= UInt64(batchSize)
    return losses.reduce(0, +)
  }

  /// Draws `rows` of a batch into `lane`, each with a context of its own: conditions, latents and, as `next`, the
  /// velocities to learn.
  private func fill(_ lane: TrainingLane, _ data: PretrainingData, _ rows: Range<Int>, batchSize: Int) throws {
    let shape = plan.shape
    let seed = RandomStream.pretraining.seed(options.seed)
    for (r, row) in rows.enumerated() { lane.ids[r] = draft.counters.rowsDrawn &+ UInt64(row) }
    // `next` holds the noise, then the target.
    try normal(
      .library(seed: seed, borrowing: lane.ids.base), threads: plan.sampler.threads,
      into: lane.view(lane.next, 0..<rows.count))
    let draws = try Buffer<Double>(count: 2, for: "the draws of a row")
    for r in 0..<rows.count {
      uniforms(seed: seed, sampleID: lane.ids[r], step: 0, into: draws.values)
      let image = min(data.count - 1, Int(draws[0] * Double(data.count)))
      // One draw in each of `batchSize` equal intervals: the marginal stays uniform, and batches differ less.
      let t = (Double(rows.lowerBound + r) + draws[1]) / Double(batchSize)
      let sigma = options.shift * t / (1 + (options.shift - 1) * t)
      lane.sigmas[r] = sigma
      lane.contexts[r] = Int32(truncatingIfNeeded: r)
      (lane.conditions.base + r &* shape.conditionSize).update(
        from: data.conditions + image &* shape.conditionSize, count: shape.conditionSize)
      let pixels = data.images + image &* shape.latentSize
      let (latents, target) = (lane.latents.base + r &* shape.latentSize, lane.next.base + r &* shape.latentSize)
      for i in 0..<shape.latentSize {
        let (x0, e) = (pixels[i], target[i])
        latents[i] = x0 * (1 - Float(sigma)) + e * Float(sigma)
        target[i] = e - x0
      }
    }
  }
}

private struct PretrainingData {
  let images, conditions: UnsafePointer<Float>
  let count: Int
}

/// Σ(value − target)²; gradient = scale·(value − target).
private func squaredError(
  _ value: UnsafePointer<Float>, target: UnsafePointer<Float>, count: Int, gradient: UnsafeMutablePointer<Float>,
  scale: Float
) -> Double {
  var total = 0.0
  for i in 0..<count {
    let d = value[i] - target[i]
    total += Double(d * d)
    gradient[i] = d * scale
  }
  return total
}
