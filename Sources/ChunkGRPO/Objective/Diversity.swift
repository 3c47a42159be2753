/// Mean Euclidean distance (B) of each sample's features from those of the others of its group: how varied the samples of a
/// prompt are, as a statistic or as a reward. The mean over a group is that over its pairs.
///
/// - Parameters:
///   - features: (B, F), such as the images or an image encoder's embeddings; scaled to length 1, their distances are
///     those of cosines: |f − g|² = 2 − 2·cos.
///   - groupSize: ≥ 2, divides B; the samples of a group are neighbours. nil = all are one group.
/// - Throws: `.nonFinite` names the sample.
public func diversity(_ features: LatentsView, groupSize: Int? = nil, threads: Int = 1) throws -> [Double] {
  var result = [Double](repeating: 0, count: max(0, features.batch))
  try diversity(features, groupSize: groupSize, threads: threads, into: &result)
  return result
}

/// The same, written after everything is read.
package func diversity(
  _ features: LatentsView, groupSize: Int?, threads: Int, into result: UnsafeMutablePointer<Double>
) throws {
  let threads = try resolvedThreads(threads)
  try features.checkOnCPU("features", "the diversity")
  try features.checkWhole("features")
  let batch = features.batch
  let size = groupSize ?? batch
  try require(size >= 2, "group_size = \(size): a group has at least two samples, or there is no pair")
  try require(batch % size == 0, "group_size = \(size) does not divide the \(batch) samples")
  // The distance from itself is 0, or NaN where a number is not finite.
  let own = VelocityDistancePass(x: features.rows, w: features.rows, gradient: nil)
  if let broken = try own.run(
    over: features, threads: threads, keeping: features, finish: { _, _, sums in sums.squares })
  {
    throw ChunkGRPOError.nonFinite("the features of sample \(broken.sample) are not finite")
  }
  let sums = try Buffer<Double>(count: batch, for: "the diversity of \(batch) samples")
  for sample in 0..<batch {
    let others = sample % size + 1..<size
    if others.isEmpty { continue }
    // The sample itself, again and again, against those behind it: each sum is in the order of the samples.
    let pass = VelocityDistancePass(
      x: features.rows(sample, count: others.count, isOne: true), w: features.rows(sample + 1, count: others.count),
      gradient: nil)
    let broken = try pass.run(over: features, threads: threads, keeping: features) { other, _, block in
      let distance = block.squares.squareRoot()
      sums[sample] += distance
      sums[sample + 1 + other] += distance
      return distance
    }
    if let broken {
      throw ChunkGRPOError.nonFinite(
        "the features of samples \(sample) and \(sample + 1 + broken.sample) are too far apart to square")
    }
  }
  for sample in 0..<batch { result[sample] = sums[sample] / Double(size - 1) }
}

extension LatentsView {
  /// `count` samples from `first` on, or the first alone `count` times.
  fileprivate func rows(_ first: Int, count: Int, isOne: Bool = false) -> Rows {
    LatentsView(
      base + first &* batchStride &* type.size, type: type, batch: count, elements: elements,
      batchStride: isOne ? 0 : batchStride
    ).rows
  }
}
