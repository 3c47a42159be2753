internal import Platform

public struct ChunkLoss: Sendable {
  /// With its KL term; its size says little about progress.
  public let loss: Double
  /// (B, S): ∂loss/∂new log-probabilities.
  public let gradLogProbs: [Double]
  /// (B, S): ∂loss/∂ratio bias; empty without one.
  public let gradRatioBias: [Double]
  /// (B, K), of all chunks, selected or not; 1 for a chunk without a step, or that is not selected and has no ratio. Never
  /// clipped, but the largest number where a ratio is larger than any.
  public let ratios: [Double]
  /// Over the selected chunks that have a step.
  public let stats: ChunkStats
}

/// The chunk objective of Chunk-GRPO (arXiv 2510.21583) with the clipped surrogate and k3: see the same function with
/// options.
///
/// - Parameters:
///   - new, old: log-probabilities, (B, S).
///   - advantages: (B), of either sign.
///   - kl: β ≥ 0.
///   - selection: (B, K), which chunks of which sample to train; nil = all.
public func chunkLoss(
  new: [Double], old: [Double], advantages: [Double], plan: ChunkPlan, clip: ClipRange = .gcpo, kl: Double = 0,
  selection: [[Bool]]? = nil
) throws -> ChunkLoss {
  try chunkLoss(
    new: new, old: old, advantages: advantages, plan: plan,
    options: ChunkLossOptions {
      ($0.clip, $0.kl) = (clip, kl)
      $0.selection = selection.map { Flags(rows: $0) }
    })
}

/// The chunk objective, by default that of Chunk-GRPO (arXiv 2510.21583):
///
///     r_t  = scale_t·(ℓ_t^new − ℓ_t^old + bias_t)          the log ratio of a step
///     ρ_j  = exp(mean of r_t over the steps of chunk j)     the geometric mean of its step ratios
///     loss = mean over the selected (sample, chunk) of w_j·surrogate(ρ_j, A) + β·KL_j
///
/// - Parameters:
///   - new, old: log-probabilities, (B, S): of sampling steps, tokens, actions or frames.
///   - advantages: (B), (B, K) or (B, S) by `advantageLevel`, of either sign. Those of chunks that are not selected, and of
///     steps that are absent, are not read.
public func chunkLoss(
  new: [Double], old: [Double], advantages: [Double], plan: ChunkPlan, options: ChunkLossOptions
) throws -> ChunkLoss {
  let batch = try options.advantageLevel.batch(advantages.count, plan)
  let size = try checkedProduct([batch, plan.steps], "log-probabilities")
  var grad = [Double](repeating: 0, count: size)
  var gradBias = [Double](repeating: 0, count: options.ratioBias == nil ? 0 : size)
  var ratios = [Double](repeating: 0, count: try checkedProduct([batch, plan.count], "ratios"))
  let (loss, stats) = try new.withUnsafeBufferPointer { new in
    try old.withUnsafeBufferPointer { old in
      try grad.withUnsafeMutableBufferPointer { grad in
        try gradBias.withUnsafeMutableBufferPointer { gradBias in
          try ratios.withUnsafeMutableBufferPointer { ratios in
            try chunkLoss(
              new: Numbers(borrowing: new), old: Numbers(borrowing: old), advantages: Numbers(advantages), plan: plan,
              options: options,
              to: ChunkLossOutput(
                gradLogProbs: grad.baseAddress, gradRatioBias: options.ratioBias == nil ? nil : gradBias.baseAddress,
                ratios: ratios.baseAddress))
          }
        }
      }
    }
  }
  return ChunkLoss(loss: loss, gradLogProbs: grad, gradRatioBias: gradBias, ratios: ratios, stats: stats)
}

/// Where a loss is written, as `ChunkLoss` describes; nil = nowhere.
package struct ChunkLossOutput {
  let gradLogProbs, gradRatioBias, ratios: UnsafeMutablePointer<Double>?

  package init(
    gradLogProbs: UnsafeMutablePointer<Double>?, gradRatioBias: UnsafeMutablePointer<Double>?,
    ratios: UnsafeMutablePointer<Double>?
  ) {
    (self.gradLogProbs, self.gradRatioBias, self.ratios) = (gradLogProbs, gradRatioBias, ratios)
  }

  fileprivate func clear(_ indices: Range<Int>) {
    for index in indices {
      gradLogProbs?[index] = 0
      gradRatioBias?[index] = 0
    }
  }
}

