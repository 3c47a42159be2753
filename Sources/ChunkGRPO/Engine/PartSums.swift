internal import KernelTable

/// The sums of a part's blocks, (P, B, n, N) for P of a pass's numbers, n steps and N blocks of a whole sample. Those of
/// several parts add up to those of the whole: of each block only one of them has a sum, but where one begins within it.
struct PartSums {
  let base: UnsafeMutablePointer<Double>
  /// Which numbers of `Totals` are kept, a bit for each.
  let numbers: UInt32
  let batch, steps: Int
  /// The step of the first one of the pass.
  let first: Int
  let blocks: Int
  /// Whether they are those of the whole, to be read.
  let isReduced: Bool

  /// `body` gets the index of each number that is kept, and its place for the blocks of a sample and step.
  @inline(__always)
  private func each(_ sample: Int, _ step: Int, _ body: (Int, UnsafeMutablePointer<Double>) -> Void) {
    var (left, row) = (numbers, (sample &* steps &+ first &+ step) &* blocks)
    while left != 0 {
      body(left.trailingZeroBitCount, base + row)
      left &= left &- 1
      row &+= batch &* steps &* blocks
    }
  }

  func clear(_ sample: Int, _ step: Int) {
    each(sample, step) { $1.update(repeating: 0, count: blocks) }
  }

  func write<Sums: Totals>(_ sums: Sums, _ sample: Int, _ step: Int, block: Int) {
    withUnsafeBytes(of: sums) { values in
      each(sample, step) { $1[block] = values.load(fromByteOffset: 8 &* $0, as: Double.self) }
    }
  }

  /// The sums of a whole sample, in the order of a pass: of the blocks of a segment, then of the segments.
  func total<Sums: Totals>(_ sample: Int, _ step: Int) -> Sums {
    var result = Sums()
    withUnsafeMutableBytes(of: &result) { values in
      each(sample, step) { number, row in
        var total = 0.0
        for first in stride(from: 0, to: blocks, by: segmentBlocks) {
          var sum = 0.0
          for block in first..<min(first &+ segmentBlocks, blocks) { sum += row[block] }
          total += sum
        }
        values.storeBytes(of: total, toByteOffset: 8 &* number, as: Double.self)
      }
    }
    return result
  }
}
