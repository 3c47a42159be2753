import ChunkGRPO
import ChunkGRPOTraining
import Testing

/// A network in f64 with random parameters, seven rows in four contexts, and L = Σ v·w for random w.
private final class Fixture {
  let shape: NetworkShape
  let network: VelocityNetwork<Double>
  var parameters: [Double]
  var latents: [Double]
  let sigmas: [Double] = [1, 0.83, 0.4, 0.02]
  let conditions: [Double]
  let contextOfRow: [Int32] = [0, 2, 2, 1, 3, 0, 2]
  let weights: [Double]

  /// Widths that are no multiple of the vector length, so that the tails are checked too.
  init(width: Int = 19, blocks: Int = 2) throws {
    shape = try NetworkShape(latentSize: 5, conditionSize: 3, width: width, blocks: blocks, embeddingSize: 6)
    network = try VelocityNetwork(shape, maxRows: 9, maxContexts: 5, training: true)
    parameters = try normals(shape.parameterCount, seed: 1).map { 0.3 * $0 }
    latents = try normals(7 * 5, seed: 2)
    conditions = try normals(4 * 3, seed: 3)
    weights = try normals(7 * 5, seed: 4)
  }

  func velocity() throws -> [Double] {
    var v = [Double](repeating: 0, count: latents.count)
    try sigmas.withUnsafeBufferPointer {
      try network.setContexts(parameters: parameters, sigmas: $0, conditions: conditions)
    }
    try contextOfRow.withUnsafeBufferPointer {
      try network.forward(parameters: parameters, latents: latents, contextOfRow: $0, velocity: &v)
    }
    return v
  }

  func loss() throws -> Double { zip(try velocity(), weights).reduce(0) { $0 + $1.0 * $1.1 } }

