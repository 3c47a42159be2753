import ChunkGRPO

extension ChunkGRPOTrainer {
  /// Images (B, D) for conditions (B, C), by the trainer's schedule.
  ///
  /// - Parameters:
  ///   - eta: ≥ 0; 0 is the ODE, nil the trainer's.
  ///   - seed: seed of the noise; image i has that of id i.
  public func sample(
    conditions: [Float], parameters: Parameters = .averaged, eta: Double? = nil, seed: UInt64
  ) throws -> [Float] {
    let rows = conditions.count / plan.shape.conditionSize
    var images = [Float](repeating: 0, count: try checkedProduct([rows, plan.shape.latentSize], "images"))
    try images.withUnsafeMutableBufferPointer { images in
      try conditions.withUnsafeBufferPointer {
        try sample(conditions: $0, parameters: parameters, eta: eta, seed: seed, into: images)
      }
    }
    return images
  }

  /// The same on borrowed memory.
  package func sample(
    conditions: UnsafeBufferPointer<Float>, parameters: Parameters, eta: Double?, seed: UInt64,
    into images: UnsafeMutableBufferPointer<Float>
  ) throws {
    let shape = plan.shape
    let batch = try rows("conditions", conditions, of: shape.conditionSize)
    try requireCount("images", images.count, rows: batch, of: shape.latentSize)
    guard let base = images.baseAddress else { return }
    let sampler = try Sampler(
      plan.sampler.schedule, dynamics: options.dynamics, eta: eta ?? options.eta, lastStep: .ode,
      threads: options.threads)
    let lanes = laneCount(batch, shape)
    let rows = min((batch + lanes - 1) / lanes, boundedRows(shape, lanes: lanes))
    let values = values(parameters)
    let transposed =
      try Float.kernels.hasProduct ? Buffer<Float>(count: parameterCount, for: "transposed weights") : nil
    if let transposed { shape.transpose(values, into: transposed.base, threads: sampler.threads) }
    defer { withExtendedLifetime(transposed) {} }
    let roller = Roller(
      networks: try (0..<lanes).map { _ in
        try VelocityNetwork(shape, maxRows: rows, maxContexts: max(rows, min(sampler.steps, 512)), training: false)
      },
      parameters: NetworkParameters(values, transposed: transposed.map { UnsafePointer($0.base) }), sampler: sampler,
      prompts: try Prompts(conditions, size: shape.conditionSize), seed: seed,
      samples: RolloutSamples(
        perPrompt: 1, perInitialNoise: 1, deal: Deal(alone: batch), firstID: 0, latents: base, stepStride: 0))
    try roller.run(0..<batch)
  }

  /// The network alone: velocity (B, D) at latents (B, D), σ in [0, 1] and conditions (B, C).
  ///
  /// - Throws: `.nonFinite` names the row whose velocity overflows.
  public func velocity(
    parameters: Parameters = .averaged, latents: [Float], sigma: Double, conditions: [Float]
  ) throws -> [Float] {
    var velocity = [Float](repeating: 0, count: latents.count)
    try velocity.withUnsafeMutableBufferPointer { velocity in
      try latents.withUnsafeBufferPointer { latents in
        try conditions.withUnsafeBufferPointer {
          try self.velocity(parameters: parameters, latents: latents, sigma: sigma, conditions: $0, into: velocity)
        }
      }
    }
    return velocity
  }

  /// The same on borrowed memory.
  package func velocity(
    parameters: Parameters, latents: UnsafeBufferPointer<Float>, sigma: Double,
    conditions: UnsafeBufferPointer<Float>, into velocity: UnsafeMutableBufferPointer<Float>
  ) throws {
    let shape = plan.shape
    let batch = try rows("latents", latents, of: shape.latentSize)
    let conditionRows = try rows("conditions", conditions, of: shape.conditionSize)
    try require(conditionRows == batch, "conditions has \(conditionRows) rows for \(batch) latents")
    try requireCount("velocity", velocity.count, rows: batch, of: shape.latentSize)
    try require(sigma >= 0 && sigma <= 1, "sigma = \(sigma) is outside [0, 1]")
    guard let x = latents.baseAddress, let v = velocity.baseAddress else { return }
    let prompts = try Prompts(conditions, size: shape.conditionSize)
    let parameters = NetworkParameters(values(parameters))
    let maxRows = min(batch, boundedRows(shape, lanes: 1))
    let network = try VelocityNetwork<Float>(shape, maxRows: maxRows, maxContexts: maxRows, training: false)
    let distinct = try Buffer<Float>(
      count: checkedProduct([maxRows, shape.conditionSize], "conditions"), for: "conditions")
    let sigmas = try Buffer<Double>(count: maxRows, for: "the sigmas of \(maxRows) rows")
    sigmas.values.update(repeating: sigma)
    for start in stride(from: 0, to: batch, by: maxRows) {
      let rows = start..<min(batch, start + maxRows)
      let contexts = try Numbering(count: rows.count, for: "the contexts of \(rows.count) rows") {
        prompts.index[start + $0]
      }
      for (number, row) in contexts.firsts.enumerated() {
        prompts.copy(prompts.index[start + Int(row)], to: distinct.base + number &* shape.conditionSize)
      }
      try network.setContexts(
        parameters, sigmas: Numbers(sigmas, count: contexts.firsts.count), conditions: distinct.base)
      try network.forward(
        parameters, latents: x + start &* shape.latentSize, contextOfRow: contexts.numbers,
        velocity: v + start &* shape.latentSize)
    }
    if let i = velocity.firstIndex(where: { !$0.isFinite }) {
      throw ChunkGRPOError.nonFinite(
        "the velocity of row \(i / shape.latentSize) is \(velocity[i]) at \(i % shape.latentSize): its latents or "
          + "condition are too large")
    }
  }

  private func requireCount(_ name: String, _ count: Int, rows: Int, of size: Int) throws {
    let (needed, overflow) = rows.multipliedReportingOverflow(by: size)
    try require(!overflow && count == needed, "\(name) has room for \(count) numbers instead of \(rows) × \(size)")
  }
}
