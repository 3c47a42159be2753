import ChunkGRPO
internal import KernelTable
internal import Platform

/// The velocity network: a residual MLP with adaptive layer norm (DiT's adaLN-Zero, arXiv 2212.09748).
///
///     u = SiLU(time(σ) + W_c·condition)                       a context: one (σ, condition)
///     shift, scale, gate of each block and the last layer = W_m·u + b_m
///     h ← W_in·x + b_in
///     h ← h + gate·(W_2·SiLU(W_1·(norm(h)·(1 + scale) + shift) + b_1) + b_2)      for each block
///     v = W_out·(norm(h)·(1 + scale) + shift) + b_out
///
/// time(σ) is an MLP of one hidden layer over cosines and sines of 1000·σ.
///
/// The rows of a batch that have the same σ and condition share a context, which is computed once. Parameters are the
/// caller's, a flat buffer laid out by `shape.tensors`; an instance is the memory for one pass at a time. A second buffer
/// that has each weight transposed (`shape.transpose`) makes a pass faster, and is worth it from some passes on.
///
/// `forward` uses the contexts of the latest `setContexts`, `backward` the activations of the latest `forward`.
public final class VelocityNetwork<Scalar: NetworkScalar> {
  public let shape: NetworkShape
  /// Rows and contexts of a call are at most these.
  public let maxRows, maxContexts: Int

  private typealias Pointer = UnsafeMutablePointer<Scalar>
  private let memory: Buffer<Scalar>
  private let contextOfRow: Buffer<Int32>
  private let frequencies: Buffer<Double>
  private let keepsActivations: Bool
  private var rows = 0, contexts = 0
  private let kernels = Scalar.kernels

  // Contexts.
  private let wave, timeSlope, timeActivation, sum, sumSlope, active, conditions: Pointer
  private let modulation, gradModulation, gradActive: Pointer
  // Rows. Of the blocks' activations, block b's begin at b·blockStride.
  private let latents, hidden, normed, slope, activation, contribution, mean, rstd: Pointer
  private let blockStride, rowStatisticsStride: Int
  private let gradHidden, gradA, gradB: Pointer

  /// - Parameters:
  ///   - training: false leaves out the memory that only `backward` needs.
  /// - Throws: `.outOfMemory`, or `.invalidArgument` where the sizes overflow.
  public init(_ shape: NetworkShape, maxRows: Int, maxContexts: Int, training: Bool) throws {
    try requireBounds("maxRows", maxRows, 1...1 << 24)
    try requireBounds("maxContexts", maxContexts, 1...1 << 24)
    self.shape = shape
    self.maxRows = maxRows
    self.maxContexts = maxContexts
    keepsActivations = training

    var total = 0
    var offsets: [Int] = []
    func plan(_ sizes: [Int]) throws {
      // Multiples of 16 elements, so that each part is aligned like the whole.
      let size = (try checkedProduct(sizes, "network memory") &+ 15) & ~15
      let (sum, overflow) = total.addingReportingOverflow(size)
      guard !overflow, size >= 0 else {
        throw ChunkGRPOError.invalidArgument("the network's memory for \(maxRows) rows overflows the address space")
      }
      offsets.append(total)
      total = sum
    }
    let embedding = shape.embeddingSize
    for _ in 0..<6 { try plan([maxContexts, embedding]) }
    try plan([maxContexts, shape.conditionSize])
    try plan([maxContexts, shape.modulationSize])
    try plan(training ? [maxContexts, shape.modulationSize] : [])
    try plan(training ? [maxContexts, embedding] : [])
    let kept = training ? shape.blocks + 1 : 1
    try plan(training ? [maxRows, shape.latentSize] : [])
    for _ in 0..<2 { try plan([maxRows, shape.width, kept]) }
    for _ in 0..<3 { try plan([maxRows, shape.width, max(1, kept - 1)]) }
    for _ in 0..<2 { try plan([maxRows, kept]) }
    for _ in 0..<3 { try plan(training ? [maxRows, shape.width] : []) }
    memory = try Buffer(count: total, for: "the velocity network's activations of \(maxRows) rows")
    contextOfRow = try Buffer(count: maxRows, for: "the contexts of \(maxRows) rows")

    let half = embedding / 2
    frequencies = try Buffer(count: half, for: "the frequencies of the time embedding")
    for i in 0..<half { frequencies.base[i] = exp(-log(10_000) * Double(i) / Double(half)) }

    blockStride = training ? maxRows &* shape.width : 0
    rowStatisticsStride = training ? maxRows : 0
    let base = memory.base
    let parts = offsets.map { base + $0 }
    wave = parts[0]
    timeSlope = parts[1]
    timeActivation = parts[2]
    sum = parts[3]
    sumSlope = parts[4]
    active = parts[5]
    conditions = parts[6]
    modulation = parts[7]
    gradModulation = parts[8]
    gradActive = parts[9]
    latents = parts[10]
    hidden = parts[11]
    normed = parts[12]
    slope = parts[13]
    activation = parts[14]
    contribution = parts[15]
    mean = parts[16]
    rstd = parts[17]
    gradHidden = parts[18]
    gradA = parts[19]
    gradB = parts[20]
  }

