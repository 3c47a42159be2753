import ChunkGRPO
import ChunkGRPOTraining
import Testing

@Suite struct ProductsTests {
  /// Sizes that the library's own products take, where the processor has what they need, and rows that are no multiple
  /// of six: few, and sums of more terms than a product takes at a time.
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
      let values = try Buffer(parameters.map { S($0) })
      let transposed = try Buffer<S>(count: values.count, for: "a test")
      defer { withExtendedLifetime((values, transposed)) {} }
      shape.transpose(values.base, into: transposed.base, threads: 1)
      let p = NetworkParameters(values.base, transposed: transposed.base)
      var v = [S](repeating: 0, count: rows * 64)
      var g = [S](repeating: .nan, count: shape.parameterCount)
      try network.setContexts(p, sigmas: [1, 0.83, 0.4, 0.02], conditions: conditions.map { S($0) })
      try network.forward(p, latents: latents.map { S($0) }, contextOfRow: Numbers(contextOfRow), velocity: &v)
      try network.backward(p, gradVelocity: weights.map { S($0) }, gradParameters: &g, adding: false)
      try network.backward(p, gradVelocity: weights.map { S($0) }, gradParameters: &g, adding: true)
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
}
