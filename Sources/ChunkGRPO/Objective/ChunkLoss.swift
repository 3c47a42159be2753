internal import Platform

public struct ChunkLoss: Sendable {
  public let loss: Double
  /// (B, S): ∂loss/∂new log-probabilities.
  public let gradLogProbs: [Double]
  /// (B, S): ∂loss/∂ratio bias; empty without one.
  public let gradRatioBias: [Double]
  /// (B, K), of all chunks, selected or not; 1 for a chunk without a step. Never clipped.
  public let ratios: [Double]
  public let stats: ChunkStats
}

/// The chunk objective of Chunk-GRPO (arXiv 2510.21583) with the clipped surrogate and k3: see the same function with
/// options.
///
/// - Parameters:
///   - new, old: log-probabilities, (B, S).
///   - advantages: (B).
///   - kl: β ≥ 0.
///   - selection: (B, K), non-zero = train; nil = all.
public func chunkLoss(
  new: [Double], old: [Double], advantages: [Double], plan: ChunkPlan, clip: ClipRange = .gcpo, kl: Double = 0,
  selection: [UInt8]? = nil
) throws -> ChunkLoss {
  try chunkLoss(
    new: new, old: old, advantages: advantages, plan: plan,
    options: ChunkLossOptions { ($0.clip, $0.kl, $0.selection) = (clip, kl, selection) })
}

/// The chunk objective, by default that of Chunk-GRPO (arXiv 2510.21583):
///
///     r_t  = scale_t·(ℓ_t^new − ℓ_t^old + bias_t)          the log ratio of a step
///     ρ_j  = exp(mean of r_t over the steps of chunk j)     the geometric mean of its step ratios
///     loss = mean over the selected (sample, chunk) of w_j·surrogate(ρ_j, A) + β·KL_j
///
/// - Parameters:
///   - new, old: log-probabilities, (B, S): of sampling steps, tokens, actions or frames.
///   - advantages: (B).
public func chunkLoss(
  new: [Double], old: [Double], advantages: [Double], plan: ChunkPlan, options: ChunkLossOptions
) throws -> ChunkLoss {
  let batch = advantages.count
  let (steps, count, ranges) = (plan.steps, plan.count, plan.ranges)
  try options.check()
  try check(new: new, old: old, advantages: advantages, plan: plan, options)
  let shares = try shares(batch: batch, ranges, options)

  var loss = 0.0
  var gradLogProbs = [Double](repeating: 0, count: batch * steps)
  var gradRatioBias = [Double](repeating: 0, count: options.ratioBias == nil ? 0 : batch * steps)
  var ratios: [Double] = []
  ratios.reserveCapacity(batch * count)
  var moments = RatioMoments()
  for i in 0..<batch {
    let advantage = advantages[i]
    for (j, range) in ranges.enumerated() {
      let row = i * steps
      let present = options.present(row, range)
      let n = Double(present)
      if present == 0 {
        ratios.append(1)
        continue
      }
      func mean(_ value: (Int) -> Double) -> Double {
        range.reduce(0) { options.isPresent(row + $1) ? $0 + value($1) : $0 } / n
      }
      func logRatio(_ t: Int) -> Double { options.logRatio(new[row + t] - old[row + t], row, t) }

      let moved = mean(logRatio)
      let ratio = exp(moved)
      let reference = options.reference ?? old
      // The KL estimate is of the policies themselves: without scale and bias.
      func delta(_ t: Int) -> Double { reference[row + t] - new[row + t] }
      guard ratio.isFinite else {
        throw ChunkGRPOError.nonFinite(
          "importance ratio of sample \(i), chunk \(j) is out of range: its log-probability moved by \(moved)")
      }
      ratios.append(ratio)
      let share = shares[i * count + j]
      if share == 0 { continue }
      let ofChunk = options.klEstimator(mean(delta))
      let kl = options.klLevel == .chunk ? ofChunk.value : mean { options.klEstimator(delta($0)).value }
      guard kl.isFinite else {
        throw ChunkGRPOError.nonFinite(
          "KL estimate of sample \(i), chunk \(j) is out of range: its log-probability moved by \(moved)")
      }

      let logClips = options.surrogate == .logClipped
      func isClipped(_ t: Int) -> Bool { logClip(logRatio(t), advantage, options.clip) != logRatio(t) }
      let term = options.policyTerm(
        ratio: logClips ? exp(mean { logClip(logRatio($0), advantage, options.clip) }) : ratio, advantage: advantage,
        newLogProb: options.surrogate == .cispo ? mean { new[row + $0] } : 0,
        divergence: options.divergence.map { divergence in mean { divergence[row + $0] } } ?? 0)
      let weight = options.weight(i, j, count)
      loss += share * (weight * term.value + options.kl * kl)

      // A mean gives each of its steps 1/|C|, and a step's log ratio has scale_t in ℓ_new and in the bias.
      var clipped = term.clipped
      for t in range where options.isPresent(row + t) {
        var slope = weight * term.slope * (options.ratioScale?[t] ?? 1)
        if logClips && isClipped(t) {
          slope = 0
          if advantage != 0 { clipped = advantage > 0 ? .high : .low }
        }
        let klSlope = options.klLevel == .chunk ? ofChunk.slope : options.klEstimator(delta(t)).slope
        gradLogProbs[row + t] = share * (slope + options.kl * klSlope) / n
        if options.ratioBias != nil { gradRatioBias[row + t] = share * slope / n }
      }
      moments.add(ratio: ratio, kl: kl, clipped: clipped)
    }
  }
  guard loss.isFinite && gradLogProbs.allSatisfy({ $0.isFinite }) else {
    throw ChunkGRPOError.nonFinite("the loss is \(loss): log-probabilities or advantages are too far apart")
  }
  return ChunkLoss(
    loss: loss, gradLogProbs: gradLogProbs, gradRatioBias: gradRatioBias, ratios: ratios, stats: moments.stats)
}