  // MARK: Forward

  /// Computes the modulation of `sigmas.count` contexts.
  ///
  /// - Parameters:
  ///   - parameters: `shape.parameterCount` numbers.
  ///   - conditions: (contexts, C).
  public func setContexts(
    parameters p: UnsafePointer<Scalar>, transposed t: UnsafePointer<Scalar>? = nil,
    sigmas: UnsafeBufferPointer<Double>, conditions: UnsafePointer<Scalar>
  ) throws {
    try requireBounds("contexts", sigmas.count, 1...maxContexts)
    contexts = sigmas.count
    let embedding = shape.embeddingSize
    self.conditions.update(from: conditions, count: contexts &* shape.conditionSize)
    for (i, sigma) in sigmas.enumerated() {
      let row = wave + i &* embedding
      if i > 0, sigma == sigmas[i - 1] {
        row.update(from: row - embedding, count: embedding)
      } else {
        timeWave(sigma, into: row)
      }
    }
    shape.timeHidden.apply(p, t, wave, rows: contexts, to: timeSlope)
    kernels.siluForward(timeSlope, count: contexts &* embedding, into: timeActivation, slope: timeSlope)
    shape.condition.apply(p, t, self.conditions, rows: contexts, to: sum)
    shape.timeOutput.apply(p, t, timeActivation, rows: contexts, to: sum, adding: true)
    kernels.siluForward(sum, count: contexts &* embedding, into: active, slope: sumSlope)
    shape.modulation.apply(p, t, active, rows: contexts, to: modulation)
  }

