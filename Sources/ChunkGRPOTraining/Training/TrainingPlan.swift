import ChunkGRPO

/// The objects that a trainer's options stand for.
struct TrainingPlan {
  let shape: NetworkShape
  let sampler: Sampler
  let chunks: ChunkPlan
  let clip: ClipRange

  /// - Throws: `.invalidArgument` names the option.
  init(_ o: TrainerOptions) throws {
    shape = try NetworkShape(
      latentSize: o.latentSize, conditionSize: o.conditionSize, width: o.width, blocks: o.blocks,
      embeddingSize: o.embeddingSize)
    try o.check()
    sampler = try Sampler(
      .shifted(steps: o.steps, shift: o.shift), dynamics: o.dynamics, eta: o.eta, lastStep: .ode, threads: o.threads)
    let trained = o.steps - 1
    if let sizes = o.chunkSizes {
      chunks = try ChunkPlan(count: sizes.count) { sizes[$0] }
      try require(
        chunks.steps == trained,
        "chunk_sizes sum to \(chunks.steps), but \(o.steps) steps have \(trained) trained ones: all but the last")
    } else {
      chunks = try o.steps == 17 ? ChunkPlan([2, 3, 4, 7]) : .fixed(steps: trained, size: min(4, trained))
    }
    try require(
      Double(chunks.count) * o.chunkFraction + 1e-9 >= 1,
      "chunk_fraction = \(o.chunkFraction) of \(chunks.count) chunks is none: "
        + "at least \(1 / Double(chunks.count)) trains one")
    if let weights = o.chunkWeights {
      try require(
        weights.count == chunks.count,
        "chunk_weights has \(weights.count) numbers for \(chunks.count) chunks: give one for each")
      if let j = weights.firstIndex(where: { !($0 >= 0 && $0.isFinite) }) {
        throw ChunkGRPOError.invalidArgument("chunk_weights[\(j)] = \(weights[j]) must be at least 0 and finite")
      }
    }
    clip = ClipRange(low: o.clipLow, high: o.clipHigh)
  }
}
