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
  public var weights: Numbers<Double>?
  /// How weights become chances.
  public var weighting = ChunkWeighting.normalised
  /// These chunks in every sample, instead of a draw.
  public var fixed: Numbers<Int>?
  /// Of the draw: another one in each iteration.
  public var seed: UInt64 = 0
  /// B of them; nil = 0 … B − 1.
  public var sampleIDs: Numbers<UInt64>?

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
  let size = try checkSelectionSize(batch: batch, count: count)
  var selection = [UInt8](repeating: 0, count: size)
  try selectChunks(batch: batch, count: count, options, into: &selection)
  return stride(from: 0, to: size, by: count).map { row in selection[row..<row + count].map { $0 != 0 } }
}

/// The same as bytes, 1 or 0.
package func selectChunks(
  batch: Int, count: Int, _ options: ChunkSelectionOptions, into selection: UnsafeMutablePointer<UInt8>
) throws {
  let (fraction, weights, sampleIDs) = (options.fraction, options.weights, options.sampleIDs)
  if let fixed = options.fixed {
    try require(fraction == 1 && weights == nil, "fixed chunks exclude a fraction below 1 and weights")
    return try selectChunks(batch: batch, count: count, fixed: fixed, into: selection)
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
  if chosen == count && weights == nil { return selection.update(repeating: 1, count: size) }

  let race = try Race(count: count)
  // Its memory is reached through pointers only.
  defer { withExtendedLifetime(race) {} }
  for i in 0..<batch {
    try race.run(options, sample: i, sampleID: sampleIDs?[i] ?? UInt64(i), chosen: chosen)
    let row = selection + i * count
    row.update(repeating: 0, count: count)
    for place in 0..<chosen { row[race.order[place].index] = 1 }
  }
}

/// Exponential races, in logarithms: the chunks with the smallest ln(E/p) are a weighted draw without replacement.
private struct Race {
  /// The chunks that take part, those to draw before the others.
  let order: Buffer<Placed<Double>>
  private let scratch: Buffer<Placed<Double>>
  private let draws: Buffer<Double>

  init(count: Int) throws {
    order = try Buffer(count: count, for: "a selection of chunks")
    scratch = try Buffer(count: count, for: "a selection of chunks")
    draws = try Buffer(count: count, for: "a selection of chunks")
  }

  func run(_ options: ChunkSelectionOptions, sample: Int, sampleID: UInt64, chosen: Int) throws {
    let count = draws.count
    uniforms(
      seed: options.seed, sampleID: sampleID, step: ReservedStep.chunkSelection.rawValue, into: draws.values)
    var runners = 0
    for j in 0..<count {
      var finish = log(-log(draws[j]))
      if let weights = options.weights {
        let p = try logProbability(weights[sample * count + j], options.weighting, sample: sample, chunk: j)
        if p == -.infinity { continue }
        finish -= p
      }
      order[runners] = Placed(key: finish, index: j)
      runners += 1
    }
    try require(
      runners >= chosen, "weights of sample \(sample): fewer than the \(chosen) chunks to draw have a positive weight")
    // Of equal ones the first finishes first. A sort of few keeps their order.
    if runners <= 64 { return sort(order.base, count: runners, scratch: scratch.base) { $0.key < $1.key } }
    bringSmallest(chosen, of: order.base, count: runners, scratch: scratch.base) {
      $0.key == $1.key ? $0.index < $1.index : $0.key < $1.key
    }
  }
}

/// The chunks `fixed` of every sample.
private func selectChunks(
  batch: Int, count: Int, fixed: Numbers<Int>, into selection: UnsafeMutablePointer<UInt8>
) throws {
  _ = try checkSelectionSize(batch: batch, count: count)
  try require(!fixed.isEmpty, "fixed chunks: at least one is to be trained")
  selection.update(repeating: 0, count: count)
  for j in fixed {
    try require((0..<count).contains(j), "fixed chunks: \(j) is outside 0 … \(count - 1)")
    try require(selection[j] == 0, "fixed chunks: \(j) is named twice")
    selection[j] = 1
  }
  for i in stride(from: 1, to: batch, by: 1) { (selection + i * count).update(from: selection, count: count) }
}

private func checkSelectionSize(batch: Int, count: Int) throws -> Int {
  try require(batch >= 1, "batch = \(batch) must be at least 1")
  try require((1...Schedule.maxSteps).contains(count), "chunk_count = \(count) is outside 1 … \(Schedule.maxSteps)")
  let (size, overflow) = batch.multipliedReportingOverflow(by: count)
  try require(!overflow && size <= 1 << 31, "batch = \(batch) × \(count) chunks is more than 2^31")
  return size
}

/// Up to a common term, which a race does not need.
private func logProbability(_ weight: Double, _ weighting: ChunkWeighting, sample: Int, chunk: Int) throws -> Double {
  guard weight.isFinite else {
    throw ChunkGRPOError.nonFinite("weights of sample \(sample), chunk \(chunk) is \(weight)")
  }
  if weighting == .softmax { return weight }
  try require(weight >= 0, "weights of sample \(sample), chunk \(chunk) is \(weight), but must be at least 0")
  return log(weight)
}
