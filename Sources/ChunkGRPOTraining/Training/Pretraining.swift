import ChunkGRPO
import Glibc

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
    try requireBounds("steps", options.steps, 1...1 << 40)
    try requireBounds("batch_size", options.batchSize, 1...1 << 30)
    try requireLearningRate(options.learningRate)
    try requireDecay(options.emaDecay)
    let count = try rows("images", images, of: plan.shape.latentSize)
    let conditionRows = try rows("conditions", conditions, of: plan.shape.conditionSize)
    try require(conditionRows == count, "conditions has \(conditionRows) rows for \(count) images")
    guard let images = images.baseAddress, let conditions = conditions.baseAddress else { return }

    try exclusively {
      // On a copy, which becomes the trainer's at the end.
      let draft = try TrainingState(parameterCount: parameterCount)
      draft.copy(from: state)
      draft.average.copy(from: draft.weights)
      draft.resetOptimiser()
      let data = PretrainingData(images: images, conditions: conditions, count: count)
      var lossSum = 0.0
      var lossCount = 0
      for step in 0..<options.steps {
        lossSum += try flowMatchingGradient(data, batchSize: options.batchSize, draft)
        lossCount += 1
        let norm = euclideanNorm(workspace.gradients.base, count: parameterCount)
        guard norm.isFinite else {
          throw ChunkGRPOError.nonFinite("the gradient is not finite at pretraining step \(step + 1)")
        }
        let turn = Double(step) / Double(options.steps)
        draft.optimiserSteps += 1
        plan.adam.update(
          parameters: draft.weights.base, gradients: workspace.gradients.base, firstMoment: draft.firstMoment.base,
          secondMoment: draft.secondMoment.base, count: parameterCount, step: draft.optimiserSteps,
          learningRate: options.learningRate * (0.1 + 0.45 * (1 + cos(.pi * turn))),
          gradientScale: min(1, self.options.maxGradNorm / norm))
        // Early on the average follows closely, so that it forgets the first weights.
        updateAverage(
          draft.average.base, weights: draft.weights.base, count: parameterCount,
          decay: min(options.emaDecay, Double(1 + step) / Double(10 + step)))
        let done = step + 1
        if let progress, done % max(1, options.steps / 200) == 0 || done == options.steps {
          try progress(done, options.steps, lossSum / Double(lossCount))
          lossSum = 0
          lossCount = 0
        }
      }
      draft.weights.copy(from: draft.average)
      draft.resetOptimiser()
      state.copy(from: draft)
    }
  }

  /// Fills `workspace.gradients` for one batch; returns its loss.
  private func flowMatchingGradient(_ data: PretrainingData, batchSize: Int, _ draft: TrainingState) throws -> Double {
    let shape = plan.shape
    let w = workspace
    w.gradients.fillWithZeros()
    let share = 1 / (Double(batchSize) * Double(shape.latentSize))
    let seed = RandomStream.pretraining.seed(options.seed)
    var loss = 0.0
    for start in stride(from: 0, to: batchSize, by: w.maxRows) {
      let count = min(w.maxRows, batchSize - start)
      let ids = (0..<UInt64(count)).map { draft.rowsDrawn &+ $0 }
      // `next` holds the noise, then the target.
      try normal(
        seed: seed, sampleIDPointer: ids, step: initialNoiseStep, threads: plan.sampler.threads,
        into: w.view(w.next, 0..<count, of: shape.latentSize))
      var sigmas: [Double] = []
      for (r, id) in ids.enumerated() {
        let draws = uniforms(seed: seed, sampleID: id, step: 0, count: 2)
        let image = min(data.count - 1, Int(draws[0] * Double(data.count)))
        // One draw in each part of (0, 1]: the marginal stays uniform and the batches differ less.
        let t = (Double(start + r) + draws[1]) / Double(batchSize)
        let sigma = options.shift * t / (1 + (options.shift - 1) * t)
        sigmas.append(sigma)
        (w.conditions.base + r &* shape.conditionSize).update(
          from: data.conditions + image &* shape.conditionSize, count: shape.conditionSize)
        interpolate(
          image: data.images + image &* shape.latentSize, noise: w.next.base + r &* shape.latentSize,
          latents: w.latents.base + r &* shape.latentSize, count: shape.latentSize, sigma: Float(sigma))
      }
      try sigmas.withUnsafeBufferPointer {
        try w.network.setContexts(parameters: draft.weights.base, sigmas: $0, conditions: w.conditions.base)
      }
      try (0..<Int32(truncatingIfNeeded: count)).map { $0 }.withUnsafeBufferPointer {
        try w.network.forward(
          parameters: draft.weights.base, latents: w.latents.base, contextOfRow: $0, velocity: w.velocity.base)
      }
      loss += squaredError(
        w.velocity.base, target: w.next.base, count: count &* shape.latentSize, gradient: w.gradVelocity.base,
        scale: Float(2 * share))
      try w.network.backward(
        parameters: draft.weights.base, gradVelocity: w.gradVelocity.base, gradParameters: w.gradients.base)
      draft.rowsDrawn &+= UInt64(count)
    }
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
  lanes(count) { i, n in
    let x0 = load(image, i, n)
    let e = load(noise, i, n)
    store(x0 * (1 - sigma) + e * sigma, latents, i, n)
    store(e - x0, noise, i, n)
  }
}

/// Σ(value − target)²; gradient = scale·(value − target).
private func squaredError(
  _ value: UnsafePointer<Float>, target: UnsafePointer<Float>, count: Int, gradient: UnsafeMutablePointer<Float>,
  scale: Float
) -> Double {
  var total = 0.0
  var start = 0
  while start < count {
    let block = min(4096, count &- start)
    var sum = SIMD8<Float>.zero
    lanes(block) { i, n in
      let d = load(value, start &+ i, n) - load(target, start &+ i, n)
      sum += d * d
      store(d * scale, gradient, start &+ i, n)
    }
    total += Double(sum.sum())
    start &+= block
  }
  return total
}
