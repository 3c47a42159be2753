internal import Platform

/// How chunk weights become probabilities.
public enum ChunkWeighting: Int32, Sendable {
  /// p = w / Σw
  case normalised = 1
  /// p = exp w / Σ exp w
  case softmax = 2
}

/// Options of `selectChunks`.
public struct ChunkSelectionOptions: Options {
  /// Of the K chunks of each sample ⌊K·fraction⌋ are drawn, in (0, 1].
  public var fraction = 1.0
  /// (B, K): probabilities are made from these; nil = uniform.
  public var weights: [Double]?
  public var weighting = ChunkWeighting.normalised
  /// These chunks in every sample, instead of a draw.
  public var fixed: [Int]?
  public var seed: UInt64 = 0
  /// B of them; nil = 0 … B − 1.
  public var sampleIDs: [UInt64]?

  public init() {}
}

extension ChunkPlan {
  /// Which chunks of which sample to train: see `selectChunks`.
  public func select(batch: Int, _ options: ChunkSelectionOptions) throws -> [[Bool]] {
    try selectChunks(batch: batch, count: count, options)
  }
}

/// Which of `count` chunks of which sample to train, (B, K).
///
/// The fixed ones, or ⌊K·fraction⌋ of each sample, drawn without replacement: uniformly, or with probabilities from
/// `weights`. A function of (seed, sample id) alone: the same for any batch split.
public func selectChunks(batch: Int, count: Int, _ options: ChunkSelectionOptions) throws -> [[Bool]] {
  let (fraction, weights, sampleIDs) = (options.fraction, options.weights, options.sampleIDs)
  if let fixed = options.fixed {
    try require(fraction == 1 && weights == nil, "fixed chunks exclude a fraction below 1 and weights")
    return try selectChunks(batch: batch, count: count, fixed: fixed)
  }
  let size = try checkSelectionSize(batch: batch, count: count)
  try require(fraction > 0 && fraction <= 1, "fraction = \(fraction) is outside (0, 1]")
  // The small addition keeps 0.29 × 100 at 29.
  let chosen = Int(Double(count) * fraction + 1e-9)
  try require(
    chosen >= 1, "fraction = \(fraction) of \(count) chunks is none: at least \(1 / Double(count)) trains one")
  try require(
    weights == nil || weights?.count == size,
    "weights: \(weights?.count ?? 0) numbers for a batch of \(batch) with \(count) chunks")
  try checkSampleIDs(sampleIDs?.count, batch: batch)

  var selection = [[Bool]](repeating: Array(repeating: false, count: count), count: batch)
  for i in 0..<batch {
    // Exponential races, in logarithms: the chunks with the smallest ln(E/p) are a weighted draw without replacement.
    let draws = uniforms(
      seed: options.seed, sampleID: sampleIDs?[i] ?? UInt64(i), step: ReservedStep.chunkSelection.rawValue, count: count
    )
    var finish = draws.map { log(-log($0)) }
    var drawn = Array(0..<count)
    if let weights {
      let p = try logProbabilities(Array(weights[i * count..<(i + 1) * count]), weighting: options.weighting, sample: i)
      drawn = drawn.filter { p[$0] > -.infinity }
      try require(
        drawn.count >= chosen,
        "weights of sample \(i): fewer than the \(chosen) chunks to draw have a positive weight")
      for j in drawn { finish[j] -= p[j] }
    }
    for j in drawn.sorted(by: { finish[$0] < finish[$1] }).prefix(chosen) { selection[i][j] = true }
  }
  return selection
}

/// The chunks `fixed` of every sample.
private func selectChunks(batch: Int, count: Int, fixed: [Int]) throws -> [[Bool]] {
  _ = try checkSelectionSize(batch: batch, count: count)
  var row = [Bool](repeating: false, count: count)
  try require(!fixed.isEmpty, "fixed chunks: at least one is to be trained")
  for j in fixed {
    try require((0..<count).contains(j), "fixed chunks: \(j) is outside 0 … \(count - 1)")
    try require(!row[j], "fixed chunks: \(j) is named twice")
    row[j] = true
  }
  return Array(repeating: row, count: batch)
}

private func checkSelectionSize(batch: Int, count: Int) throws -> Int {
  try require(batch >= 1, "batch = \(batch) must be at least 1")
  try require((1...Schedule.maxSteps).contains(count), "chunk_count = \(count) is outside 1 … \(Schedule.maxSteps)")
  let (size, overflow) = batch.multipliedReportingOverflow(by: count)
  try require(!overflow && size <= 1 << 31, "batch = \(batch) × \(count) chunks is more than 2^31")
  return size
}

/// Up to a common term, which a race does not need.
private func logProbabilities(_ weights: [Double], weighting: ChunkWeighting, sample: Int) throws -> [Double] {
  for (j, w) in weights.enumerated() {
    guard w.isFinite else {
      throw ChunkGRPOError.nonFinite("weights of sample \(sample), chunk \(j) is \(w)")
    }
    try require(
      w >= 0 || weighting == .softmax, "weights of sample \(sample), chunk \(j) is \(w), but must be at least 0")
  }
  return weighting == .softmax ? weights : weights.map { log($0) }
}
