import ChunkGRPO

/// All that training changes. With the seed in the options, a run goes on from here as if it had never stopped.
final class TrainingState {
  let weights, average, firstMoment, secondMoment: Buffer<Float>
  /// Steps of the optimiser since its moments were zero.
  var optimiserSteps = 0
  /// Chunk-GRPO iterations.
  var iterations = 0
  /// Samples rolled out so far: the next one's noise has this id.
  var samplesDrawn: UInt64 = 0
  /// Rows drawn for pretraining so far.
  var rowsDrawn: UInt64 = 0

  init(parameterCount count: Int) throws {
    weights = try Buffer(count: count, for: "\(count) weights")
    average = try Buffer(count: count, for: "\(count) averaged weights")
    firstMoment = try Buffer(count: count, for: "\(count) first moments")
    secondMoment = try Buffer(count: count, for: "\(count) second moments")
  }

  /// Both are of one shape.
  func copy(from other: TrainingState) {
    weights.copy(from: other.weights)
    average.copy(from: other.average)
    firstMoment.copy(from: other.firstMoment)
    secondMoment.copy(from: other.secondMoment)
    copyCounters(from: other)
  }

  func copyCounters(from other: TrainingState) {
    optimiserSteps = other.optimiserSteps
    iterations = other.iterations
    samplesDrawn = other.samplesDrawn
    rowsDrawn = other.rowsDrawn
  }

  func resetOptimiser() {
    firstMoment.fillWithZeros()
    secondMoment.fillWithZeros()
    optimiserSteps = 0
  }
}

/// What the seed is for: draws of one purpose never meet those of another.
enum RandomStream: UInt64 {
  case weights = 0x7765_6967_6874_7320  // "weights "
  case pretraining = 0x7072_6574_7261_696e  // "pretrain"
  case rollout = 0x726f_6c6c_6f75_7420  // "rollout "

  func seed(_ seed: UInt64) -> UInt64 { seed ^ rawValue }
}

extension NetworkShape {
  /// Weights N(0, 1/inputs) and biases 0; the modulation and the last layer 0, so that every block starts as the identity
  /// and the velocity as 0 (adaLN-Zero).
  func initialise(_ parameters: Buffer<Float>, seed: UInt64) throws {
    parameters.fillWithZeros()
    let seed = RandomStream.weights.seed(seed)
    for (number, tensor) in tensors.enumerated() where tensor.shape.count == 2 && !startsAtZero(tensor) {
      let values = parameters.base + tensor.offset
      try normal(
        seed: seed, sampleIDs: [UInt64(number)],
        into: LatentsView(values, type: .float32, batch: 1, elements: tensor.count))
      let scale = 1 / Float(tensor.shape[1]).squareRoot()
      for i in 0..<tensor.count { values[i] *= scale }
    }
  }

  private func startsAtZero(_ tensor: ParameterTensor) -> Bool {
    tensor.offset == modulation.weight || tensor.offset == output.weight
  }
}
