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

  package let parameterCount: Int

  let input, timeHidden, timeOutput, condition, modulation, output: Linear

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
    var offset = 0
    func linear(_ inputs: Int, _ outputs: Int, bias: Bool = true) -> Linear {
      let weight = offset
      offset += inputs * outputs + (bias ? outputs : 0)
      return Linear(inputs: inputs, outputs: outputs, weight: weight, bias: bias ? weight + inputs * outputs : nil)
    }
    input = linear(latentSize, width)
    timeHidden = linear(embeddingSize, embeddingSize)
    timeOutput = linear(embeddingSize, embeddingSize)
    condition = linear(conditionSize, embeddingSize, bias: false)
    modulation = linear(embeddingSize, (3 * blocks + 2) * width)
    offset += 2 * blocks * (width + 1) * width
    output = linear(width, latentSize)
    parameterCount = offset
  }

  /// The first layer of a block.
  func hidden(_ block: Int) -> Linear { ofBlock(2 &* block) }
  /// Its second.
  func contribution(_ block: Int) -> Linear { ofBlock(2 &* block &+ 1) }

  /// Layer `number` of those of all blocks, which are alike and follow the modulation.
  private func ofBlock(_ number: Int) -> Linear {
    let weight = (modulation.bias ?? 0) &+ modulation.outputs &+ number &* (width &+ 1) &* width
    return Linear(inputs: width, outputs: width, weight: weight, bias: weight &+ width &* width)
  }

  // Layers and tensors are made when they are looked at: their number grows with that of the blocks.

  /// In the order of the buffer, without gaps.
  var layers: LazyMapCollection<Range<Int>, Linear> { (0..<6 + 2 * blocks).lazy.map(layer) }

  /// In the order of the buffer, without gaps. Each layer but the condition's has a bias, after its weight.
  package var tensors: LazyMapCollection<Range<Int>, ParameterTensor> {
    (0..<11 + 4 * blocks).lazy.map { number in
      // Weight and bias in turn, as if the condition had one too.
      let (place, isBias) = (number < 7 ? number : number + 1).quotientAndRemainder(dividingBy: 2)
      let (layer, name) = (layer(place), layerName(place))
      return isBias == 1
        ? ParameterTensor(
          name: name + ".bias", shape: [layer.outputs], offset: layer.weight + layer.outputs * layer.inputs)
        : ParameterTensor(name: name + ".weight", shape: [layer.outputs, layer.inputs], offset: layer.weight)
    }
  }

  private func layer(_ number: Int) -> Linear {
    switch number {
    case 0: input
    case 1: timeHidden
    case 2: timeOutput
    case 3: condition
    case 4: modulation
    case 5 + 2 * blocks: output
    default: ofBlock(number - 5)
    }
  }

  private func layerName(_ number: Int) -> String {
    switch number {
    case 0: "input"
    case 1: "time.hidden"
    case 2: "time.output"
    case 3: "condition"
    case 4: "modulation"
    case 5 + 2 * blocks: "output"
    default: "blocks.\((number - 5) / 2).\(number % 2 == 1 ? "hidden" : "output")"
    }
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