/// The same with memory of the caller.
package func chunkLoss(
  new: Numbers<Double>, old: Numbers<Double>, advantages: Numbers<Double>, plan: ChunkPlan, options: ChunkLossOptions,
  to output: ChunkLossOutput
) throws -> (loss: Double, stats: ChunkStats) {
  try options.check()
  let (batch, count) = (try options.advantageLevel.batch(advantages.count, plan), plan.count)
  try check(batch: batch, new: new, old: old, advantages: advantages, plan: plan, options)
  var chunk = try ChunkContext(new: new, old: old, advantages: advantages, plan, options)
  let shares = try Shares(batch: batch, plan, chunk, options)
  let memory = try output.ratios == nil ? Buffer<Double>(count: batch * count, for: "importance ratios") : nil
  defer { withExtendedLifetime(memory) {} }
  guard let ratios = output.ratios ?? memory?.base else { return (0, ChunkStats()) }
  var moments = RatioMoments()
  var loss = 0.0
  for i in 0..<batch {
    let own = options.average == .sample ? shares.ofSample(i) : 1
    for j in 0..<count {
      chunk.move(to: plan.range(j), ofSample: i)
      if chunk.present == 0 {
        ratios[i * count + j] = 1
        output.clear(chunk.indices)
        continue
      }
      chunk.measure()
      if !shares.isSelected(i, j) {
        // Its log-probabilities may be anything.
        ratios[i * count + j] = chunk.moved.isFinite ? chunk.ratio : 1
        output.clear(chunk.indices)
        continue
      }
      ratios[i * count + j] = chunk.ratio
      try chunk.take(advantageOf: i, j)
      let beta = options.kl * (options.klWeights?[i] ?? 1)
      let terms = Terms(
        chunk, options, beta: beta, weight: shares.weight(i, j), share: shares.share(chunk.present, own: own))
      if terms.policy.overflows || chunk.moved.isNaN { throw outOfRange(chunk, "importance ratio", i, j) }
      if beta > 0 && !terms.kl.value.isFinite { throw outOfRange(chunk, "KL estimate", i, j) }
      guard terms.write(chunk, output) && terms.loss.isFinite else { throw outOfRange(chunk, "loss", i, j) }
      loss += terms.loss
      moments.add(ratio: chunk.ratio, logRatio: chunk.moved, kl: terms.kl.value, clipped: terms.policy.clipped)
    }
  }
  guard loss.isFinite else {
    throw ChunkGRPOError.nonFinite("the loss is \(loss): log-probabilities or advantages are too far apart")
  }
  let stats = moments.stats { value in
    var sum = 0.0
    for i in 0..<batch {
      for j in 0..<count where shares.isTrained(i, j) { sum += value(ratios[i * count + j]) }
    }
    return sum
  }
  return (loss, stats)
}

// MARK: - Parts

/// The terms of one chunk.
private struct Terms {
  let policy: PolicyTerm
  let kl: KLTerm
  let weight, share, beta: Double

  init(_ chunk: ChunkContext, _ options: ChunkLossOptions, beta: Double, weight: Double, share: Double) {
    policy = options.surrogate.term(chunk, options)
    kl = KLTerm(chunk, options.klEstimator, options.klLevel)
    (self.weight, self.share, self.beta) = (weight, share, beta)
  }

  /// Of the chunk. Without a weight, the KL estimate is a statistic, and may be anything.
  var loss: Double { share * (weight * policy.value + (beta == 0 ? 0 : beta * kl.value)) }

  /// Whether all that is written is finite. A mean gives each of its steps 1/|C|, and a step's log ratio has scale_t in
  /// ℓ_new and in the bias.
  func write(_ chunk: ChunkContext, _ output: ChunkLossOutput) -> Bool {
    let n = Double(chunk.present)
    var isFinite = true
    for index in chunk.indices {
      var (ofLogProb, ofBias) = (0.0, 0.0)
      if chunk.isPresent(index) {
        let slope = weight * policy.slope(ofStep: chunk.logRatio(index)) * chunk.scale(index)
        ofBias = share * slope / n
        ofLogProb = beta == 0 ? ofBias : share * (slope + beta * kl.slope(ofStep: chunk.delta(index))) / n
        isFinite = isFinite && ofLogProb.isFinite && ofBias.isFinite
      }
      output.gradLogProbs?[index] = ofLogProb
      output.gradRatioBias?[index] = ofBias
    }
    return isFinite
  }
}

/// How much each (sample, chunk) counts in the loss.
private struct Shares {
  private let plan: ChunkPlan
  private let chunk: ChunkContext
  private let average: LossAverage
  private let selection: UnsafePointer<UInt8>?
  private let weights: UnsafePointer<Double>?
  private let weightRow: Int
  /// Nothing is left out.
  private let isWhole: Bool
  private var factor = 1.0

  init(batch: Int, _ plan: ChunkPlan, _ chunk: ChunkContext, _ o: ChunkLossOptions) throws {
    (self.plan, self.chunk, average) = (plan, chunk, o.average)
    selection = o.selection?.pointer
    weights = o.weights?.pointer
    weightRow = o.weights?.count == plan.count ? 0 : plan.count
    isWhole = o.selection == nil && o.mask == nil
    var total = 0.0
    for i in 0..<batch {
      let own = ofSample(i)
      total += average == .sample && own > 0 ? 1 : own
    }
    try require(total > 0, "mask: no selected chunk of any sample has a step that is present")
    factor = 1 / (o.normaliser ?? total)
  }

  func weight(_ i: Int, _ j: Int) -> Double { weights?[i * weightRow + j] ?? 1 }

  func isSelected(_ i: Int, _ j: Int) -> Bool { selection.map { $0[i * plan.count + j] != 0 } ?? true }

  func isTrained(_ i: Int, _ j: Int) -> Bool { isWhole || isSelected(i, j) && present(i, j) > 0 }

  /// Of one trained chunk; `own` is that of its sample where the average is over samples.
  func share(_ present: Int, own: Double) -> Double { (average == .step ? Double(present) : 1) / own * factor }

  /// The chunks or steps of a sample that count.
  func ofSample(_ i: Int) -> Double {
    if isWhole { return Double(average == .step ? plan.steps : plan.count) }
    var sum = 0
    for j in 0..<plan.count where isTrained(i, j) { sum += average == .step ? present(i, j) : 1 }
    return Double(sum)
  }

  private func present(_ i: Int, _ j: Int) -> Int {
    let range = plan.range(j)
    return chunk.present(i * plan.steps + range.lowerBound..<i * plan.steps + range.upperBound)
  }
}

private func outOfRange(_ chunk: ChunkContext, _ what: String, _ i: Int, _ j: Int) -> ChunkGRPOError {
  .nonFinite("\(what) of sample \(i), chunk \(j) is out of range: its log-probability moved by \(chunk.moved)")
}
