import ChunkGRPO

/// The weights of a pass, and the same transposed, which may be missing.
struct NetworkWeights {
  let parameters: UnsafePointer<Float>
  let transposed: UnsafePointer<Float>?
}

/// The samples of a rollout.
struct RolloutSamples {
  /// Row of the conditions.
  let prompt: (_ sample: Int) -> Int
  /// Of the noise of the steps, and of the initial noise.
  let id, initialID: (_ sample: Int) -> UInt64
  /// Where the latents (B, D) before step k lie; may be the same for all k.
  let latents: (_ step: Int) -> UnsafeMutablePointer<Float>
  /// (B, S) or nil.
  var logProbs, relativeL1: UnsafeMutablePointer<Double>?
}

/// Rows (sample, step) that are trained next, by the weights of the rollout: their activations stay in the networks, in the
/// order of steps, and their velocities in `velocities`, (rows, D) of each network.
struct KeptRows {
  let selected: (_ sample: Int, _ step: Int) -> Bool
  let velocities: [Buffer<Float>]
}

/// Sampling by the embedded network.
struct Roller {
  /// Each for a part of the samples.
  let networks: [VelocityNetwork<Float>]
  let weights: NetworkWeights
  let sampler: Sampler
  let prompts: Prompts
  let seed: UInt64

  /// Takes all steps of the samples `range`, `maxRows` of each network at a time. With `keeping` each network has room for
  /// its samples beside what it keeps, and for all contexts.
  func run(_ range: Range<Int>, of samples: RolloutSamples, keeping kept: KeptRows? = nil) throws {
    try forEachPart(of: range, count: networks.count, threads: sampler.threads) { number, own in
      for start in stride(from: own.lowerBound, to: own.upperBound, by: networks[number].maxRows) {
        try run(number, start..<min(own.upperBound, start + networks[number].maxRows), samples, kept)
      }
    }
  }

  private func run(_ number: Int, _ part: Range<Int>, _ samples: RolloutSamples, _ keeping: KeptRows?) throws {
    let network = networks[number]
    let shape = network.shape
    let size = shape.latentSize
    func view(_ base: UnsafeMutablePointer<Float>) -> LatentsView {
      LatentsView(base, type: .float32, batch: part.count, elements: size)
    }
    func at(_ step: Int) -> UnsafeMutablePointer<Float> { samples.latents(step) + part.lowerBound &* size }
    // Latents and velocities in the order of the network's rows, and velocities in that of the samples.
    let memory = try Buffer<Float>(count: checkedProduct([3, part.count, size], "velocities"), for: "velocities")
    let (input, output) = (memory.base, memory.base + part.count &* size)
    let velocity = output + part.count &* size

    try normal(
      seed: seed, sampleIDs: part.map(samples.initialID), threads: sampler.threads,
      into: view(at(0)))
    let noise = Noise.library(seed: seed, sampleIDs: part.map(samples.id))
    let (local, used) = numbered(part.map { prompts.index[samples.prompt($0)] })
    // The contexts of several steps are computed together, as many as fit.
    let span = max(1, network.maxContexts / used.count)
    let conditions = try Buffer<Float>(
      count: checkedProduct([min(span, sampler.steps), used.count, shape.conditionSize], "conditions"),
      for: "conditions")
    var logProb = [Double](repeating: 0, count: part.count)
    var change = [Double](repeating: 0, count: part.count)
    var kept = 0
    for k in 0..<sampler.steps {
      if k % span == 0 {
        let steps = k..<min(sampler.steps, k + span)
        var sigmas: [Double] = []
        for step in steps {
          for prompt in used {
            prompts.copy(prompt, to: conditions.base + sigmas.count &* shape.conditionSize)
            sigmas.append(sampler.schedule.sigmas[step])
          }
        }
        try sigmas.withUnsafeBufferPointer {
          try network.setContexts(
            parameters: weights.parameters, transposed: weights.transposed, sigmas: $0, conditions: conditions.base)
        }
      }
      // What is kept comes first, for the rows of the next step to follow it.
      var order = Array(0..<part.count)
      var selected = 0
      if let keeping, k < sampler.trainedSteps {
        selected = order.partition { !keeping.selected(part.lowerBound + $0, k) }
        order[..<selected].sort()
      }
      for (row, i) in order.enumerated() { (input + row &* size).update(from: at(k) + i &* size, count: size) }
      let first = Int32(truncatingIfNeeded: k % span * used.count)
      try order.map { local[$0] &+ first }.withUnsafeBufferPointer {
        try network.forward(
          parameters: weights.parameters, transposed: weights.transposed, latents: input, contextOfRow: $0,
          velocity: output, keeping: kept)
      }
      for (row, i) in order.enumerated() { (velocity + i &* size).update(from: output + row &* size, count: size) }
      if let keeping, selected > 0 {
        (keeping.velocities[number].base + kept &* size).update(from: output, count: selected &* size)
        kept += selected
      }
      try sampler.step(
        k, latents: view(at(k)), velocity: view(velocity), noise: noise, next: view(at(k + 1)), logProb: &logProb,
        relativeL1: &change)
      if k == sampler.trainedSteps { break }
      for (i, sample) in part.enumerated() {
        samples.logProbs?[sample &* sampler.trainedSteps &+ k] = logProb[i]
        samples.relativeL1?[sample &* sampler.trainedSteps &+ k] = change[i]
      }
    }
    if keeping != nil { network.keep(kept) }
  }
}

