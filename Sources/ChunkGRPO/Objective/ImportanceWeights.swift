internal import Platform

/// What has one importance weight.
public enum ImportanceLevel: Int32, Sendable {
  /// Each step; a chunk's is the mean of those of its present steps (TRL's and verl's token level, with chunks of one step).
  case step = 1
  /// Each chunk.
  case chunk = 2
  /// Each sample (TRL's and verl's sequence level).
  case sample = 3
}

/// What becomes of a weight outside its bounds.
public enum ImportanceMode: Int32, Sendable {
  /// It is the bound (TRL's `token_truncate`, `sequence_truncate`; verl's truncated importance sampling).
  case truncate = 1
  /// It is 0 (TRL's `token_mask`, `sequence_mask`).
  case mask = 2
  /// It is 0, and those within are 1 (verl's rejection sampling by k1).
  case reject = 3
  /// 0 where k2 = ½δ² of the log ratios δ is above `high`, summed over the steps of the weight, or their mean with
  /// `isGeometric`; else 1 (verl's `token_k2`, `seq_sum_k2`, `seq_mean_k2`).
  case rejectK2 = 4
  /// The same for k3 = e^δ − 1 − δ (verl's `token_k3`, `seq_sum_k3`, `seq_mean_k3`).
  case rejectK3 = 5

  /// What is bounded instead of the ratio.
  fileprivate var estimator: KLEstimator? {
    switch self {
    case .truncate, .mask, .reject: nil
    case .rejectK2: .k2
    case .rejectK3: .k3
    }
  }
}

public struct ImportanceOptions: Options {
  /// Whether a weight is of a step, a chunk or a sample.
  public var level = ImportanceLevel.step
  /// What becomes of a weight outside its bounds.
  public var mode = ImportanceMode.truncate
  /// Bounds, 0 ≤ low ≤ high; 2 is verl's.
  public var low = 0.0, high = 2.0
  /// The geometric mean of the step ratios instead of their product, where one weight is of several steps: as a chunk's ratio
  /// in `chunkLoss`, and verl's `seq_mean`.
  public var isGeometric = false
  /// (B, S), false = the step is absent: it is not read. A chunk without a step has weight 1. nil = all are present.
  public var mask: Flags?

  public init() {}

  func check() throws {
    try require(low >= 0 && low.isFinite, "low = \(low) must be at least 0 and finite")
    try require(high > 0 && high >= low, "high = \(high) must be positive, and at least low = \(low)")
    try require(
      low == 0 || mode.estimator == nil, "low = \(low) is a bound of the ratio, and \(mode) has none below: leave it 0")
  }

  /// Of a ratio; of a divergence where the mode has an estimator.
  fileprivate func bounded(_ weight: Double) -> Double {
    switch mode {
    case .truncate: min(max(weight, low), high)
    case .mask: weight < low || weight > high ? 0 : weight
    // One that is no number stays none, and is refused.
    case .reject, .rejectK2, .rejectK3: weight.isNaN ? weight : weight < low || weight > high ? 0 : 1
    }
  }
}

/// Weights (B, K) of the policy terms for a rollout that another engine or precision has made: the ratio of the trainer's
/// own log-probabilities, which are the old ones of `chunkLoss`, to those of the engine.
///
///     w = exp(Σ (ℓ_t − ℓ_t^behaviour)), over a step, a chunk or a sample, within bounds
///
/// - Parameters:
///   - logProbs, behaviour: (B, S), of the trainer's policy before its first update, and of the engine.
public func importanceWeights(
  _ logProbs: [Double], behaviour: [Double], plan: ChunkPlan, _ options: ImportanceOptions = ImportanceOptions()
) throws -> [Double] {
  try require(
    !logProbs.isEmpty && logProbs.count % plan.steps == 0,
    "log_probs: \(logProbs.count) numbers are no rows of \(plan.steps), the steps of the plan")
  try require(
    behaviour.count == logProbs.count, "behaviour_log_probs has \(behaviour.count) numbers, log_probs \(logProbs.count)"
  )
  let batch = logProbs.count / plan.steps
  var weights = [Double](repeating: 0, count: batch * plan.count)
  try importanceWeights(
    Numbers(logProbs), behaviour: Numbers(behaviour), batch: batch, plan: plan, options, into: &weights)
  return weights
}

package func importanceWeights(
  _ logProbs: Numbers<Double>, behaviour: Numbers<Double>, batch: Int, plan: ChunkPlan, _ options: ImportanceOptions,
  into weights: UnsafeMutablePointer<Double>
) throws {
  try options.check()
  let (steps, count) = (plan.steps, plan.count)
  if let mask = options.mask {
    try require(mask.count == logProbs.count, "mask has \(mask.count) entries for \(logProbs.count) steps")
  }
  func isPresent(_ index: Int) -> Bool { options.mask?[index] ?? true }
  for (name, values) in [("log_probs", logProbs), ("behaviour_log_probs", behaviour)] {
    for i in 0..<values.count where !values[i].isFinite && isPresent(i) {
      throw ChunkGRPOError.nonFinite("\(name) of sample \(i / steps) at step \(i % steps) is \(values[i])")
    }
  }
  let estimator = options.mode.estimator
  func ratio(_ range: Range<Int>, ofSample i: Int) -> Double {
    var (sum, present) = (0.0, 0)
    for t in range where isPresent(i * steps + t) {
      let delta = logProbs[i * steps + t] - behaviour[i * steps + t]
      sum += estimator?(delta).value ?? delta
      present += 1
    }
    let whole = options.isGeometric && present > 0 ? sum / Double(present) : sum
    return estimator == nil ? exp(whole) : whole
  }
  func meanOfSteps(_ range: Range<Int>, ofSample i: Int) -> Double {
    var (sum, present) = (0.0, 0)
    for t in range where isPresent(i * steps + t) {
      sum += options.bounded(ratio(t..<t + 1, ofSample: i))
      present += 1
    }
    return present == 0 ? 1 : sum / Double(present)
  }
  for i in 0..<batch {
    let ofSample = options.level == .sample ? options.bounded(ratio(0..<steps, ofSample: i)) : 1
    for j in 0..<count {
      let range = plan.range(j)
      let weight =
        switch options.level {
        case _ where !range.contains { isPresent(i * steps + $0) }: 1.0
        case .step: meanOfSteps(range, ofSample: i)
        case .chunk: options.bounded(ratio(range, ofSample: i))
        case .sample: ofSample
        }
      guard weight.isFinite else {
        throw ChunkGRPOError.nonFinite(
          "the importance weight of sample \(i), chunk \(j) is \(weight): bound it by high, which is \(options.high)")
      }
      weights[i * count + j] = weight
    }
  }
}
