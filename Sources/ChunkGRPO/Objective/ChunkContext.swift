internal import Platform

/// A chunk of one sample as surrogate and KL estimate see it: its steps that are present. Made once and moved from chunk to
/// chunk. It borrows the numbers of the inputs and options, which outlive it.
struct ChunkContext {
  /// (B, S) all: ℓ_new, ℓ_old, that of the KL's reference.
  let new, old, reference: UnsafePointer<Double>
  /// (B, S), but for the scale, which is (S).
  private let bias, scale, divergences: UnsafePointer<Double>?
  private let mask: UnsafePointer<UInt8>?
  /// By level (B), (B, K) or (B, S).
  private let advantages: UnsafePointer<Double>
  private let level: AdvantageLevel
  private let steps, count: Int
  private(set) var advantage = 0.0
  /// Of the chunk's steps into (B, S), and of the sample's first.
  private(set) var indices = 0..<0
  private var first = 0
  /// How many of them are present.
  private(set) var present = 0
  /// The mean log ratio of the chunk.
  private(set) var moved = 0.0
  /// ρ, the largest number at most.
  private(set) var ratio = 1.0

  init(
    new: Numbers<Double>, old: Numbers<Double>, advantages: Numbers<Double>, _ plan: ChunkPlan,
    _ options: ChunkLossOptions
  ) throws {
    guard let new = new.pointer, let old = old.pointer, let advantages = advantages.pointer else {
      throw ChunkGRPOError.invalidArgument("new_log_probs: there are none")
    }
    (self.new, self.old, self.advantages, level) = (new, old, advantages, options.advantageLevel)
    (steps, count) = (plan.steps, plan.count)
    reference = options.reference?.pointer ?? old
    (bias, scale) = (options.ratioBias?.pointer, options.ratioScale?.pointer)
    (divergences, mask) = (options.divergence?.pointer, options.mask?.pointer)
  }

  mutating func move(to range: Range<Int>, ofSample sample: Int) {
    first = sample * steps
    indices = first + range.lowerBound..<first + range.upperBound
    present = present(indices)
  }

  /// Computes the ratio.
  mutating func measure() {
    moved = mean(logRatio)
    ratio = min(exp(moved), .greatestFiniteMagnitude)
  }

  mutating func take(advantageOf sample: Int, _ chunk: Int) throws {
    switch level {
    case .sample: advantage = advantages[sample]
    case .chunk: advantage = advantages[sample * count + chunk]
    case .step:
      advantage = meanAdvantage
      guard advantage.isFinite else {
        throw ChunkGRPOError.nonFinite(
          "advantages of sample \(sample), chunk \(chunk) are too far apart for their mean")
      }
    }
  }

  /// Of the steps that are present; of equal ones that one, to the bit.
  private var meanAdvantage: Double {
    guard let first = indices.first(where: isPresent) else { return 0 }
    let further = mean { advantages[$0] - advantages[first] }
    return further == 0 ? advantages[first] : advantages[first] + further
  }

  /// No number can hold the ratio.
  var overflows: Bool { exp(moved) == .infinity }

  func present(_ indices: Range<Int>) -> Int { mask == nil ? indices.count : indices.count(where: isPresent) }

  @inline(__always)
  func isPresent(_ index: Int) -> Bool { mask.map { $0[index] != 0 } ?? true }

  func scale(_ index: Int) -> Double { scale?[index - first] ?? 1 }

  /// r_t = scale_t·(ℓ_new − ℓ_old + bias_t)
  @inline(__always)
  func logRatio(_ index: Int) -> Double { scale(index) * (new[index] - old[index] + (bias?[index] ?? 0)) }

  /// δ = ℓ_ref − ℓ_new
  func delta(_ index: Int) -> Double { reference[index] - new[index] }

  var divergence: Double { mean { divergences?[$0] ?? 0 } }

  /// Over the steps that are present; `value` gets an index into (B, S).
  @inline(__always)
  func mean(_ value: (Int) -> Double) -> Double {
    var sum = 0.0
    for index in indices where isPresent(index) { sum += value(index) }
    return sum / Double(present)
  }

  func contains(_ condition: (Int) -> Bool) -> Bool { indices.contains { isPresent($0) && condition($0) } }
}

/// A number that is written: what is too large for any is the largest.
func finite(_ value: Double) -> Double {
  value.isNaN ? .greatestFiniteMagnitude : min(max(value, -.greatestFiniteMagnitude), .greatestFiniteMagnitude)
}
