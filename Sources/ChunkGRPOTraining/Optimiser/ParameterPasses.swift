import ChunkGRPO
internal import KernelTable

/// Parameters per work item. Also bounds f32 sums of squares.
private let itemSize = 4096

/// Calls `body` for the items of 0 ..< count, on up to `threads` threads.
private func forEachItem(_ count: Int, threads: Int, _ body: (_ number: Int, _ first: Int, _ count: Int) -> Void) {
  parallel(units: (count &+ itemSize &- 1) / itemSize, threads: threads) {
    for number in $0 { body(number, number &* itemSize, min(itemSize, count &- number &* itemSize)) }
  }
}

extension TrainingWorkspace {
  /// Adds the gradients of `lanes` up into the first's.
  ///
  /// - Returns: √Σg²; not finite where a gradient is not, or where its square overflows.
  func sumGradients(_ lanes: [TrainingLane]) throws -> Double {
    let (sum, others) = (lanes[0].gradients, lanes.dropFirst().map(\.gradients))
    // f32 within an item, f64 between items.
    let squares = try Buffer<Double>(count: (sum.count &+ itemSize &- 1) / itemSize, for: "the norm of the gradient")
    forEachItem(sum.count, threads: threads) { number, first, count in
      for other in others { kernelSet.network32.add(other.base + first, to: sum.base + first, count: count) }
      squares[number] = kernelSet.network32.squares(sum.base + first, count: count)
    }
    return squares.values.reduce(0, +).squareRoot()
  }
}

extension TrainingState {
  /// This state becomes `old`, which may be itself, after one step of AdamW with gradients that are multiplied by
  /// `scale`. The average follows.
  func step(
    from old: TrainingState, _ options: TrainerOptions, gradients: Buffer<Float>, scale: Double, learningRate: Double,
    emaDecay: Double, threads: Int
  ) {
    counters.optimiserSteps = old.counters.optimiserSteps + 1
    let factors = options.adamW(step: counters.optimiserSteps, learningRate: learningRate, gradientScale: scale)
    let share = Float(1 - emaDecay)
    forEachItem(parameters.count, threads: threads) { _, first, count in
      var arguments = AdamWArguments(
        factors: factors, g: gradients.base + first, w: old.parameters.base + first, m: old.firstMoment.base + first,
        v: old.secondMoment.base + first, newW: parameters.base + first, newM: firstMoment.base + first,
        newV: secondMoment.base + first, count: count)
      kernelSet.adamW(&arguments)
      kernelSet.average(
        share: share, parameters.base + first, old.average.base + first, into: average.base + first, count: count)
    }
  }
}
