import ChunkGRPO
import Glibc

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
/// caller's, a flat buffer laid out by `shape.tensors`; an instance is the memory for one pass at a time.
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
    parameters p: UnsafePointer<Scalar>, sigmas: UnsafeBufferPointer<Double>, conditions: UnsafePointer<Scalar>
  ) throws {
    try requireBounds("contexts", sigmas.count, 1...maxContexts)
    contexts = sigmas.count
    let embedding = shape.embeddingSize
    self.conditions.update(from: conditions, count: contexts &* shape.conditionSize)
    for (i, sigma) in sigmas.enumerated() { timeWave(sigma, into: wave + i &* embedding) }
    apply(shape.timeHidden, p, wave, rows: contexts, to: timeSlope, beta: 0)
    siluForward(
      timeSlope, bias: p + bias(shape.timeHidden), rows: contexts, embedding, y: timeActivation, slope: timeSlope)
    apply(shape.condition, p, self.conditions, rows: contexts, to: sum, beta: 0)
    apply(shape.timeOutput, p, timeActivation, rows: contexts, to: sum, beta: 1)
    siluForward(sum, bias: p + bias(shape.timeOutput), rows: contexts, embedding, y: active, slope: sumSlope)
    fill(modulation, rows: contexts, with: p + bias(shape.modulation), shape.modulationSize)
    apply(shape.modulation, p, active, rows: contexts, to: modulation, beta: 1)
  }

  /// velocity (rows, D) at latents (rows, D).
  ///
  /// - Parameter contextOfRow: for each row its context, 0 ..< contexts.
  /// - Throws: `.invalidArgument` for too many rows or a context that is not there.
  public func forward(
    parameters p: UnsafePointer<Scalar>, latents: UnsafePointer<Scalar>, contextOfRow: UnsafeBufferPointer<Int32>,
    velocity: UnsafeMutablePointer<Scalar>
  ) throws {
    let rows = contextOfRow.count
    try requireBounds("rows", rows, 1...maxRows)
    guard contextOfRow.allSatisfy({ $0 >= 0 && Int($0) < contexts }) else {
      throw ChunkGRPOError.invalidArgument("contextOfRow: a row has a context outside 0 … \(contexts - 1)")
    }
    self.rows = rows
    for (r, context) in contextOfRow.enumerated() { self.contextOfRow.base[r] = context }
    if keepsActivations { self.latents.update(from: latents, count: rows &* shape.latentSize) }

    let width = shape.width
    fill(hidden, rows: rows, with: p + bias(shape.input), width)
    apply(shape.input, p, latents, rows: rows, to: hidden, beta: 1)
    for b in 0..<shape.blocks {
      let part = b &* blockStride
      norm(b)
      apply(shape.hidden[b], p, normed + part, rows: rows, to: slope + part, beta: 0)
      siluForward(
        slope + part, bias: p + bias(shape.hidden[b]), rows: rows, width, y: activation + part, slope: slope + part)
      apply(shape.contribution[b], p, activation + part, rows: rows, to: contribution + part, beta: 0)
      gateForward(
        contribution + part, bias: p + bias(shape.contribution[b]), x: hidden + part, rows: rows, width,
        modulation: table, gate: gate(b), y: hidden + part + blockStride)
    }
    norm(shape.blocks)
    fill(velocity, rows: rows, with: p + bias(shape.output), shape.latentSize)
    apply(shape.output, p, normed + shape.blocks &* blockStride, rows: rows, to: velocity, beta: 1)
  }

  // MARK: Backward

  /// Adds the gradient of every parameter to `gradParameters`, given that of the velocity, for the latest `forward`.
  ///
  /// - Parameters:
  ///   - parameters: those of the forward pass.
  ///   - gradVelocity: (rows, D).
  ///   - gradLatents: (rows, D) to write the gradient of the latents into, or nil.
  /// - Throws: `.invalidArgument` where the network was made without training or has not run.
  public func backward(
    parameters p: UnsafePointer<Scalar>, gradVelocity: UnsafePointer<Scalar>,
    gradParameters g: UnsafeMutablePointer<Scalar>, gradLatents: UnsafeMutablePointer<Scalar>? = nil
  ) throws {
    guard keepsActivations, rows > 0 else {
      throw ChunkGRPOError.invalidArgument("backward: the network was made without training, or has not run forward")
    }
    let width = shape.width
    let grad = Modulation(table: gradModulation, stride: shape.modulationSize, contexts: contextOfRow.base)
    gradModulation.update(repeating: 0, count: contexts &* shape.modulationSize)
    gradHidden.update(repeating: 0, count: rows &* width)

    addColumnSums(gradVelocity, rows: rows, shape.latentSize, to: g + bias(shape.output))
    addWeightGradient(shape.output, g, gradVelocity, normed + shape.blocks &* blockStride, rows: rows)
    applyTransposed(shape.output, p, gradVelocity, rows: rows, to: gradA)
    normGradient(gradA, shape.blocks, grad)
    for b in (0..<shape.blocks).reversed() {
      let part = b &* blockStride
      gateBackward(
        gradHidden, z: contribution + part, bias: p + bias(shape.contribution[b]), rows: rows, width, modulation: table,
        gradModulation: grad, gate: gate(b), dz: gradB, gradBias: g + bias(shape.contribution[b]))
      addWeightGradient(shape.contribution[b], g, gradB, activation + part, rows: rows)
      applyTransposed(shape.contribution[b], p, gradB, rows: rows, to: gradA)
      siluBackward(gradA, slope: slope + part, rows: rows, width, gradBias: g + bias(shape.hidden[b]))
      addWeightGradient(shape.hidden[b], g, gradA, normed + part, rows: rows)
      applyTransposed(shape.hidden[b], p, gradA, rows: rows, to: gradB)
      normGradient(gradB, b, grad)
    }
    addColumnSums(gradHidden, rows: rows, width, to: g + bias(shape.input))
    addWeightGradient(shape.input, g, gradHidden, latents, rows: rows)
    if let gradLatents { applyTransposed(shape.input, p, gradHidden, rows: rows, to: gradLatents) }
    contextsBackward(p, g)
  }

  private func contextsBackward(_ p: UnsafePointer<Scalar>, _ g: UnsafeMutablePointer<Scalar>) {
    let embedding = shape.embeddingSize
    addColumnSums(gradModulation, rows: contexts, shape.modulationSize, to: g + bias(shape.modulation))
    addWeightGradient(shape.modulation, g, gradModulation, active, rows: contexts)
    applyTransposed(shape.modulation, p, gradModulation, rows: contexts, to: gradActive)
    siluBackward(gradActive, slope: sumSlope, rows: contexts, embedding, gradBias: g + bias(shape.timeOutput))
    addWeightGradient(shape.condition, g, gradActive, conditions, rows: contexts)
    addWeightGradient(shape.timeOutput, g, gradActive, timeActivation, rows: contexts)
    applyTransposed(shape.timeOutput, p, gradActive, rows: contexts, to: sum)
    siluBackward(sum, slope: timeSlope, rows: contexts, embedding, gradBias: g + bias(shape.timeHidden))
    addWeightGradient(shape.timeHidden, g, sum, wave, rows: contexts)
  }

  // MARK: Parts

  private var table: Modulation<Scalar> {
    Modulation(table: modulation, stride: shape.modulationSize, contexts: contextOfRow.base)
  }

  // A row of the modulation table: (shift, scale, gate) of each block, then (shift, scale) of the last layer.
  private func shift(_ block: Int) -> Int { 3 &* block &* shape.width }
  private func scale(_ block: Int) -> Int { (3 &* block &+ 1) &* shape.width }
  private func gate(_ block: Int) -> Int { (3 &* block &+ 2) &* shape.width }

  private func norm(_ block: Int) {
    let part = block &* blockStride
    normForward(
      hidden + part, rows: rows, shape.width, modulation: table, shift: shift(block), scale: scale(block),
      y: normed + part, mean: mean + block &* rowStatisticsStride, rstd: rstd + block &* rowStatisticsStride)
  }

  private func normGradient(_ dy: UnsafePointer<Scalar>, _ block: Int, _ grad: Modulation<Scalar>) {
    normBackward(
      dy, x: hidden + block &* blockStride, mean: mean + block &* rowStatisticsStride,
      rstd: rstd + block &* rowStatisticsStride, rows: rows, shape.width, modulation: table, gradModulation: grad,
      shift: shift(block), scale: scale(block), dx: gradHidden)
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

  // MARK: Products

  private func bias(_ layer: Linear) -> Int { layer.bias ?? 0 }

  /// y = x·Wᵀ + beta·y
  private func apply(
    _ layer: Linear, _ p: UnsafePointer<Scalar>, _ x: UnsafePointer<Scalar>, rows: Int,
    to y: UnsafeMutablePointer<Scalar>, beta: Scalar
  ) {
    Scalar.gemm(
      false, true, rows, layer.outputs, layer.inputs, x, layer.inputs, p + layer.weight, layer.inputs, beta, y,
      layer.outputs)
  }

  /// dx = dy·W
  private func applyTransposed(
    _ layer: Linear, _ p: UnsafePointer<Scalar>, _ dy: UnsafePointer<Scalar>, rows: Int,
    to dx: UnsafeMutablePointer<Scalar>
  ) {
    Scalar.gemm(
      false, false, rows, layer.inputs, layer.outputs, dy, layer.outputs, p + layer.weight, layer.inputs, 0, dx,
      layer.inputs)
  }

  /// dW += dyᵀ·x
  private func addWeightGradient(
    _ layer: Linear, _ g: UnsafeMutablePointer<Scalar>, _ dy: UnsafePointer<Scalar>, _ x: UnsafePointer<Scalar>,
    rows: Int
  ) {
    Scalar.gemm(
      true, false, layer.outputs, layer.inputs, rows, dy, layer.outputs, x, layer.inputs, 1, g + layer.weight,
      layer.inputs)
  }
}