  func gradient() throws -> (parameters: [Double], latents: [Double]) {
    _ = try velocity()
    var g = [Double](repeating: 0, count: shape.parameterCount)
    var dx = [Double](repeating: 0, count: latents.count)
    try network.backward(parameters: parameters, gradVelocity: weights, gradParameters: &g, gradLatents: &dx)
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
        let value = f.parameters[i]
        f.parameters[i] = value + h
        let up = try f.loss()
        f.parameters[i] = value - h
        let down = try f.loss()
        f.parameters[i] = value
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
    try f.network.backward(parameters: f.parameters, gradVelocity: f.weights, gradParameters: &twice)
    for (a, b) in zip(once, twice) { #expect(abs(2 * a - b) < 1e-12 * max(1, abs(b))) }
  }

  @Test func floatAgreesWithDouble() throws {
    let f = try Fixture(width: 40)
    let reference = try f.velocity()
    let network = try VelocityNetwork<Float>(f.shape, maxRows: 7, maxContexts: 4, training: false)
    let parameters = f.parameters.map { Float($0) }
    var v = [Float](repeating: 0, count: f.latents.count)
    try f.sigmas.withUnsafeBufferPointer {
      try network.setContexts(parameters: parameters, sigmas: $0, conditions: f.conditions.map { Float($0) })
    }
    try f.contextOfRow.withUnsafeBufferPointer {
      try network.forward(parameters: parameters, latents: f.latents.map { Float($0) }, contextOfRow: $0, velocity: &v)
    }
    let scale = reference.map { abs($0) }.max() ?? 0
    for (a, b) in zip(reference, v) { #expect(abs(a - Double(b)) < 2e-6 * scale) }
  }

  /// Sizes that the library's own products take, where the processor has what they need, and rows that are no multiple of
  /// six: few, and sums of more terms than a product takes at a time.
  @Test(arguments: [(128, 7), (320, 301)])
  func ownProductsAgreeWithDouble(width: Int, rows: Int) throws {
    let shape = try NetworkShape(latentSize: 64, conditionSize: 64, width: width, blocks: 2, embeddingSize: 64)
    let parameters = try normals(shape.parameterCount, seed: 1).map { 0.1 * $0 }
    let latents = try normals(rows * 64, seed: 2)
    let conditions = try normals(4 * 64, seed: 3)
    let weights = try normals(rows * 64, seed: 4)
    let contextOfRow = (0..<rows).map { Int32($0 * $0 % 4) }

    func pass<S: NetworkScalar>(_: S.Type) throws -> (velocity: [S], gradient: [S]) {
      let network = try VelocityNetwork<S>(shape, maxRows: rows, maxContexts: 4, training: true)
      let p = parameters.map { S($0) }
      var transposed = [S](repeating: 0, count: p.count)
      shape.transpose(p, into: &transposed, threads: 1)
      var v = [S](repeating: 0, count: rows * 64)
      var g = [S](repeating: .nan, count: p.count)
      try [1, 0.83, 0.4, 0.02].withUnsafeBufferPointer {
        try network.setContexts(
          parameters: p, transposed: transposed, sigmas: $0, conditions: conditions.map { S($0) })
      }
      try contextOfRow.withUnsafeBufferPointer {
        try network.forward(
          parameters: p, transposed: transposed, latents: latents.map { S($0) }, contextOfRow: $0, velocity: &v)
      }
      try network.backward(
        parameters: p, gradVelocity: weights.map { S($0) }, gradParameters: &g, adding: false)
      try network.backward(parameters: p, gradVelocity: weights.map { S($0) }, gradParameters: &g, adding: true)
      return (v, g)
    }
    let reference = try pass(Double.self)
    let single = try pass(Float.self)
    func agree(_ a: some Sequence<Double>, _ b: some Sequence<Float>) -> Bool {
      let largest = a.reduce(0) { max($0, abs($1)) }
      return zip(a, b).allSatisfy { abs($0 - Double($1)) < 1e-5 * largest }
    }
    let velocitiesAgree = agree(reference.velocity, single.velocity)
    #expect(velocitiesAgree)
    for tensor in shape.tensors {
      let own = tensor.offset..<tensor.offset + tensor.count
      let agrees = agree(reference.gradient[own], single.gradient[own])
      #expect(agrees, "\(tensor.name)")
    }
  }

  @Test func keptRowsHaveTheirPartInTheGradient() throws {
    let f = try Fixture()
    let whole = try f.gradient()
    var v = [Double](repeating: 0, count: 7 * 5)
    for (rows, kept) in [(0..<3, 0), (3..<7, 3)] {
      try f.contextOfRow[rows].withUnsafeBufferPointer {
        try f.network.forward(
          parameters: f.parameters, latents: Array(f.latents[rows.lowerBound * 5..<rows.upperBound * 5]),
          contextOfRow: $0, velocity: &v, keeping: kept)
      }
    }
    var g = [Double](repeating: .nan, count: f.shape.parameterCount)
    var dx = [Double](repeating: 0, count: 7 * 5)
    try f.network.backward(
      parameters: f.parameters, gradVelocity: f.weights, gradParameters: &g, adding: false, gradLatents: &dx)
    for (a, b) in zip(whole.parameters + whole.latents, g + dx) { #expect(abs(a - b) < 1e-12 * max(1, abs(a))) }
  }

  @Test func wrongSizesAreErrors() throws {
    #expect(throws: ChunkGRPOError.self) { try NetworkShape(latentSize: 0, conditionSize: 1) }
    #expect(throws: ChunkGRPOError.self) { try NetworkShape(latentSize: 1, conditionSize: 1, embeddingSize: 7) }
    #expect(throws: ChunkGRPOError.self) { try NetworkShape(latentSize: 1, conditionSize: 1, blocks: .max) }
    let shape = try NetworkShape(latentSize: 1 << 20, conditionSize: 1 << 16, width: 1 << 14, blocks: 256)
    #expect(throws: ChunkGRPOError.self) {
      try VelocityNetwork<Float>(shape, maxRows: 1 << 24, maxContexts: 1 << 24, training: true)
    }
    let f = try Fixture()
    #expect(throws: ChunkGRPOError.self) {
      var v = [Double](repeating: 0, count: 50)
      try [Int32](repeating: 0, count: 10).withUnsafeBufferPointer {
        try f.network.forward(
          parameters: f.parameters, latents: [Double](repeating: 0, count: 50), contextOfRow: $0, velocity: &v)
      }
    }
  }
}
