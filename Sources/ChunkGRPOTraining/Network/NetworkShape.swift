import ChunkGRPO

/// One tensor in the flat buffer of parameters.
package struct ParameterTensor: Equatable, Sendable {
  /// As in checkpoints, such as "blocks.0.hidden.weight".
  package let name: String
  /// (outputs, inputs) of a weight, (outputs) of a bias.
  package let shape: [Int]
  /// Where it begins, in elements.
  package let offset: Int

  package var count: Int { shape.reduce(1, &*) }
}

/// y = x·Wᵀ + b as offsets into the parameter buffer.
struct Linear: Equatable, Sendable {
  let inputs, outputs: Int
  let weight: Int
  let bias: Int?
}

/// The sizes of the velocity network and where its parameters lie in one flat buffer.
package struct NetworkShape: Equatable, Sendable {
  /// D
  package let latentSize: Int
  /// C
  package let conditionSize: Int
  /// W, the hidden size
  package let width: Int
  package let blocks: Int
  /// E, of time and condition
  package let embeddingSize: Int

  /// In the order of the buffer, without gaps.
  package let tensors: [ParameterTensor]
  package let parameterCount: Int

  let input, timeHidden, timeOutput, condition, modulation, output: Linear
  let hidden, contribution: [Linear]

  /// Shift, scale and gate of each block, shift and scale of the last layer.
  var modulationSize: Int { (3 &* blocks &+ 2) &* width }

  /// - Throws: `.invalidArgument` for a size out of bounds.
  package init(latentSize: Int, conditionSize: Int, width: Int = 256, blocks: Int = 3, embeddingSize: Int = 128) throws
  {
    try requireBounds("latent_size", latentSize, 1...1_048_576)
    try requireBounds("condition_size", conditionSize, 1...65_536)
    try requireBounds("width", width, 1...16_384)
    try requireBounds("blocks", blocks, 1...256)
    try requireBounds("embedding_size", embeddingSize, 2...16_384)
    guard embeddingSize % 2 == 0 else {
      throw ChunkGRPOError.invalidArgument("embedding_size = \(embeddingSize) must be even")
    }
    self.latentSize = latentSize
    self.conditionSize = conditionSize
    self.width = width
    self.blocks = blocks
    self.embeddingSize = embeddingSize

    // The bounds above keep every count far below 2⁶³.
    var tensors: [ParameterTensor] = []
    var offset = 0
    func tensor(_ name: String, _ shape: [Int]) -> Int {
      let tensor = ParameterTensor(name: name, shape: shape, offset: offset)
      tensors.append(tensor)
      offset += tensor.count
      return tensor.offset
    }
    func linear(_ name: String, _ inputs: Int, _ outputs: Int, bias: Bool = true) -> Linear {
      Linear(
        inputs: inputs, outputs: outputs, weight: tensor(name + ".weight", [outputs, inputs]),
        bias: bias ? tensor(name + ".bias", [outputs]) : nil)
    }
    input = linear("input", latentSize, width)
    timeHidden = linear("time.hidden", embeddingSize, embeddingSize)
    timeOutput = linear("time.output", embeddingSize, embeddingSize)
    condition = linear("condition", conditionSize, embeddingSize, bias: false)
    modulation = linear("modulation", embeddingSize, (3 * blocks + 2) * width)
    var hidden: [Linear] = []
    var contribution: [Linear] = []
    for block in 0..<blocks {
      hidden.append(linear("blocks.\(block).hidden", width, width))
      contribution.append(linear("blocks.\(block).output", width, width))
    }
    self.hidden = hidden
    self.contribution = contribution
    output = linear("output", width, latentSize)
    self.tensors = tensors
    parameterCount = offset
  }
}

extension NetworkShape {
  /// Fresh parameters: weights N(0, 1/inputs) and biases 0; the modulation and the last layer 0. Every block starts
  /// as the identity and the velocity as 0 (adaLN-Zero).
  func initialise(_ parameters: Buffer<Float>, seed: UInt64) throws {
    parameters.fillWithZeros()
    let seed = RandomStream.parameters.seed(seed)
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

func requireBounds(_ name: String, _ value: Int, _ bounds: ClosedRange<Int>) throws {
  guard bounds.contains(value) else {
    throw ChunkGRPOError.invalidArgument("\(name) = \(value) is outside \(bounds.lowerBound) … \(bounds.upperBound)")
  }
}