  /// velocity (rows, D) at latents (rows, D).
  ///
  /// - Parameters:
  ///   - contextOfRow: for each row its context, 0 ..< contexts.
  ///   - kept: so many rows of the passes before, of the same contexts, stay in front of these for `backward`.
  /// - Throws: `.invalidArgument` for too many rows or a context that is not there.
  public func forward(
    parameters p: UnsafePointer<Scalar>, transposed t: UnsafePointer<Scalar>? = nil, latents: UnsafePointer<Scalar>,
    contextOfRow: UnsafeBufferPointer<Int32>, velocity: UnsafeMutablePointer<Scalar>, keeping kept: Int = 0
  ) throws {
    let count = contextOfRow.count
    try requireBounds("rows", count, 1...maxRows)
    try requireBounds("kept rows", kept, 0...(keepsActivations ? min(rows, maxRows &- count) : 0))
    guard contextOfRow.allSatisfy({ $0 >= 0 && Int($0) < contexts }) else {
      throw ChunkGRPOError.invalidArgument("contextOfRow: a row has a context outside 0 … \(contexts - 1)")
    }
    rows = kept &+ count
    for (r, context) in contextOfRow.enumerated() { self.contextOfRow.base[kept &+ r] = context }
    if keepsActivations {
      (self.latents + kept &* shape.latentSize).update(from: latents, count: count &* shape.latentSize)
    }

    let width = shape.width
    shape.input.apply(p, t, latents, rows: count, to: hidden + kept &* width)
    for b in 0..<shape.blocks {
      let part = b &* blockStride &+ kept &* width
      norm(b, from: kept)
      shape.hidden[b].apply(p, t, normed + part, rows: count, to: slope + part)
      kernels.siluForward(slope + part, count: count &* width, into: activation + part, slope: slope + part)
      shape.contribution[b].apply(p, t, activation + part, rows: count, to: contribution + part)
      var addition = GateArguments(
        z: contribution + part, x: hidden + part, rows: count, width: width, modulation: table(from: kept),
        gate: gate(b), y: hidden + part + blockStride)
      kernels.gateForward(&addition)
    }
    norm(shape.blocks, from: kept)
    shape.output.apply(p, t, normed + (shape.blocks &* blockStride &+ kept &* width), rows: count, to: velocity)
  }

  /// Leaves only the first `count` rows for `backward`.
  func keep(_ count: Int) { rows = min(rows, count) }

  // MARK: Backward

  /// The gradient of every parameter, given that of the velocity, for the latest `forward`.
  ///
  /// - Parameters:
  ///   - parameters: those of the forward pass.
  ///   - gradVelocity: (rows, D).
  ///   - gradParameters: added to, or with `adding` false written over.
  ///   - gradLatents: (rows, D) to write the gradient of the latents into, or nil.
  /// - Throws: `.invalidArgument` where the network was made without training or has not run.
  public func backward(
    parameters p: UnsafePointer<Scalar>, gradVelocity: UnsafePointer<Scalar>,
    gradParameters g: UnsafeMutablePointer<Scalar>, adding: Bool = true,
    gradLatents: UnsafeMutablePointer<Scalar>? = nil
  ) throws {
    guard keepsActivations, rows > 0 else {
      throw ChunkGRPOError.invalidArgument("backward: the network was made without training, or has not run forward")
    }
    let width = shape.width
    let grad = ModulationTable(base: gradModulation, stride: shape.modulationSize, contexts: contextOfRow.base)
    gradModulation.update(repeating: 0, count: contexts &* shape.modulationSize)
    gradHidden.update(repeating: 0, count: rows &* width)
    // Those of the biases are sums over rows; products write the others.
    if !adding {
      for bias in shape.tensors where bias.shape.count == 1 {
        (g + bias.offset).update(repeating: 0, count: bias.count)
      }
    }

    kernels.addColumnSums(gradVelocity, rows: rows, width: shape.latentSize, to: g + bias(shape.output))
    shape.output.weightGradient(gradVelocity, normed + shape.blocks &* blockStride, rows: rows, g, adding: adding)
    shape.output.applyTransposed(p, gradVelocity, rows: rows, to: gradA)
    normGradient(gradA, shape.blocks, grad)
    for b in (0..<shape.blocks).reversed() {
      let part = b &* blockStride
      let (hidden, output) = (shape.hidden[b], shape.contribution[b])
      var addition = GateGradientArguments(
        dy: gradHidden, z: contribution + part, rows: rows, width: width, modulation: table(), gradModulation: grad,
        gate: gate(b), dz: gradB, gradBias: g + bias(output))
      kernels.gateBackward(&addition)
      output.weightGradient(gradB, activation + part, rows: rows, g, adding: adding)
      output.applyTransposed(p, gradB, rows: rows, to: gradA)
      kernels.siluBackward(gradA, slope: slope + part, rows: rows, width: width, gradBias: g + bias(hidden))
      hidden.weightGradient(gradA, normed + part, rows: rows, g, adding: adding)
      hidden.applyTransposed(p, gradA, rows: rows, to: gradB)
      normGradient(gradB, b, grad)
    }
    kernels.addColumnSums(gradHidden, rows: rows, width: width, to: g + bias(shape.input))
    shape.input.weightGradient(gradHidden, latents, rows: rows, g, adding: adding)
    if let gradLatents { shape.input.applyTransposed(p, gradHidden, rows: rows, to: gradLatents) }
    contextsBackward(p, g, adding)
  }

