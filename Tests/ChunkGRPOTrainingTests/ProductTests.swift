import ChunkGRPO
import KernelTable
import Testing

@Suite struct ProductTests {
  /// Bit for bit, so that processors whose vectors have other widths agree: a sum begins with what is there already and
  /// the bias, and takes its terms in order, each rounded once.
  @Test(
    "A product's numbers are sums in the order of k, for any layout and more terms than one panel",
    arguments: [(1, 64, 1), (7, 128, 301), (13, 64, 700)])
  func sumsInOrder(m: Int, n: Int, k: Int) throws {
    guard kernelSet.network32.hasProduct else { return }  // OpenBLAS's, in its own order
    let panel = kernelSet.network32.panel
    let a = try normals(m * k, seed: 1).map { Float($0) }
    let b = try normals(k * n, seed: 2).map { Float($0) }
    let bias = try normals(n, seed: 3).map { Float($0) }
    let old = try normals(m * n, seed: 4).map { Float($0) }
    var packed = [Float](repeating: 0, count: k * n)
    for i in 0..<k {
      for j in 0..<n { packed[j / panel * panel * k + i * panel + j % panel] = b[i * n + j] }
    }
    for (isPacked, isTransposed, isAdding, hasBias) in [
      (false, false, false, false), (true, false, false, true), (false, true, true, false), (true, true, true, true),
    ] {
      // A(i, t), or its transpose with A(i, t) at t·m + i.
      let left = isTransposed ? (0..<k * m).map { a[$0 % m * k + $0 / m] } : a
      var c = old
      var scratch = [Float](repeating: .nan, count: 4096)
      bias.withUnsafeBytes { bias in
        left.withUnsafeBytes { left in
          (isPacked ? packed : b).withUnsafeBytes { right in
            c.withUnsafeMutableBytes { c in
              scratch.withUnsafeMutableBytes { scratch in
                var product = ProductArguments(
                  m: m, n: n, k: k, a: left.baseAddress!, rowStride: isTransposed ? 1 : k,
                  columnStride: isTransposed ? m : 1, b: right.baseAddress!, packed: isPacked,
                  scratch: scratch.baseAddress!, bias: hasBias ? bias.baseAddress : nil, c: c.baseAddress!,
                  adding: isAdding)
                kernelSet.network32.product(&product)
              }
            }
          }
        }
      }
      var expected = [Float](repeating: 0, count: m * n)
      for i in 0..<m {
        for j in 0..<n {
          var sum = (isAdding ? old[i * n + j] : 0) + (hasBias ? bias[j] : 0)
          for t in 0..<k { sum.addProduct(a[i * k + t], b[t * n + j]) }
          expected[i * n + j] = sum
        }
      }
      let agrees = c == expected
      #expect(agrees, "packed \(isPacked), transposed \(isTransposed), adding \(isAdding), bias \(hasBias)")
    }
  }
}