extension ChunkGRPOTrainer {
  /// Images (B, D) for conditions (B, C), by the trainer's schedule.
  ///
  /// - Parameters:
  ///   - eta: ≥ 0; 0 is the ODE, nil the trainer's.
  ///   - seed: of the noise, of which image i has that of id i.
  ///   - images: (B, D) to write.
  public func sample(
    conditions: UnsafeBufferPointer<Float>, weights: Weights = .averaged, eta: Double? = nil, seed: UInt64,
    into images: UnsafeMutableBufferPointer<Float>
  ) throws {
    let shape = plan.shape
    let batch = try rows("conditions", conditions, of: shape.conditionSize)
    try requireCount("images", images.count, rows: batch, of: shape.latentSize)
    guard let base = images.baseAddress else { return }
    let sampler = try Sampler(
      plan.sampler.schedule, dynamics: options.dynamics, eta: eta ?? options.eta, lastStep: .ode,
      threads: options.threads)
    let parts = partCount(batch, shape)
    let rows = min((batch + parts - 1) / parts, boundedRows(shape, parts: parts))
    let transposed = try Float.hasProduct ? Buffer<Float>(count: parameterCount, for: "transposed weights") : nil
    if let transposed { shape.transpose(parameters(weights), into: transposed.base, threads: sampler.threads) }
    defer { withExtendedLifetime(transposed) {} }
    let roller = Roller(
      networks: try (0..<parts).map { _ in
        try VelocityNetwork(shape, maxRows: rows, maxContexts: max(rows, min(sampler.steps, 512)), training: false)
      },
      weights: NetworkWeights(
        parameters: parameters(weights), transposed: transposed.map { UnsafePointer($0.base) }), sampler: sampler,
      prompts: Prompts(conditions, size: shape.conditionSize), seed: seed)
    try roller.run(
      0..<batch,
      of: RolloutSamples(prompt: { $0 }, id: { UInt64($0) }, initialID: { UInt64($0) }, latents: { _ in base }))
  }

  /// The network alone: velocity (B, D) at latents (B, D), σ in [0, 1] and conditions (B, C).
  public func velocity(
    weights: Weights = .averaged, latents: UnsafeBufferPointer<Float>, sigma: Double,
    conditions: UnsafeBufferPointer<Float>, into velocity: UnsafeMutableBufferPointer<Float>
  ) throws {
    let shape = plan.shape
    let batch = try rows("latents", latents, of: shape.latentSize)
    let conditionRows = try rows("conditions", conditions, of: shape.conditionSize)
    try require(conditionRows == batch, "conditions has \(conditionRows) rows for \(batch) latents")
    try requireCount("velocity", velocity.count, rows: batch, of: shape.latentSize)
    try require(sigma >= 0 && sigma <= 1, "sigma = \(sigma) is outside [0, 1]")
    guard let x = latents.baseAddress, let v = velocity.baseAddress else { return }
    let prompts = Prompts(conditions, size: shape.conditionSize)
    let maxRows = min(batch, boundedRows(shape, parts: 1))
    let network = try VelocityNetwork<Float>(shape, maxRows: maxRows, maxContexts: maxRows, training: false)
    let distinct = try Buffer<Float>(
      count: checkedProduct([maxRows, shape.conditionSize], "conditions"), for: "conditions")
    for start in stride(from: 0, to: batch, by: maxRows) {
      let part = start..<min(batch, start + maxRows)
      let (contexts, used) = numbered(part.map { prompts.index[$0] })
      for (number, prompt) in used.enumerated() {
        prompts.copy(prompt, to: distinct.base + number &* shape.conditionSize)
      }
      try [Double](repeating: sigma, count: used.count).withUnsafeBufferPointer {
        try network.setContexts(parameters: parameters(weights), sigmas: $0, conditions: distinct.base)
      }
      try contexts.withUnsafeBufferPointer {
        try network.forward(
          parameters: parameters(weights), latents: x + start &* shape.latentSize, contextOfRow: $0,
          velocity: v + start &* shape.latentSize)
      }
    }
  }

  private func requireCount(_ name: String, _ count: Int, rows: Int, of size: Int) throws {
    let (needed, overflow) = rows.multipliedReportingOverflow(by: size)
    try require(!overflow && count == needed, "\(name) has room for \(count) numbers instead of \(rows) × \(size)")
  }
}
