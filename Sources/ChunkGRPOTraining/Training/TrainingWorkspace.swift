import ChunkGRPO

/// The network, the rows and the gradients of one lane.
final class TrainingLane {
  let network: VelocityNetwork<Float>
  let gradients: Buffer<Float>
  /// (maxRows, D) each.
  let latents, next, velocity, gradVelocity: Buffer<Float>
  /// (maxRows, C)
  let conditions: Buffer<Float>
  /// Of each context its σ, of each row its context, sample and noise id; (maxRows) each.
  let sigmas: Buffer<Double>
  let contexts: Buffer<Int32>
  let samples: Buffer<Int>
  let ids: Buffer<UInt64>
  /// Where the rows of each step begin, and their end.
  let starts: Buffer<Int>
  /// A number of each row of a step, for the length of a call.
  let numbers: Buffer<Double>

  init(_ shape: NetworkShape, maxRows: Int) throws {
    network = try VelocityNetwork(shape, maxRows: maxRows, maxContexts: maxRows, training: true)
    gradients = try Buffer(count: shape.parameterCount, for: "\(shape.parameterCount) gradients")
    func rows(of size: Int) throws -> Buffer<Float> {
      try Buffer(count: checkedProduct([maxRows, size], "the rows of a batch"), for: "the rows of a batch")
    }
    latents = try rows(of: shape.latentSize)
    next = try rows(of: shape.latentSize)
    velocity = try rows(of: shape.latentSize)
    gradVelocity = try rows(of: shape.latentSize)
    conditions = try rows(of: shape.conditionSize)
    sigmas = try Buffer(count: maxRows, for: "the rows of a batch")
    contexts = try Buffer(count: maxRows, for: "the rows of a batch")
    samples = try Buffer(count: maxRows, for: "the rows of a batch")
    ids = try Buffer(count: maxRows, for: "the rows of a batch")
    starts = try Buffer(count: maxRows + 1, for: "the rows of a batch")
    numbers = try Buffer(count: maxRows, for: "the rows of a batch")
  }

  func view(_ buffer: Buffer<Float>, _ rows: Range<Int>) -> LatentsView {
    let size = network.shape.latentSize
    return LatentsView(buffer.base + rows.lowerBound &* size, type: .float32, batch: rows.count, elements: size)
  }

  /// The velocities of the first rows and contexts, which are in place.
  func forward(_ parameters: NetworkParameters<Float>, rows: Int, contexts count: Int) throws {
    try network.setContexts(parameters, sigmas: Numbers(sigmas, count: count), conditions: conditions.base)
    try network.forward(
      parameters, latents: latents.base, contextOfRow: Numbers(contexts, count: rows), velocity: velocity.base)
  }

  /// The gradients of the parameters for those of the velocities, added to the lane's or written over them.
  func backward(_ parameters: NetworkParameters<Float>, adding: Bool) throws {
    try network.backward(
      parameters, gradVelocity: gradVelocity.base, gradParameters: gradients.base, adding: adding)
  }
}

/// Memory for training, kept from call to call.
final class TrainingWorkspace {
  let shape: NetworkShape
  let threads: Int
  /// Rows of one pass, at least those of a sample. More are cut into several passes: memory is bounded, and activations stay
  /// in the caches.
  let maxRows: Int
  /// As many as any batch had so far.
  private var lanes: [TrainingLane] = []
  private let transposed: Buffer<Float>

  init(_ shape: NetworkShape, stepsPerSample: Int, threads: Int) throws {
    self.shape = shape
    self.threads = threads
    maxRows = max(stepsPerSample, boundedRows(shape, lanes: laneCount(.max, shape)))
    transposed = try Buffer(count: shape.parameterCount, for: "\(shape.parameterCount) transposed weights")
  }

  /// The lanes of a batch of `samples`.
  func lanes(for samples: Int) throws -> [TrainingLane] {
    let count = laneCount(samples, shape)
    while lanes.count < count { lanes.append(try TrainingLane(shape, maxRows: maxRows)) }
    return Array(lanes[..<count])
  }

  /// The parameters of `state`, until the next call; transposed too where that makes products faster.
  func parameters(_ state: TrainingState) -> NetworkParameters<Float> {
    guard Float.kernels.hasProduct else { return NetworkParameters(state.parameters.base) }
    shape.transpose(state.parameters.base, into: transposed.base, threads: threads)
    return NetworkParameters(state.parameters.base, transposed: transposed.base)
  }
}
