import ChunkGRPO

/// What one thread works on at a time: at least so many samples that a product of them pays.
let samplesPerPart = 24

/// How many parts `samples` are cut into: a function of sizes alone, so that sums over parts have one order and the results
/// are the same for any number of threads. A network whose gradients take much memory has fewer.
func partCount(_ samples: Int, _ shape: NetworkShape) -> Int {
  min(max(1, samples / samplesPerPart), max(1, min(8, (256 << 20) / (4 &* shape.parameterCount))))
}

/// As many rows as a pass of one of `parts` parts can take within 256 MB for all, 16 … 512.
func boundedRows(_ shape: NetworkShape, parts: Int) -> Int {
  let row = (5 &* shape.blocks &+ 5) &* shape.width &+ 5 &* shape.latentSize
  let context = 2 &* shape.modulationSize &+ 7 &* shape.embeddingSize &+ 2 &* shape.conditionSize
  return min(512, max(16, (256 << 20) / (4 &* (row &+ context)) / parts))
}

/// `whole` cut into `count` parts.
func part(_ number: Int, of whole: Range<Int>, count: Int) -> Range<Int> {
  func start(_ number: Int) -> Int { whole.lowerBound + whole.count * number / count }
  return start(number)..<start(number + 1)
}

/// Runs `body` for each of `count` parts of `whole`, on up to `threads` threads.
///
/// - Throws: what the first part in order that fails throws.
func forEachPart(
  of whole: Range<Int>, count: Int, threads: Int, _ body: (_ number: Int, _ part: Range<Int>) throws -> Void
) throws {
  if count == 1 { return try body(0, whole) }
  var errors = [(any Error)?](repeating: nil, count: count)
  errors.withUnsafeMutableBufferPointer { errors in
    BLAS.onOneThread {
      parallel(units: count, threads: threads) {
        for number in $0 {
          do { try body(number, part(number, of: whole, count: count)) } catch { errors[number] = error }
        }
      }
    }
  }
  if let error = errors.lazy.compactMap({ $0 }).first { throw error }
}

/// The network and the rows of one part of a batch, for training.
final class TrainingPart {
  let network: VelocityNetwork<Float>
  let gradients: Buffer<Float>
  /// (maxRows, D) each.
  let latents, next, velocity, gradVelocity: Buffer<Float>
  /// (maxRows, C)
  let conditions: Buffer<Float>

  init(_ shape: NetworkShape, maxRows: Int) throws {
    network = try VelocityNetwork(shape, maxRows: maxRows, maxContexts: maxRows, training: true)
    gradients = try Buffer(count: shape.parameterCount, for: "\(shape.parameterCount) gradients")
    let count = try checkedProduct([maxRows, shape.latentSize], "the rows of a batch")
    latents = try Buffer(count: count, for: "the latents of a batch")
    next = try Buffer(count: count, for: "the next latents of a batch")
    velocity = try Buffer(count: count, for: "the velocities of a batch")
    gradVelocity = try Buffer(count: count, for: "the gradients of a batch")
    conditions = try Buffer(
      count: checkedProduct([maxRows, shape.conditionSize], "the conditions of a batch"),
      for: "the conditions of a batch")
  }

  func view(_ buffer: Buffer<Float>, _ rows: Range<Int>, of size: Int) -> LatentsView {
    LatentsView(buffer.base + rows.lowerBound &* size, type: .float32, batch: rows.count, elements: size)
  }
}

/// Memory for training, kept from call to call.
final class TrainingWorkspace {
  let shape: NetworkShape
  let threads: Int
  /// Rows of one pass: more are cut into several, so that memory is bounded and the activations stay in the caches.
  let maxRows: Int
  /// As many as a batch was cut into so far.
  private var parts: [TrainingPart] = []
  private let transposed: Buffer<Float>

  init(_ shape: NetworkShape, trainedSteps: Int, threads: Int) throws {
    self.shape = shape
    self.threads = threads
    maxRows = max(trainedSteps, boundedRows(shape, parts: partCount(.max, shape)))
    transposed = try Buffer(count: shape.parameterCount, for: "\(shape.parameterCount) transposed weights")
  }

  /// For `samples` samples.
  func parts(for samples: Int) throws -> [TrainingPart] {
    let count = partCount(samples, shape)
    while parts.count < count { parts.append(try TrainingPart(shape, maxRows: maxRows)) }
    return Array(parts[..<count])
  }

  /// The weights of `state`, until the next call; transposed too where that makes products faster.
  func weights(_ state: TrainingState) -> NetworkWeights {
    if Float.hasProduct { shape.transpose(state.weights.base, into: transposed.base, threads: threads) }
    return NetworkWeights(
      parameters: state.weights.base, transposed: Float.hasProduct ? UnsafePointer(transposed.base) : nil)
  }
}