// MARK: - Parts

extension ChunkLossOptions {
  /// Index into (B, S).
  fileprivate func isPresent(_ index: Int) -> Bool { mask.map { $0[index] != 0 } ?? true }

  fileprivate func present(_ row: Int, _ range: Range<Int>) -> Int {
    mask == nil ? range.count : range.count { isPresent(row + $0) }
  }

  /// scale·(difference + bias)
  fileprivate func logRatio(_ difference: Double, _ row: Int, _ t: Int) -> Double {
    (ratioScale?[t] ?? 1) * (difference + (ratioBias?[row + t] ?? 0))
  }

  fileprivate func weight(_ i: Int, _ j: Int, _ count: Int) -> Double {
    guard let weights else { return 1 }
    return weights.count == count ? weights[j] : weights[i * count + j]
  }
}

/// How much each (sample, chunk) counts in the loss, (B, K); 0 where it is not trained.
private func shares(batch: Int, _ ranges: [Range<Int>], _ o: ChunkLossOptions) throws -> [Double] {
  let count = ranges.count
  let steps = ranges.last?.upperBound ?? 0
  try require(
    o.selection?.contains { $0 != 0 } ?? true, "selection: no chunk of any sample is selected")
  var shares = [Double](repeating: 0, count: batch * count)
  var total = 0.0
  for i in 0..<batch {
    var own = 0.0
    for (j, range) in ranges.enumerated() where o.selection.map({ $0[i * count + j] != 0 }) ?? true {
      let present = o.present(i * steps, range)
      if present == 0 { continue }
      shares[i * count + j] = o.average == .step ? Double(present) : 1
      own += shares[i * count + j]
    }
    if o.average == .sample && own > 0 {
      for j in 0..<count { shares[i * count + j] /= own }
      own = 1
    }
    total += own
  }
  try require(total > 0, "mask: no selected chunk of any sample has a step that is present")
  return shares.map { $0 * (1 / (o.normaliser ?? total)) }
}

