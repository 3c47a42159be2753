internal import Platform

/// How an implicit reward follows the reward.
public enum CRDRegression: Int32, Sendable, CaseIterable {
  /// (β·r_θ − A)²
  case meanSquare = 1
  /// The cross-entropy of sigmoid(β·r_θ) and sigmoid(A).
  case crossEntropy = 2

  /// Its value for centred numbers, and the slope in r.
  func term(_ r: Double, _ advantage: Double, beta: Double) -> (value: Double, slope: Double) {
    let z = beta * r
    switch self {
    case .meanSquare: return ((z - advantage) * (z - advantage), 2 * beta * (z - advantage))
    case .crossEntropy:
      let target = sigmoid(advantage)
      return (softplus(z) - z * target, beta * (sigmoid(z) - target))
    }
  }
}

/// Options of `crdLoss`. The defaults are Flow-Factory's.
public struct CRDOptions: Options {
  /// β > 0.
  public var beta = 1.0
  /// > 0.
  public var advantageClip = 5.0
  /// How the implicit reward follows the reward.
  public var regression = CRDRegression.meanSquare
  /// Of the weights that a centre is the mean by: infinity = equal ones. T > 0: softmax(A/T), and softmax(−A/T) for a
  /// second centre. 0: softmax(A) over the samples with A > 0, and equal weights for the second (Flow-Factory
  /// `weight_temp`).
  public var temperature = Double.infinity
  /// (B, N) mean |v − u| and mean |v_old − u|, both or neither: each distance is divided by its own, which has no gradient.
  public var absolute, oldAbsolute: Numbers<Double>?
  /// > 0; the least that a distance is divided by.
  public var floor = 1e-5
  /// β ≥ 0 of the velocity KL, and its (B, N) numbers.
  public var kl = 0.0
  /// ≥ 0: the KL's weight goes from this at A = 0 to `kl` at A = 1 (Flow-Factory `reward_adaptive_kl`: 1e-4); nil = `kl`.
  public var leastKL: Double?
  /// (B, N): mean |v − v_ref|², for a KL weight above 0.
  public var referenceDivergence: Numbers<Double>?

  public init() {}

  func check(size: Int, _ times: Int) throws {
    try checkPositive(beta, "beta")
    try checkPositive(advantageClip, "advantage_clip")
    try checkPositive(floor, "floor")
    try require(temperature >= 0, "temperature = \(temperature) must be at least 0, or infinite for equal weights")
    if let leastKL {
      try require(leastKL >= 0 && leastKL.isFinite, "kl_least = \(leastKL) must be at least 0 and finite")
    }
    try require(
      (absolute == nil) == (oldAbsolute == nil), "absolute and old_absolute: give both or neither of them")
    if let absolute { try checkDistances(absolute, "absolute", size: size, times) }
    if let oldAbsolute { try checkDistances(oldAbsolute, "old_absolute", size: size, times) }
  }

  /// What distances of the policy and the old policy are divided by.
  func divisors(_ i: Int) -> (policy: Double, old: Double) {
    guard let absolute, let oldAbsolute else { return (1, 1) }
    return (max(absolute[i], floor), max(oldAbsolute[i], floor))
  }

  /// Unscaled weights of a sample in the centres, of A among all from `least` to `most`.
  func weights(_ a: Double, least: Double, most: Double) -> (first: Double, second: Double) {
    if temperature == .infinity { return (1, 1) }
    if temperature == 0 { return (a > 0 ? exp(a - most) : 0, 1) }
    return (exp((a - most) / temperature), exp((least - a) / temperature))
  }
}

/// Centred reward distillation (arXiv 2603.14128; Flow-Factory crd.py):
///
///     r_θ  = −(d/w − d_old/w_old)                              implicit reward
///     A'   = clamp(A/clip/2 + ½, 0, 1)
///     loss = clip/β · mean over samples and times of (β·(r_θ − centre of r_θ) − (A' − centre of A'))²
///
/// A centre is the mean over the batch, at each time for r_θ; it has no gradient. With a finite temperature it is the mean
/// of the losses for two centres.
///
/// - Parameters:
///   - distance, old: (B, N).
///   - advantages: (B).
public func crdLoss(
  distance: [Double], old: [Double], advantages: [Double], options: CRDOptions = CRDOptions()
) throws -> ForwardLoss {
  try forwardLoss(size: distance.count, gradients: 1, hasReference: options.referenceDivergence != nil) {
    try crdLoss(
      distance: Numbers(distance), old: Numbers(old), advantages: Numbers(advantages), options: options, to: $0)
  }
}

package func crdLoss(
  distance: Numbers<Double>, old: Numbers<Double>, advantages: Numbers<Double>, options o: CRDOptions,
  to output: ForwardLossOutput
) throws -> (loss: Double, stats: ForwardStats) {
  let (size, batch) = (distance.count, advantages.count)
  let times = try timesPerSample(size, batch: batch)
  try checkDistances(distance, "distance", size: size, times)
  try checkDistances(old, "old_distance", size: size, times)
  try checkAdvantages(advantages)
  try o.check(size: size, times)
  let kl = try ReferenceKL(o.kl, o.referenceDivergence, output, size: size, times)
  func advantage(_ sample: Int) -> Double { optimality(advantages[sample], clip: o.advantageClip) }
  func reward(_ i: Int) -> Double {
    let divisors = o.divisors(i)
    return -(distance[i] / divisors.policy - old[i] / divisors.old)
  }
  var (least, most) = (1.0, 0.0)
  for sample in 0..<batch { (least, most) = (min(least, advantage(sample)), max(most, advantage(sample))) }
  /// Of a number of each sample.
  func centres(_ number: (Int) -> Double) -> (first: Double, second: Double) {
    var (sums, weights) = ((0.0, 0.0), (0.0, 0.0))
    for sample in 0..<batch {
      let (own, value) = (o.weights(advantage(sample), least: least, most: most), number(sample))
      sums = (sums.0 + own.first * value, sums.1 + own.second * value)
      weights = (weights.0 + own.first, weights.1 + own.second)
    }
    // No sample is above 0: then equal weights.
    if weights.0 == 0 { return ((0..<batch).reduce(0) { $0 + number($1) } / Double(batch), sums.1 / weights.1) }
    return (sums.0 / weights.0, sums.1 / weights.1)
  }
  let scale = o.advantageClip / o.beta / Double(size)
  let ofAdvantages = centres(advantage)
  var stats = ForwardStats()
  var ofKL = 0.0
  for time in 0..<times {
    let ofRewards = centres { reward($0 * times + time) }
    for sample in 0..<batch {
      let (i, a) = (sample * times + time, advantage(sample))
      let r = reward(i)
      let first = o.regression.term(r - ofRewards.first, a - ofAdvantages.first, beta: o.beta)
      let second = o.regression.term(r - ofRewards.second, a - ofAdvantages.second, beta: o.beta)
      stats.policyLoss += scale * (first.value + second.value) / 2
      stats.rewardMean += r / Double(size)
      let slope = -scale * (first.slope + second.slope) / 2 / o.divisors(i).policy
      try checkLoss(slope)
      output.first?[i] = slope
      let leastKL = o.leastKL ?? o.kl
      kl.add(i, leastKL + a * (o.kl - leastKL), size: size, to: &ofKL, &stats.kl, output)
    }
  }
  try checkLoss(stats.policyLoss + ofKL)
  return (stats.policyLoss + ofKL, stats)
}
