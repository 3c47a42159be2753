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
///   - selection: (B, K), which chunks of which sample to train; nil = all.
public func chunkLoss(
  new: [Double], old: [Double], advantages: [Double], plan: ChunkPlan, clip: ClipRange = .gcpo, kl: Double = 0,
  selection: [[Bool]]? = nil
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
  let (batch, steps, count, ranges) = (advantages.count, plan.steps, plan.count, plan.ranges)
  try options.check()
  try check(new: new, old: old, advantages: advantages, plan: plan, options)
  let shares = try shares(batch: batch, ranges, options)

  var loss = 0.0
  var gradLogProbs = [Double](repeating: 0, count: batch * steps)
  var gradRatioBias = [Double](repeating: 0, count: options.ratioBias == nil ? 0 : batch * steps)
  var ratios: [Double] = []
  ratios.reserveCapacity(batch * count)
  var moments = RatioMoments()
  let chunk = ChunkContext(new: new, old: old, steps: steps, options)
  for i in 0..<batch {
    for (j, range) in ranges.enumerated() {
      chunk.move(to: i * steps + range.lowerBound..<i * steps + range.upperBound, advantage: advantages[i])
      if chunk.present == 0 {
        ratios.append(1)
        continue
      }
      let moved = chunk.mean { chunk.logRatios[$0] }
      func requireFinite(_ value: Double, _ what: String) throws {
        if value.isFinite { return }
        throw ChunkGRPOError.nonFinite(
          "\(what) of sample \(i), chunk \(j) is out of range: its log-probability moved by \(moved)")
      }
      chunk.ratio = exp(moved)
      try requireFinite(chunk.ratio, "importance ratio")
      ratios.append(chunk.ratio)
      let share = shares[i * count + j]
      if share == 0 { continue }
      let kl = KLTerm(chunk)
      try requireFinite(kl.value, "KL estimate")
      let policy = options.surrogate.term(chunk)
      let weight = options.weight(i, j, count)
      loss += share * (weight * policy.value + options.kl * kl.value)
      moments.add(ratio: chunk.ratio, kl: kl.value, clipped: policy.clipped)
      // A mean gives each of its steps 1/|C|, and a step's log ratio has scale_t in ℓ_new and in the bias.
      let n = Double(chunk.present)
      for index in chunk.indices where options.isPresent(index) {
        let scale = options.ratioScale?[index - i * steps] ?? 1
        let slope = weight * policy.slope(ofStep: chunk.logRatios[index]) * scale
        gradLogProbs[index] = share * (slope + options.kl * kl.slope(ofStep: chunk.delta(index))) / n
        if options.ratioBias != nil { gradRatioBias[index] = share * slope / n }
      }
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
    o.selection?.contains { $0.contains(true) } ?? true, "selection: no chunk of any sample is selected")
  var shares = [Double](repeating: 0, count: batch * count)
  var total = 0.0
  for i in 0..<batch {
    var own = 0.0
    for (j, range) in ranges.enumerated() where o.selection?[i][j] ?? true {
      let present = o.present(i * steps + range.lowerBound..<i * steps + range.upperBound)
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
    // Steps that a mask leaves out may be anything: padding.
    if let i = values.indices.first(where: { !values[$0].isFinite && o.mask?[$0] ?? true }) {
      throw ChunkGRPOError.nonFinite("\(name) of sample \(i / steps) at step \(i % steps) is \(values[i])")
    }
  }
  if let divergence = o.divergence,
    let i = divergence.indices.first(where: { divergence[$0] < 0 && o.mask?[$0] ?? true })
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
  if let selection = o.selection {
    try require(
      selection.count == batch && selection.allSatisfy { $0.count == count },
      "selection has \(selection.reduce(0) { $0 + $1.count }) entries for \(batch) samples of \(count) chunks")
  }
  if let weights = o.weights {
    try require(
      weights.count == count || weights.count == batch * count,
      "weights has \(weights.count) numbers for \(count) chunks, or \(batch) samples of \(count) chunks")
    if let j = weights.firstIndex(where: { !($0 >= 0 && $0.isFinite) }) {
      throw ChunkGRPOError.invalidArgument("weights[\(j)] = \(weights[j]) must be at least 0 and finite")
    }
  }
}
