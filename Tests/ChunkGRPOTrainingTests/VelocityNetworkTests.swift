import ChunkGRPO
import ChunkGRPOTraining
import Testing

/// A network in f64 with random parameters, seven rows in four contexts, and L = Σ v·w for random w.
private final class Fixture {
  let shape: NetworkShape
  let network: VelocityNetwork<Double>
  let values: Buffer<Double>
  var latents: [Double]
  let sigmas: Numbers<Double> = [1, 0.83, 0.4, 0.02]
  let conditions: [Double]
  let contextOfRow: Numbers<Int32> = [0, 2, 2, 1, 3, 0, 2]
  let weights: [Double]

  /// Widths that are no multiple of the vector length, so that the tails are checked too.
  init(width: Int = 19, blocks: Int = 2) throws {
    shape = try NetworkShape(latentSize: 5, conditionSize: 3, width: width, blocks: blocks, embeddingSize: 6)
    network = try VelocityNetwork(shape, maxRows: 9, maxContexts: 5, training: true)
    values = try Buffer(normals(shape.parameterCount, seed: 1).map { 0.3 * $0 })
    latents = try normals(7 * 5, seed: 2)
    conditions = try normals(4 * 3, seed: 3)
    weights = try normals(7 * 5, seed: 4)
  }

  var parameters: NetworkParameters<Double> { NetworkParameters(values.base) }

  func velocity() throws -> [Double] {
    var v = [Double](repeating: 0, count: latents.count)
    try network.setContexts(parameters, sigmas: sigmas, conditions: conditions)
    try network.forward(parameters, latents: latents, contextOfRow: contextOfRow, velocity: &v)
    return v
  }

  func loss() throws -> Double { zip(try velocity(), weights).reduce(0) { $0 + $1.0 * $1.1 } }

  func gradient() throws -> (parameters: [Double], latents: [Double]) {
    _ = try velocity()
    var g = [Double](repeating: 0, count: shape.parameterCount)
    var dx = [Double](repeating: 0, count: latents.count)
    try network.backward(parameters, gradVelocity: weights, gradParameters: &g, gradLatents: &dx)
    return (g, dx)
  }
}

@Suite struct VelocityNetworkTests {
  @Test func gradientOfEveryParameterMatchesFiniteDifferences() throws {
    let f = try Fixture()
    let gradient = try f.gradient().parameters
    let h = 1e-5
    for tensor in f.shape.tensors {
      var worst = 0.0
      var largest = 0.0
      for i in tensor.offset..<tensor.offset + tensor.count {
        let value = f.values.base[i]
        f.values.base[i] = value + h
        let up = try f.loss()
        f.values.base[i] = value - h
        let down = try f.loss()
        f.values.base[i] = value
        worst = max(worst, abs((up - down) / (2 * h) - gradient[i]))
        largest = max(largest, abs(gradient[i]))
      }
      #expect(largest > 1e-3, "\(tensor.name) has a gradient")
      #expect(worst < 1e-7 * max(1, largest), "\(tensor.name): off by \(worst), largest \(largest)")
    }
  }

  @Test func gradientOfTheLatentsMatchesFiniteDifferences() throws {
    let f = try Fixture()
    let gradient = try f.gradient().latents
    let h = 1e-5
    for i in f.latents.indices {
      let value = f.latents[i]
      f.latents[i] = value + h
      let up = try f.loss()
      f.latents[i] = value - h
      let down = try f.loss()
      f.latents[i] = value
      #expect(abs((up - down) / (2 * h) - gradient[i]) < 1e-7)
    }
  }

  @Test func gradientsAddUpOverCalls() throws {
    let f = try Fixture()
    let once = try f.gradient().parameters
    var twice = once
    try f.network.backward(f.parameters, gradVelocity: f.weights, gradParameters: &twice)
    for (a, b) in zip(once, twice) { #expect(abs(2 * a - b) < 1e-12 * max(1, abs(b))) }
  }

  @Test func floatAgreesWithDouble() throws {
    let f = try Fixture(width: 40)
    let reference = try f.velocity()
    let network = try VelocityNetwork<Float>(f.shape, maxRows: 7, maxContexts: 4, training: false)
    let values = try Buffer(f.values.values.map { Float($0) })
    let parameters = NetworkParameters(values.base)
    var v = [Float](repeating: 0, count: f.latents.count)
    try network.setContexts(parameters, sigmas: f.sigmas, conditions: f.conditions.map { Float($0) })
    try network.forward(
      parameters, latents: f.latents.map { Float($0) }, contextOfRow: f.contextOfRow, velocity: &v)
    withExtendedLifetime(values) {}
    let scale = reference.map { abs($0) }.max() ?? 0
    for (a, b) in zip(reference, v) { #expect(abs(a - Double(b)) < 2e-6 * scale) }
  }

  @Test func rowsOfEarlierPassesAreInTheGradient() throws {
    let f = try Fixture()
    let whole = try f.gradient()
    var v = [Double](repeating: 0, count: 7 * 5)
    for rows in [0..<3, 3..<7] {
      try f.network.forward(
        f.parameters, latents: Array(f.latents[rows.lowerBound * 5..<rows.upperBound * 5]),
        contextOfRow: Numbers(Array(f.contextOfRow[rows])), velocity: &v, firstRow: rows.lowerBound)
    }
    var g = [Double](repeating: .nan, count: f.shape.parameterCount)
    var dx = [Double](repeating: 0, count: 7 * 5)
    try f.network.backward(
      f.parameters, gradVelocity: f.weights, gradParameters: &g, adding: false, gradLatents: &dx)
    for (a, b) in zip(whole.parameters + whole.latents, g + dx) { #expect(abs(a - b) < 1e-12 * max(1, abs(a))) }
  }

  @Test func tooManyRowsAndTooMuchMemoryAreErrors() throws {
    let shape = try NetworkShape(latentSize: 1 << 20, conditionSize: 1 << 16, width: 1 << 14, blocks: 256)
    #expect(throws: ChunkGRPOError.self) {
      try VelocityNetwork<Float>(shape, maxRows: 1 << 24, maxContexts: 1 << 24, training: true)
    }
    let f = try Fixture()
    #expect(throws: ChunkGRPOError.self) {
      var v = [Double](repeating: 0, count: 50)
      try f.network.forward(
        f.parameters, latents: [Double](repeating: 0, count: 50),
        contextOfRow: Numbers([Int32](repeating: 0, count: 10)),
        velocity: &v)
    }
  }
}