private func check(
  new: [Double], old: [Double], advantages: [Double], plan: ChunkPlan, _ o: ChunkLossOptions
) throws {
  let (batch, steps, count) = (advantages.count, plan.steps, plan.count)
  try require(batch >= 1, "advantages: there are none")
  let (size, overflow) = batch.multipliedReportingOverflow(by: steps)
  func checkSize(_ name: String, _ found: Int) throws {
    try require(
      !overflow && found == size,
      "\(name) has \(found) numbers, but \(batch) samples of \(steps) steps, the sum of the chunk sizes, have \(batch) × \(steps)"
    )
  }
  if let mask = o.mask { try checkSize("mask", mask.count) }
  for (name, values) in [
    ("new_log_probs", new), ("old_log_probs", old), ("reference_log_probs", o.reference), ("ratio_bias", o.ratioBias),
    ("divergence", o.divergence),
  ] {
    guard let values else { continue }
    try checkSize(name, values.count)
    // What a mask leaves out may be anything: padding.
    if let i = values.indices.first(where: { !values[$0].isFinite && (o.mask?[$0] ?? 1) != 0 }) {
      throw ChunkGRPOError.nonFinite("\(name) of sample \(i / steps) at step \(i % steps) is \(values[i])")
    }
  }
  if let divergence = o.divergence,
    let i = divergence.indices.first(where: { divergence[$0] < 0 && (o.mask?[$0] ?? 1) != 0 })
  {
    throw ChunkGRPOError.invalidArgument(
      "divergence of sample \(i / steps) at step \(i % steps) = \(divergence[i]) must be at least 0")
  }
  if let i = advantages.firstIndex(where: { !$0.isFinite }) {
    throw ChunkGRPOError.nonFinite("advantages[\(i)] = \(advantages[i]) is not finite")
  }
  if let scale = o.ratioScale {
    try require(scale.count == steps, "ratio_scale has \(scale.count) numbers for \(steps) steps")
    if let t = scale.firstIndex(where: { !($0 >= 0 && $0.isFinite) }) {
      throw ChunkGRPOError.invalidArgument("ratio_scale[\(t)] = \(scale[t]) must be at least 0 and finite")
    }
  }
  try require(
    o.selection == nil || o.selection?.count == batch * count,
    "selection has \(o.selection?.count ?? 0) entries for \(batch) samples of \(count) chunks")
  if let weights = o.weights {
    try require(
      weights.count == count || weights.count == batch * count,
      "weights has \(weights.count) numbers for \(count) chunks, or \(batch) samples of \(count) chunks")
    if let j = weights.firstIndex(where: { !($0 >= 0 && $0.isFinite) }) {
      throw ChunkGRPOError.invalidArgument("weights[\(j)] = \(weights[j]) must be at least 0 and finite")
    }
  }
}

private struct RatioMoments {
  private var ratios: [Double] = []
  private var kl = 0.0
  private var low = 0, high = 0

  mutating func add(ratio: Double, kl: Double, clipped: Clipped) {
    ratios.append(ratio)
    self.kl += kl
    if clipped == .low { low += 1 }
    if clipped == .high { high += 1 }
  }

  var stats: ChunkStats {
    let n = Double(ratios.count)
    let sum = ratios.reduce(0, +)
    let mean = sum / n
    var stats = ChunkStats()
    stats.selected = ratios.count
    stats.ratioMean = mean
    stats.ratioStd = (ratios.reduce(0) { $0 + ($1 - mean) * ($1 - mean) } / n).squareRoot()
    stats.ratioMin = ratios.min() ?? 0
    stats.ratioMax = ratios.max() ?? 0
    stats.clipFractionLow = Double(low) / n
    stats.clipFractionHigh = Double(high) / n
    stats.approximateKL = kl / n
    // Relative to the mean, so that small ratios do not underflow.
    stats.effectiveSampleSize = mean > 0 ? n / ratios.reduce(0) { $0 + ($1 / mean) * ($1 / mean) } : 0
    return stats
  }
}
