import Glibc

/// Bounds on the importance ratio: [1 − low, 1 + high].
public struct ClipRange: Sendable, Equatable {
  public let low, high: Double

  public init(low: Double, high: Double) {
    self.low = low
    self.high = high
  }

  /// 5e-5 on both sides, GCPO's.
  public static let gcpo = ClipRange(low: 5e-5, high: 5e-5)
}

/// Over the N selected chunks.
public struct ChunkStats: Sendable, Equatable {
  /// N
  public var selected = 0
  /// The standard deviation is the population's.
  public var ratioMean = 0.0, ratioStd = 0.0, ratioMin = 0.0, ratioMax = 0.0
  /// Share of chunks with A < 0 and ratio < 1 − low, or A > 0 and ratio > 1 + high: those have no gradient.
  public var clipFractionLow = 0.0, clipFractionHigh = 0.0
  /// Mean of the k3 estimate.
  public var approximateKL = 0.0
  /// (Σρ)² / (N·Σρ²), in (0, 1]; 1 on policy.
  public var effectiveSampleSize = 0.0

  public init() {}
}

public struct ChunkLoss: Sendable {
  public let loss: Double
  /// (B, S): ∂loss/∂new log-probabilities.
  public let gradLogProbs: [Double]
  /// (B, K), of all chunks, selected or not.
  public let ratios: [Double]
  public let stats: ChunkStats
}

/// The chunk objective of Chunk-GRPO (arXiv 2510.21583):
///
///     ℓ_j  = mean of the log-probabilities over the steps of chunk j
///     ρ_j  = exp(ℓ_j^new − ℓ_j^old), the geometric mean of its step ratios
///     loss = mean over the selected (sample, chunk) of max(−A·ρ, −A·clip(ρ, 1 − low, 1 + high)) + β·k3
///     k3   = e^δ − 1 − δ,  δ = ℓ_j^old − ℓ_j^new
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
  let batch = advantages.count
  let steps = plan.steps
  let count = plan.count
  try require(batch >= 1, "advantages: there are none")
  for (name, values) in [("new_log_probs", new), ("old_log_probs", old)] {
    let (size, overflow) = batch.multipliedReportingOverflow(by: steps)
    try require(
      !overflow && values.count == size,
      "\(name) has \(values.count) numbers, but \(batch) samples of \(steps) steps, the sum of the chunk sizes, have \(batch) × \(steps)")
    if let i = values.firstIndex(where: { !$0.isFinite }) {
      throw ChunkGRPOError.nonFinite("\(name) of sample \(i / steps) at step \(i % steps) is \(values[i])")
    }
  }
  if let i = advantages.firstIndex(where: { !$0.isFinite }) {
    throw ChunkGRPOError.nonFinite("advantages[\(i)] = \(advantages[i]) is not finite")
  }
  try require(clip.low >= 0 && clip.low <= 1, "clip_low = \(clip.low) is outside [0, 1]")
  try require(clip.high >= 0, "clip_high = \(clip.high) must be at least 0")
  try require(kl >= 0 && kl.isFinite, "kl = \(kl) must be at least 0 and finite")
  try require(
    selection == nil || selection?.count == batch * count,
    "selection has \(selection?.count ?? 0) entries for \(batch) samples of \(count) chunks")
  let selected = selection.map { $0.count(where: { $0 != 0 }) } ?? batch * count
  try require(selected >= 1, "selection: no chunk of any sample is selected")

  let ranges = plan.ranges
  let share = 1 / Double(selected)
  var loss = 0.0
  var gradLogProbs = [Double](repeating: 0, count: batch * steps)
  var ratios: [Double] = []
  ratios.reserveCapacity(batch * count)
  var moments = RatioMoments()
  for i in 0..<batch {
    for (j, range) in ranges.enumerated() {
      let logRatio = range.reduce(0) { $0 + (new[i * steps + $1] - old[i * steps + $1]) } / Double(range.count)
      let ratio = exp(logRatio)
      let k3 = expm1(-logRatio) + logRatio
      guard ratio.isFinite && k3.isFinite else {
        throw ChunkGRPOError.nonFinite(
          "importance ratio of sample \(i), chunk \(j) is out of range: its log-probability moved by \(logRatio)")
      }
      ratios.append(ratio)
      if let selection, selection[i * count + j] == 0 { continue }

      let term = clippedTerm(ratio: ratio, advantage: advantages[i], clip: clip)
      loss += share * (term.value + kl * k3)
      // ∂ρ/∂ℓ = ρ and ∂k3/∂ℓ = 1 − e^δ; the chunk's mean gives each of its steps 1/|C|.
      let grad = share * (term.slope * ratio - kl * expm1(-logRatio)) / Double(range.count)
      for t in range { gradLogProbs[i * steps + t] = grad }
      moments.add(ratio: ratio, k3: k3, clipped: term.clipped)
    }
  }
  guard loss.isFinite && gradLogProbs.allSatisfy({ $0.isFinite }) else {
    throw ChunkGRPOError.nonFinite("the loss is \(loss): log-probabilities or advantages are too far apart")
  }
  return ChunkLoss(loss: loss, gradLogProbs: gradLogProbs, ratios: ratios, stats: moments.stats)
}

private enum Clipped { case no, low, high }

/// max(−A·ρ, −A·clip(ρ)) and its slope in ρ.
private func clippedTerm(ratio: Double, advantage: Double, clip: ClipRange) -> (
  value: Double, slope: Double, clipped: Clipped
) {
  if advantage > 0 && ratio > 1 + clip.high { return (-advantage * (1 + clip.high), 0, .high) }
  if advantage < 0 && ratio < 1 - clip.low { return (-advantage * (1 - clip.low), 0, .low) }
  return (-advantage * ratio, -advantage, .no)
}

private struct RatioMoments {
  private var ratios: [Double] = []
  private var k3 = 0.0
  private var low = 0, high = 0

  mutating func add(ratio: Double, k3: Double, clipped: Clipped) {
    ratios.append(ratio)
    self.k3 += k3
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
    stats.approximateKL = k3 / n
    // Relative to the mean, so that small ratios do not underflow.
    stats.effectiveSampleSize = mean > 0 ? n / ratios.reduce(0) { $0 + ($1 / mean) * ($1 / mean) } : 0
    return stats
  }
}