  private func contextsBackward(_ p: UnsafePointer<Scalar>, _ g: UnsafeMutablePointer<Scalar>, _ adding: Bool) {
    let embedding = shape.embeddingSize
    kernels.addColumnSums(gradModulation, rows: contexts, width: shape.modulationSize, to: g + bias(shape.modulation))
    shape.modulation.weightGradient(gradModulation, active, rows: contexts, g, adding: adding)
    shape.modulation.applyTransposed(p, gradModulation, rows: contexts, to: gradActive)
    kernels.siluBackward(
      gradActive, slope: sumSlope, rows: contexts, width: embedding, gradBias: g + bias(shape.timeOutput))
    shape.condition.weightGradient(gradActive, conditions, rows: contexts, g, adding: adding)
    shape.timeOutput.weightGradient(gradActive, timeActivation, rows: contexts, g, adding: adding)
    shape.timeOutput.applyTransposed(p, gradActive, rows: contexts, to: sum)
    kernels.siluBackward(sum, slope: timeSlope, rows: contexts, width: embedding, gradBias: g + bias(shape.timeHidden))
    shape.timeHidden.weightGradient(sum, wave, rows: contexts, g, adding: adding)
  }

  // MARK: Parts

  private func table(from row: Int = 0) -> ModulationTable {
    ModulationTable(base: modulation, stride: shape.modulationSize, contexts: contextOfRow.base + row)
  }

  private func bias(_ layer: Linear) -> Int { layer.bias ?? 0 }

  // A row of the modulation table: (shift, scale, gate) of each block, then (shift, scale) of the last layer.
  private func shift(_ block: Int) -> Int { 3 &* block &* shape.width }
  private func scale(_ block: Int) -> Int { (3 &* block &+ 1) &* shape.width }
  private func gate(_ block: Int) -> Int { (3 &* block &+ 2) &* shape.width }

  private func norm(_ block: Int, from row: Int) {
    let part = block &* blockStride &+ row &* shape.width
    let statistics = block &* rowStatisticsStride &+ row
    var arguments = NormArguments(
      x: hidden + part, rows: rows &- row, width: shape.width, modulation: table(from: row), shift: shift(block),
      scale: scale(block), y: normed + part, mean: mean + statistics, rstd: rstd + statistics)
    kernels.normForward(&arguments)
  }

  private func normGradient(_ dy: UnsafePointer<Scalar>, _ block: Int, _ grad: ModulationTable) {
    let statistics = block &* rowStatisticsStride
    var arguments = NormGradientArguments(
      dy: dy, x: hidden + block &* blockStride, mean: mean + statistics, rstd: rstd + statistics, rows: rows,
      width: shape.width, modulation: table(), gradModulation: grad, shift: shift(block), scale: scale(block),
      dx: gradHidden)
    kernels.normBackward(&arguments)
  }

  /// Cosines, then sines, of 1000·σ at E/2 frequencies from 1 down to almost 1/10,000 (DiT).
  private func timeWave(_ sigma: Double, into wave: UnsafeMutablePointer<Scalar>) {
    let half = shape.embeddingSize / 2
    for i in 0..<half {
      let angle = 1000 * sigma * frequencies.base[i]
      wave[i] = Scalar(cos(angle))
      wave[half &+ i] = Scalar(sin(angle))
    }
  }
}
