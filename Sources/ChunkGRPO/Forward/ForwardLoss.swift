internal import Platform

// What the objectives of the forward process share: (B, N) distances of B samples at N times each, advantages (B), the
// velocity KL to a reference, statistics.

/// The value of an objective of the forward process.
public struct ForwardLoss: Sendable {
  /// With its KL term.
  public let loss: Double
  /// ∂loss/∂ distances, (B, N) for each argument of distances that is the policy's, in their order.
  public let gradDistances: [[Double]]
  /// (B, N): ∂loss/∂ reference divergence; empty without one.
  public let gradReferenceDivergence: [Double]
  /// Means over samples and times.
  public let stats: ForwardStats
}

/// Means over samples and times.
public struct ForwardStats: Sendable, Equatable {
  /// The loss without its KL term, and the mean of the reference divergence.
  public var policyLoss = 0.0, kl = 0.0
  /// NFT: of r; DGPO: of the sigmoid of the group's preference.
  public var weightMean = 0.0
  /// DGPO: share of distances that are clipped.
  public var clipFraction = 0.0
  /// CRD: of the implicit reward; DPO: of its margin between chosen and rejected.
  public var rewardMean = 0.0
  /// DPO: share of pairs whose chosen image has the higher implicit reward.
  public var accuracy = 0.0

  public init() {}
}

/// Where an objective writes, (B, N) each; nil = nowhere.
package struct ForwardLossOutput {
  let first, second, referenceDivergence: UnsafeMutablePointer<Double>?

  package init(
    _ first: UnsafeMutablePointer<Double>?, _ second: UnsafeMutablePointer<Double>? = nil,
    referenceDivergence: UnsafeMutablePointer<Double>? = nil
  ) {
    (self.first, self.second, self.referenceDivergence) = (first, second, referenceDivergence)
  }
}

/// Arrays around an objective with memory of the caller.
func forwardLoss(
  size: Int, gradients: Int, hasReference: Bool, _ body: (ForwardLossOutput) throws -> (Double, ForwardStats)
) throws -> ForwardLoss {
  let places = try (0..<3).map { _ in try Buffer<Double>(count: size, for: "gradients") }
  let output = ForwardLossOutput(
    places[0].base, gradients > 1 ? places[1].base : nil, referenceDivergence: hasReference ? places[2].base : nil)
  let (loss, stats) = try body(output)
  defer { withExtendedLifetime(places) {} }
  return ForwardLoss(
    loss: loss, gradDistances: places[..<gradients].map { Array($0.values) },
    gradReferenceDivergence: hasReference ? Array(places[2].values) : [], stats: stats)
}

/// The number of times N of `count` numbers for `batch` samples.
func timesPerSample(_ count: Int, batch: Int) throws -> Int {
  try require(
    batch >= 1 && count >= batch && count % batch == 0,
    "distances: \(count) of them do not divide into \(batch) samples")
  return count / batch
}

/// Distances and absolute means: of one size, finite, ≥ 0.
func checkDistances(_ values: Numbers<Double>, _ name: String, size: Int, _ times: Int) throws {
  try require(values.count == size, "\(name): \(values.count) numbers instead of \(size)")
  guard let i = values.firstIndex(where: { !($0 >= 0 && $0.isFinite) }) else { return }
  throw ChunkGRPOError(
    values[i].isFinite ? .invalidArgument : .nonFinite,
    "\(name) = \(values[i]) of sample \(i / times) at time \(i % times) is not "
      + (values[i].isFinite ? "≥ 0" : "finite"))
}

func checkAdvantages(_ advantages: Numbers<Double>) throws {
  if let i = advantages.firstIndex(where: { !$0.isFinite }) {
    throw ChunkGRPOError.nonFinite("advantages[\(i)] = \(advantages[i]) is not finite")
  }
}

func checkPositive(_ value: Double, _ name: String) throws {
  try require(value > 0 && value.isFinite, "\(name) = \(value) must be > 0 and finite")
}

/// β·mean of the velocity KL.
struct ReferenceKL {
  let weight: Double
  let divergence: Numbers<Double>?

  init(_ weight: Double, _ divergence: Numbers<Double>?, _ output: ForwardLossOutput, size: Int, _ times: Int) throws {
    try require(weight >= 0 && weight.isFinite, "kl = \(weight) must be ≥ 0 and finite")
    try require(weight == 0 || divergence != nil, "kl = \(weight) needs reference_divergence, which is null")
    try require(
      output.referenceDivergence == nil || divergence != nil,
      "grad_reference_divergence is asked for, but reference_divergence is null")
    if let divergence { try checkDistances(divergence, "reference_divergence", size: size, times) }
    self.weight = weight
    self.divergence = divergence
  }

  /// Adds a term to both sums, with `weight` for this sample, and writes its gradient.
  func add(
    _ i: Int, _ weight: Double, size: Int, to loss: inout Double, _ mean: inout Double, _ output: ForwardLossOutput
  ) {
    guard let divergence else { return }
    loss += weight * divergence[i] / Double(size)
    mean += divergence[i] / Double(size)
    output.referenceDivergence?[i] = weight / Double(size)
  }
}

/// Throws where a loss or its slope is larger than any number.
func checkLoss(_ loss: Double) throws {
  if !loss.isFinite { throw ChunkGRPOError.nonFinite("the loss is \(loss): distances or advantages are too large") }
}

/// An advantage as a share of the best: clamp(A/clip/2 + ½, 0, 1).
func optimality(_ advantage: Double, clip: Double) -> Double {
  min(1, max(0, min(clip, max(-clip, advantage)) / clip / 2 + 0.5))
}

func sigmoid(_ x: Double) -> Double { x >= 0 ? 1 / (1 + exp(-x)) : exp(x) / (1 + exp(x)) }

/// ln(1 + eˣ)
func softplus(_ x: Double) -> Double { max(x, 0) + log1p(exp(-abs(x))) }
