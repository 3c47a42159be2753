import ChunkGRPO

/// Sampling by the embedded network.
struct Roller {
  let network: VelocityNetwork<Float>
  let parameters: UnsafePointer<Float>
  let sampler: Sampler
  let prompts: Prompts
  let seed: UInt64

  /// Takes all steps of the samples `range`, `network.maxRows` of them at a time.
  ///
  /// - Parameters:
  ///   - promptOfSample: row of the conditions.
  ///   - sampleID: of the noise of the steps; `initialID` of the initial noise.
  ///   - latents: where the latents (B, D) before step k lie; may be the same for all k.
  ///   - logProbs, relativeL1: (B, S) or nil.
  func run(
    batch: Int, promptOfSample: (Int) -> Int, sampleID: (Int) -> UInt64, initialID: (Int) -> UInt64,
    latents: (_ step: Int) -> UnsafeMutablePointer<Float>, logProbs: UnsafeMutablePointer<Double>?,
    relativeL1: UnsafeMutablePointer<Double>?
  ) throws {
    let velocity = try Buffer<Float>(
      count: checkedProduct([min(batch, network.maxRows), network.shape.latentSize], "velocities"), for: "velocities")
    for start in stride(from: 0, to: batch, by: network.maxRows) {
      let part = start..<min(batch, start + network.maxRows)
      try run(
        part, promptOfSample: part.map(promptOfSample), sampleIDs: part.map(sampleID), initialIDs: part.map(initialID),
        latents: latents, velocity: velocity, logProbs: logProbs, relativeL1: relativeL1)
    }
  }

  private func run(
    _ part: Range<Int>, promptOfSample: [Int], sampleIDs: [UInt64], initialIDs: [UInt64],
    latents: (_ step: Int) -> UnsafeMutablePointer<Float>, velocity: Buffer<Float>,
    logProbs: UnsafeMutablePointer<Double>?, relativeL1: UnsafeMutablePointer<Double>?
  ) throws {
    let shape = network.shape
    func view(_ base: UnsafeMutablePointer<Float>) -> LatentsView {
      LatentsView(base, type: .float32, batch: part.count, elements: shape.latentSize)
    }
    func at(_ step: Int) -> UnsafeMutablePointer<Float> { latents(step) + part.lowerBound &* shape.latentSize }

    try normal(
      seed: seed, sampleIDPointer: initialIDs, step: initialNoiseStep, threads: sampler.threads, into: view(at(0)))
    let (local, used) = numbered(promptOfSample.map { prompts.index[$0] })
    // The contexts of several steps are computed together, as many as fit.
    let span = max(1, network.maxContexts / used.count)
    let conditions = try Buffer<Float>(
      count: checkedProduct([min(span, sampler.steps), used.count, shape.conditionSize], "conditions"),
      for: "conditions")
    var logProb = [Double](repeating: 0, count: part.count)
    var change = [Double](repeating: 0, count: part.count)
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
          try network.setContexts(parameters: parameters, sigmas: $0, conditions: conditions.base)
        }
      }
      let first = Int32(truncatingIfNeeded: k % span * used.count)
      try local.map { $0 &+ first }.withUnsafeBufferPointer {
        try network.forward(
          parameters: parameters, latents: at(k), contextOfRow: $0, velocity: velocity.base)
      }
      try sampler.step(
        k, latents: view(at(k)), velocity: view(velocity.base), seed: seed, sampleIDPointer: sampleIDs,
        next: view(at(k + 1)), logProb: &logProb, relativeL1: &change)
      if k == sampler.trainedSteps { break }
      for (i, sample) in part.enumerated() {
        logProbs?[sample &* sampler.trainedSteps &+ k] = logProb[i]
        relativeL1?[sample &* sampler.trainedSteps &+ k] = change[i]
      }
    }
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
    let rows = min(batch, boundedRows(shape))
    let roller = Roller(
      network: try VelocityNetwork(
        shape, maxRows: rows, maxContexts: max(rows, min(sampler.steps, 512)), training: false),
      parameters: parameters(weights), sampler: sampler, prompts: Prompts(conditions, size: shape.conditionSize),
      seed: seed)
    try roller.run(
      batch: batch, promptOfSample: { $0 }, sampleID: { UInt64($0) }, initialID: { UInt64($0) }, latents: { _ in base },
      logProbs: nil, relativeL1: nil)
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
    let maxRows = min(batch, boundedRows(shape))
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
