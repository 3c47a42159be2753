/// A chunk of one sample as surrogate and KL estimate see it: its steps that are present. Made once and moved from chunk to
/// chunk; a class, because a copy would count references to all arrays of the options.
final class ChunkContext {
  let options: ChunkLossOptions
  /// (B, S) all: ℓ_new; that of the KL's reference; the log ratios r_t = scale_t·(ℓ_new − ℓ_old + bias_t).
  let new, reference, logRatios: [Double]
  private(set) var advantage = 0.0
  /// Of the chunk's steps into (B, S).
  private(set) var indices = 0..<0
  /// How many of them are present.
  private(set) var present = 0
  /// ρ
  var ratio = 1.0

  init(new: [Double], old: [Double], steps: Int, _ options: ChunkLossOptions) {
    self.options = options
    self.new = new
    reference = options.reference ?? old
    logRatios = new.indices.map {
      (options.ratioScale?[$0 % steps] ?? 1) * (new[$0] - old[$0] + (options.ratioBias?[$0] ?? 0))
    }
  }

  func move(to indices: Range<Int>, advantage: Double) {
    self.indices = indices
    self.advantage = advantage
    present = options.present(indices)
  }

  /// Over the steps that are present; `value` gets an index into (B, S).
  @inline(__always)
  func mean(_ value: (Int) -> Double) -> Double {
    indices.reduce(0) { options.isPresent($1) ? $0 + value($1) : $0 } / Double(present)
  }

  func contains(_ condition: (Int) -> Bool) -> Bool { indices.contains { options.isPresent($0) && condition($0) } }

  /// δ = ℓ_ref − ℓ_new
  func delta(_ index: Int) -> Double { reference[index] - new[index] }
}

extension ChunkLossOptions {
  /// Index into (B, S).
  func isPresent(_ index: Int) -> Bool { mask?[index] ?? true }

  func present(_ indices: Range<Int>) -> Int { mask == nil ? indices.count : indices.count(where: isPresent) }
}
