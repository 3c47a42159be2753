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
/// Rows of a batch that have the same σ and condition share a context, which is computed once. An instance is the
/// memory for one pass at a time: `forward` uses the contexts of the latest `setContexts`, `backward` the activations
/// of the latest `forward`.
package final class VelocityNetwork<Scalar: NetworkScalar> {
  package let shape: NetworkShape
  /// The most rows and contexts of a call.
  package let maxRows, maxContexts: Int

  private typealias Pointer = UnsafeMutablePointer<Scalar>
  private let memory: [Buffer<Scalar>]
  private let contextOfRow: Buffer<Int32>
  private let frequencies: Buffer<Double>
  private let keepsActivations: Bool
  private var rows = 0, contexts = 0
  private let kernels = Scalar.kernels

  // Of each context.
  private let wave, timeSlope, timeActivation, sum, sumSlope, active, conditions: Pointer
  private let modulation, gradModulation, gradActive: Pointer
  // Of each row. Block b's activations begin at b·blockStride.
  private let latents, hidden, normed, slope, activation, contribution, mean, rstd: Pointer
  private let blockStride, rowStatisticsStride: Int
  private let gradHidden, gradA, gradB: Pointer

  /// - Parameters:
  ///   - training: false leaves out the memory that only `backward` needs.
  /// - Throws: `.outOfMemory`, or `.invalidArgument` where the sizes overflow.
  package init(_ shape: NetworkShape, maxRows: Int, maxContexts: Int, training: Bool) throws {
    try requireBounds("maxRows", maxRows, 1...1 << 24)
    try requireBounds("maxContexts", maxContexts, 1...1 << 24)
    self.shape = shape
    self.maxRows = maxRows
    self.maxContexts = maxContexts
    keepsActivations = training

    var memory: [Buffer<Scalar>] = []
    func room(_ sizes: Int..., only isNeeded: Bool = true) throws -> Pointer {
      let count = isNeeded ? try checkedProduct(sizes, "network memory") : 0
      let buffer = try Buffer<Scalar>(count: count, for: "the velocity network's activations of \(maxRows) rows")
      memory.append(buffer)
      return buffer.base
    }
    let (embedding, width) = (shape.embeddingSize, shape.width)
    wave = try room(maxContexts, embedding)
    timeSlope = try room(maxContexts, embedding)
    timeActivation = try room(maxContexts, embedding)
    sum = try room(maxContexts, embedding)
    sumSlope = try room(maxContexts, embedding)
    active = try room(maxContexts, embedding)
    conditions = try room(maxContexts, shape.conditionSize)
    modulation = try room(maxContexts, shape.modulationSize)
    gradModulation = try room(maxContexts, shape.modulationSize, only: training)
    gradActive = try room(maxContexts, embedding, only: training)

    // Without training, all blocks use the same rows.
    let blocks = training ? shape.blocks : 1
    let norms = training ? shape.blocks + 1 : 1
    latents = try room(maxRows, shape.latentSize, only: training)
    hidden = try room(maxRows, width, norms)
    normed = try room(maxRows, width, norms)
    slope = try room(maxRows, width, blocks)
    activation = try room(maxRows, width, blocks)
    contribution = try room(maxRows, width, blocks)
    mean = try room(maxRows, norms)
    rstd = try room(maxRows, norms)
    blockStride = training ? maxRows &* width : 0
    rowStatisticsStride = training ? maxRows : 0
    gradHidden = try room(maxRows, width, only: training)
    gradA = try room(maxRows, width, only: training)
    gradB = try room(maxRows, width, only: training)
    self.memory = memory

    contextOfRow = try Buffer(count: maxRows, for: "the contexts of \(maxRows) rows")
    let half = embedding / 2
    frequencies = try Buffer(count: half, for: "the frequencies of the time embedding")
    for i in 0..<half { frequencies.base[i] = exp(-log(10_000) * Double(i) / Double(half)) }
  }

  // MARK: Forward

  /// Computes the modulation of `sigmas.count` contexts.
  ///
  /// - Parameter conditions: (contexts, C).
  package func setContexts(
    _ parameters: NetworkParameters<Scalar>, sigmas: Numbers<Double>, conditions: UnsafePointer<Scalar>
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
    try shape.timeHidden.apply(parameters, wave, rows: contexts, to: timeSlope)
    kernels.siluForward(timeSlope, count: contexts &* embedding, into: timeActivation, slope: timeSlope)
    try shape.condition.apply(parameters, self.conditions, rows: contexts, to: sum)
    try shape.timeOutput.apply(parameters, timeActivation, rows: contexts, to: sum, adding: true)
    kernels.siluForward(sum, count: contexts &* embedding, into: active, slope: sumSlope)
    try shape.modulation.apply(parameters, active, rows: contexts, to: modulation)
  }

  /// velocity (rows, D) at latents (rows, D).
  ///
  /// - Parameters:
  ///   - contextOfRow: for each row its context, 0 ..< contexts.
  ///   - firstRow: rows before it, of earlier passes with the same contexts, stay for `backward`.
  /// - Throws: `.invalidArgument` for too many rows or a context that is not there.
  package func forward(
    _ parameters: NetworkParameters<Scalar>, latents: UnsafePointer<Scalar>, contextOfRow: Numbers<Int32>,
    velocity: UnsafeMutablePointer<Scalar>, firstRow: Int = 0
  ) throws {
    let count = contextOfRow.count
    try requireBounds("rows", count, 1...maxRows)
    try requireBounds("first row", firstRow, 0...(keepsActivations ? min(rows, maxRows &- count) : 0))
    guard contextOfRow.allSatisfy({ $0 >= 0 && Int($0) < contexts }) else {
      throw ChunkGRPOError.invalidArgument("contextOfRow: a row has a context outside 0 … \(contexts - 1)")
    }
    rows = firstRow &+ count
    for (r, context) in contextOfRow.enumerated() { self.contextOfRow.base[firstRow &+ r] = context }
    if keepsActivations {
      (self.latents + firstRow &* shape.latentSize).update(from: latents, count: count &* shape.latentSize)
    }

    let width = shape.width
    try shape.input.apply(parameters, latents, rows: count, to: hidden + firstRow &* width)
    for b in 0..<shape.blocks {
      let start = b &* blockStride &+ firstRow &* width
      norm(b, from: firstRow)
      try shape.hidden(b).apply(parameters, normed + start, rows: count, to: slope + start)
      kernels.siluForward(slope + start, count: count &* width, into: activation + start, slope: slope + start)
      try shape.contribution(b).apply(parameters, activation + start, rows: count, to: contribution + start)
      var addition = GateArguments(
        z: contribution + start, x: hidden + start, rows: count, width: width, modulation: table(from: firstRow),
        gate: gate(b), y: hidden + start + blockStride)
      kernels.gateForward(&addition)
    }
    norm(shape.blocks, from: firstRow)
    try shape.output.apply(
      parameters, normed + (shape.blocks &* blockStride &+ firstRow &* width), rows: count, to: velocity)
  }

  /// Leaves only the first `count` rows for `backward`.
  func truncate(to count: Int) { rows = min(rows, count) }

  // MARK: Backward

  /// The gradient of every parameter, given that of the velocity, for the latest `forward`.
  ///
  /// - Parameters:
  ///   - parameters: those of the forward pass.
  ///   - gradVelocity: (rows, D).
  ///   - gradParameters: added to, or with `adding` false written over.
  ///   - gradLatents: (rows, D) to write the gradient of the latents into, or nil.
  /// - Throws: `.invalidArgument` where the network was made without training or has not run.
  package func backward(
    _ parameters: NetworkParameters<Scalar>, gradVelocity: UnsafePointer<Scalar>,
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
    // Gradients of biases are sums over rows; products write the others.
    if !adding {
      for layer in shape.layers {
        if let bias = layer.bias { (g + bias).update(repeating: 0, count: layer.outputs) }
      }
    }

    kernels.addColumnSums(gradVelocity, rows: rows, width: shape.latentSize, to: g + bias(shape.output))
    try shape.output.weightGradient(gradVelocity, normed + shape.blocks &* blockStride, rows: rows, g, adding: adding)
    try shape.output.applyTransposed(parameters, gradVelocity, rows: rows, to: gradA)
    normGradient(gradA, shape.blocks, grad)
    for b in (0..<shape.blocks).reversed() {
      let start = b &* blockStride
      let (hidden, output) = (shape.hidden(b), shape.contribution(b))
      var addition = GateGradientArguments(
        dy: gradHidden, z: contribution + start, rows: rows, width: width, modulation: table(), gradModulation: grad,
        gate: gate(b), dz: gradB, gradBias: g + bias(output))
      kernels.gateBackward(&addition)
      try output.weightGradient(gradB, activation + start, rows: rows, g, adding: adding)
      try output.applyTransposed(parameters, gradB, rows: rows, to: gradA)
      kernels.siluBackward(gradA, slope: slope + start, rows: rows, width: width, gradBias: g + bias(hidden))
      try hidden.weightGradient(gradA, normed + start, rows: rows, g, adding: adding)
      try hidden.applyTransposed(parameters, gradA, rows: rows, to: gradB)
      normGradient(gradB, b, grad)
    }
    kernels.addColumnSums(gradHidden, rows: rows, width: width, to: g + bias(shape.input))
    try shape.input.weightGradient(gradHidden, latents, rows: rows, g, adding: adding)
    if let gradLatents { try shape.input.applyTransposed(parameters, gradHidden, rows: rows, to: gradLatents) }
    try contextsBackward(parameters, g, adding)
  }

  private func contextsBackward(
    _ parameters: NetworkParameters<Scalar>, _ g: UnsafeMutablePointer<Scalar>, _ adding: Bool
  ) throws {
    let embedding = shape.embeddingSize
    kernels.addColumnSums(gradModulation, rows: contexts, width: shape.modulationSize, to: g + bias(shape.modulation))
    try shape.modulation.weightGradient(gradModulation, active, rows: contexts, g, adding: adding)
    try shape.modulation.applyTransposed(parameters, gradModulation, rows: contexts, to: gradActive)
    kernels.siluBackward(
      gradActive, slope: sumSlope, rows: contexts, width: embedding, gradBias: g + bias(shape.timeOutput))
    try shape.condition.weightGradient(gradActive, conditions, rows: contexts, g, adding: adding)
    try shape.timeOutput.weightGradient(gradActive, timeActivation, rows: contexts, g, adding: adding)
    try shape.timeOutput.applyTransposed(parameters, gradActive, rows: contexts, to: sum)
    kernels.siluBackward(sum, slope: timeSlope, rows: contexts, width: embedding, gradBias: g + bias(shape.timeHidden))
    try shape.timeHidden.weightGradient(sum, wave, rows: contexts, g, adding: adding)
  }

  // MARK: Places in memory

  private func table(from row: Int = 0) -> ModulationTable {
    ModulationTable(base: modulation, stride: shape.modulationSize, contexts: contextOfRow.base + row)
  }

  private func bias(_ layer: Linear) -> Int { layer.bias ?? 0 }

  // A row of the modulation table: (shift, scale, gate) of each block, then (shift, scale) of the last layer.
  private func shift(_ block: Int) -> Int { 3 &* block &* shape.width }
  private func scale(_ block: Int) -> Int { (3 &* block &+ 1) &* shape.width }
  private func gate(_ block: Int) -> Int { (3 &* block &+ 2) &* shape.width }

  private func norm(_ block: Int, from row: Int) {
    let start = block &* blockStride &+ row &* shape.width
    let statistics = block &* rowStatisticsStride &+ row
    var arguments = NormArguments(
      x: hidden + start, rows: rows &- row, width: shape.width, modulation: table(from: row), shift: shift(block),
      scale: scale(block), y: normed + start, mean: mean + statistics, rstd: rstd + statistics)
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
