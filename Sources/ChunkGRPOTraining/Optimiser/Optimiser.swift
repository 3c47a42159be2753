import ChunkGRPO
internal import KernelTable

/// Numbers of a pass over all weights that one thread takes at a time, and the most whose squares are summed in f32.
private let blockSize = 4096

/// Calls `body` for blocks of 0 ..< count, on up to `threads` threads.
private func forEachBlock(_ count: Int, threads: Int, _ body: (_ number: Int, _ first: Int, _ count: Int) -> Void) {
  parallel(units: (count &+ blockSize &- 1) / blockSize, threads: threads) {
    for number in $0 { body(number, number &* blockSize, min(blockSize, count &- number &* blockSize)) }
  }
}

extension TrainingWorkspace {
  /// Adds the gradients of `parts` up into the first's; returns √Σg², which is not finite where a gradient is not, or where
  /// its square overflows.
  func sumGradients(_ parts: [TrainingPart]) -> Double {
    let (sum, others) = (parts[0].gradients, parts.dropFirst().map(\.gradients))
    // Blocks in f32, their sums in f64.
    var squares = [Double](repeating: 0, count: (sum.count &+ blockSize &- 1) / blockSize)
    squares.withUnsafeMutableBufferPointer { squares in
      forEachBlock(sum.count, threads: threads) { number, first, count in
        for other in others { kernelSet.network32.add(other.base + first, to: sum.base + first, count: count) }
        squares[number] = kernelSet.network32.squares(sum.base + first, count: count)
      }
    }
    return squares.reduce(0, +).squareRoot()
  }
}

extension TrainingState {
  /// This state becomes `old`, which may be itself, after one step of `adam` with gradients that are multiplied by `scale`;
  /// the average follows.
  func step(
    from old: TrainingState, _ adam: AdamW, gradients: Buffer<Float>, scale: Double, learningRate: Double,
    emaDecay: Double, threads: Int
  ) {
    optimiserSteps = old.optimiserSteps + 1
    let factors = adam.factors(step: optimiserSteps, learningRate: learningRate, gradientScale: scale)
    let share = Float(1 - emaDecay)
    forEachBlock(weights.count, threads: threads) { _, first, count in
      var arguments = AdamWArguments(
        factors: factors, g: gradients.base + first, w: old.weights.base + first, m: old.firstMoment.base + first,
        v: old.secondMoment.base + first, newW: weights.base + first, newM: firstMoment.base + first,
        newV: secondMoment.base + first, count: count)
      kernelSet.adamW(&arguments)
      kernelSet.average(
        share: share, weights.base + first, old.average.base + first, into: average.base + first, count: count)
    }
  }
}
