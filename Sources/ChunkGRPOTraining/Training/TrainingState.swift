import ChunkGRPO

/// Everything that training changes. With the seed in the options, a run goes on from here as if it had never stopped.
final class TrainingState {
  let parameters, average, firstMoment, secondMoment: Buffer<Float>
  var counters = TrainingCounters()

  init(parameterCount count: Int) throws {
    parameters = try Buffer(count: count, for: "\(count) parameters")
    average = try Buffer(count: count, for: "\(count) averaged parameters")
    firstMoment = try Buffer(count: count, for: "\(count) first moments")
    secondMoment = try Buffer(count: count, for: "\(count) second moments")
  }

  /// Under their names in a checkpoint.
  var buffers: [(name: String, values: Buffer<Float>)] {
    [
      ("parameters", parameters), ("average", average), ("first_moment", firstMoment),
      ("second_moment", secondMoment),
    ]
  }

  /// Why training cannot go on from here; nil where it can.
  var flaw: String? {
    for (name, values) in buffers where !values.isFinite { return "its \(name) has numbers that are not finite" }
    return secondMoment.values.contains { $0 < 0 } ? "its second_moment has numbers below 0" : nil
  }

  /// Both are of one shape.
  func copy(from other: TrainingState) {
    for (own, other) in zip(buffers, other.buffers) { own.values.copy(from: other.values) }
    counters = other.counters
  }

  func resetOptimiser() {
    firstMoment.fillWithZeros()
    secondMoment.fillWithZeros()
    counters.optimiserSteps = 0
  }
}

struct TrainingCounters {
  /// Chunk-GRPO iterations.
  var iterations = 0
  /// Steps of the optimiser since its moments were zero.
  var optimiserSteps = 0
  /// Samples rolled out so far: the next one's noise has this id.
  var samplesDrawn: UInt64 = 0
  /// Rows drawn for pretraining so far.
  var rowsDrawn: UInt64 = 0

  /// Every counter under its name in a checkpoint.
  static var fields: [TextField<TrainingCounters>] {
    [
      .init("iterations", \.iterations), .init("optimiser_steps", \.optimiserSteps),
      .init("samples_drawn", \.samplesDrawn), .init("rows_drawn", \.rowsDrawn),
    ]
  }
}

extension Buffer<Float> {
  /// Whether no number is NaN or infinite: an exponent of ones, to which adding one carries into the sign.
  var isFinite: Bool {
    var carries: UInt32 = 0
    for value in values { carries |= (value.bitPattern & 0x7fff_ffff) &+ 0x0080_0000 }
    return carries < 0x8000_0000
  }
}
