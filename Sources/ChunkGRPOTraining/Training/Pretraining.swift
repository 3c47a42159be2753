import ChunkGRPO
internal import Platform

extension ChunkGRPOTrainer {
  /// Called now and then with the optimiser steps done, their total and the mean loss since the last call. What it throws
  /// stops the work and is thrown on.
  public typealias Progress = (_ done: Int, _ total: Int, _ loss: Double) throws -> Void

  /// Flow matching on (image, condition) pairs: the mean of |v(x_σ, σ, c) − (ε − x0)|², x_σ = (1 − σ)·x0 + σ·ε, with σ
  /// uniform in (0, 1] under the trainer's shift.
  ///
  /// Afterwards the network has the averaged weights, and the optimiser is fresh.
  ///
  /// - Parameters:
  ///   - images: (N, D).
  ///   - conditions: (N, C).
  public func pretrain(
    images: UnsafeBufferPointer<Float>, conditions: UnsafeBufferPointer<Float>,
    options: PretrainOptions = PretrainOptions(), progress: Progress? = nil
  ) throws {
    try options.check()
    let count = try rows("images", images, of: plan.shape.latentSize)
    let conditionRows = try rows("conditions", conditions, of: plan.shape.conditionSize)
    try require(conditionRows == count, "conditions has \(conditionRows) rows for \(count) images")
    guard let images = images.baseAddress, let conditions = conditions.baseAddress else { return }

    try exclusively {
      draft.copy(from: state)
      draft.average.copy(from: draft.weights)
      draft.resetOptimiser()
      let data = PretrainingData(images: images, conditions: conditions, count: count)
      var lossSum = 0.0
      var lossCount = 0
      for step in 0..<options.steps {
        let parts = try workspace.parts(for: options.batchSize)
        lossSum += try flowMatchingGradient(data, batchSize: options.batchSize, parts)
        lossCount += 1
        let norm = workspace.sumGradients(parts)
        guard norm.isFinite else {
          throw ChunkGRPOError.nonFinite("the gradient is not finite at pretraining step \(step + 1)")
        }
        let turn = Double(step) / Double(options.steps)
        // Early on the average follows closely, so that it forgets the first weights.
        draft.step(
          from: draft, plan.adam, gradients: parts[0].gradients, scale: min(1, self.options.maxGradNorm / norm),
          learningRate: options.learningRate * (0.1 + 0.45 * (1 + cos(.pi * turn))),
          emaDecay: min(options.emaDecay, Double(1 + step) / Double(10 + step)), threads: workspace.threads)
        let done = step + 1
        if let progress, done % max(1, options.steps / 200) == 0 || done == options.steps {
          try progress(done, options.steps, lossSum / Double(lossCount))
          lossSum = 0
          lossCount = 0
        }
      }
      draft.weights.copy(from: draft.average)
      draft.resetOptimiser()
      commit()
    }
  }

  /// The gradients of `parts` for one batch; returns its loss.
  private func flowMatchingGradient(
    _ data: PretrainingData, batchSize: Int, _ parts: [TrainingPart]
  ) throws -> Double {
    let weights = workspace.weights(draft)
    var losses = [Double](repeating: 0, count: parts.count)
    try losses.withUnsafeMutableBufferPointer { losses in
      try forEachPart(of: 0..<batchSize, count: parts.count, threads: workspace.threads) { number, range in
        for start in stride(from: range.lowerBound, to: range.upperBound, by: workspace.maxRows) {
          losses[number] += try flowMatchingGradient(
            data, batchSize: batchSize, rows: start..<min(range.upperBound, start + workspace.maxRows), parts[number],
            weights, adding: start > range.lowerBound)
        }
      }
    }
    draft.rowsDrawn &+= UInt64(batchSize)
    return losses.reduce(0, +)
  }

  private func flowMatchingGradient(
    _ data: PretrainingData, batchSize: Int, rows: Range<Int>, _ part: TrainingPart,
    _ weights: NetworkWeights, adding: Bool
  ) throws -> Double {
    let shape = plan.shape
    let share = 1 / (Double(batchSize) * Double(shape.latentSize))
    let seed = RandomStream.pretraining.seed(options.seed)
    let ids = rows.map { draft.rowsDrawn &+ UInt64($0) }
    // `next` holds the noise, then the target.
    try normal(
      seed: seed, sampleIDs: ids, threads: plan.sampler.threads,
      into: part.view(part.next, 0..<rows.count, of: shape.latentSize))
    var sigmas: [Double] = []
    for (r, id) in ids.enumerated() {
      let draws = uniforms(seed: seed, sampleID: id, step: 0, count: 2)
      let image = min(data.count - 1, Int(draws[0] * Double(data.count)))
      // One draw in each part of (0, 1]: the marginal stays uniform and the batches differ less.
      let t = (Double(rows.lowerBound + r) + draws[1]) / Double(batchSize)
      let sigma = options.shift * t / (1 + (options.shift - 1) * t)
      sigmas.append(sigma)
      (part.conditions.base + r &* shape.conditionSize).update(
        from: data.conditions + image &* shape.conditionSize, count: shape.conditionSize)
      interpolate(
        image: data.images + image &* shape.latentSize, noise: part.next.base + r &* shape.latentSize,
        latents: part.latents.base + r &* shape.latentSize, count: shape.latentSize, sigma: Float(sigma))
    }
    try sigmas.withUnsafeBufferPointer {
      try part.network.setContexts(
        parameters: weights.parameters, transposed: weights.transposed, sigmas: $0, conditions: part.conditions.base)
    }
    try (0..<Int32(truncatingIfNeeded: rows.count)).map { $0 }.withUnsafeBufferPointer {
      try part.network.forward(
        parameters: weights.parameters, transposed: weights.transposed, latents: part.latents.base, contextOfRow: $0,
        velocity: part.velocity.base)
    }
    let loss = squaredError(
      part.velocity.base, target: part.next.base, count: rows.count &* shape.latentSize,
      gradient: part.gradVelocity.base, scale: Float(2 * share))
    try part.network.backward(
      parameters: weights.parameters, gradVelocity: part.gradVelocity.base, gradParameters: part.gradients.base,
      adding: adding)
    return loss * share
  }
}

private struct PretrainingData {
  let images, conditions: UnsafePointer<Float>
  let count: Int
}

/// latents = (1 − σ)·image + σ·noise; noise becomes the target, noise − image.
private func interpolate(
  image: UnsafePointer<Float>, noise: UnsafeMutablePointer<Float>, latents: UnsafeMutablePointer<Float>, count: Int,
  sigma: Float
) {
  for i in 0..<count {
    let (x0, e) = (image[i], noise[i])
    latents[i] = x0 * (1 - sigma) + e * sigma
    noise[i] = e - x0
  }
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
