import ChunkGRPO
internal import KernelTable

/// The products of one layer. Those that stay within the caches take the library's own kernel, which needs no copies of
/// what it multiplies; the others OpenBLAS.
extension Linear {
  /// y = x·Wᵀ + b, or y += x·Wᵀ + b.
  ///
  /// - Parameters:
  ///   - p: the parameters; `transposed` has Wᵀ, packed, where they have W, or is nil.
  func apply<S: NetworkScalar>(
    _ p: UnsafePointer<S>, _ transposed: UnsafePointer<S>?, _ x: UnsafePointer<S>, rows: Int,
    to y: UnsafeMutablePointer<S>, adding: Bool = false
  ) {
    if let transposed, S.kernels.hasProduct, fits(columns: outputs, inputs) {
      var product = ProductArguments(
        m: rows, n: outputs, k: inputs, a: x, rowStride: inputs, columnStride: 1, b: transposed + weight, packed: true,
        bias: bias.map { p + $0 }, c: y, adding: adding)
      return S.kernels.product(&product)
    }
    if let bias {
      for r in 0..<rows {
        if adding {
          S.kernels.add(p + bias, to: y + r &* outputs, count: outputs)
        } else {
          (y + r &* outputs).update(from: p + bias, count: outputs)
        }
      }
    }
    S.gemm(
      false, true, rows, outputs, inputs, x, inputs, p + weight, inputs, adding || bias != nil ? 1 : 0, y, outputs)
  }

  /// dx = dy·W
  func applyTransposed<S: NetworkScalar>(
    _ p: UnsafePointer<S>, _ dy: UnsafePointer<S>, rows: Int, to dx: UnsafeMutablePointer<S>
  ) {
    if S.kernels.hasProduct, fits(columns: inputs, outputs) {
      var product = ProductArguments(
        m: rows, n: inputs, k: outputs, a: dy, rowStride: outputs, columnStride: 1, b: p + weight, packed: false,
        bias: nil, c: dx, adding: false)
      return S.kernels.product(&product)
    }
    S.gemm(false, false, rows, inputs, outputs, dy, outputs, p + weight, inputs, 0, dx, inputs)
  }

  /// dW = dyᵀ·x, or dW += dyᵀ·x.
  func weightGradient<S: NetworkScalar>(
    _ dy: UnsafePointer<S>, _ x: UnsafePointer<S>, rows: Int, _ g: UnsafeMutablePointer<S>, adding: Bool
  ) {
    if S.kernels.hasProduct, fits(columns: inputs, rows) {
      var product = ProductArguments(
        m: outputs, n: inputs, k: rows, a: dy, rowStride: 1, columnStride: outputs, b: x, packed: false, bias: nil,
        c: g + weight, adding: adding)
      return S.kernels.product(&product)
    }
    S.gemm(true, false, outputs, inputs, rows, dy, outputs, x, inputs, adding ? 1 : 0, g + weight, inputs)
  }

  /// Whether the right factor is one for the library's own kernel: of whole vectors, and within 1.5 MB.
  private func fits(columns: Int, _ terms: Int) -> Bool {
    columns % productColumns == 0 && columns &* terms <= 3 << 17
  }
}

extension NetworkShape {
  /// Writes each weight of `p` transposed, and packed for products, to where it lies in `transposed`, on up to `threads`
  /// threads.
  public func transpose<S: NetworkScalar>(
    _ p: UnsafePointer<S>, into transposed: UnsafeMutablePointer<S>, threads: Int
  ) {
    var blocks: [(layer: Linear, row: Int)] = []
    let panel = S.kernels.panel
    for layer in layers {
      for row in stride(from: 0, to: layer.outputs, by: panel) { blocks.append((layer, row)) }
    }
    parallel(units: blocks.count, threads: threads) { units in
      for (layer, row) in blocks[units] {
        S.kernels.transpose(
          p + (layer.weight &+ row &* layer.inputs), rows: min(panel, layer.outputs &- row), columns: layer.inputs,
          into: transposed + (layer.weight &+ row &* layer.inputs), stride: min(panel, layer.outputs &- row))
      }
    }
  }

  private var layers: [Linear] {
    [input, timeHidden, timeOutput, condition, modulation, output] + hidden + contribution
  }
}

extension NetworkScalar {
  /// Whether the library has a kernel for products of its own.
  static var hasProduct: Bool { kernels.hasProduct }
}
