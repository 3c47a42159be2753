internal import KernelTable
import ChunkGRPO

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
    if let transposed, let product = S.kernels.product, fits(columns: outputs, inputs) {
      return product(rows, outputs, inputs, x, inputs, 1, transposed + weight, true, bias.map { p + $0 }, y, adding)
    }
    if let bias {
      for r in 0..<rows {
        if adding {
          S.kernels.add(p + bias, y + r &* outputs, outputs)
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
    if let product = S.kernels.product, fits(columns: inputs, outputs) {
      return product(rows, inputs, outputs, dy, outputs, 1, p + weight, false, nil, dx, false)
    }
    S.gemm(false, false, rows, inputs, outputs, dy, outputs, p + weight, inputs, 0, dx, inputs)
  }

  /// dW = dyᵀ·x, or dW += dyᵀ·x.
  func weightGradient<S: NetworkScalar>(
    _ dy: UnsafePointer<S>, _ x: UnsafePointer<S>, rows: Int, _ g: UnsafeMutablePointer<S>, adding: Bool
  ) {
    if let product = S.kernels.product, fits(columns: inputs, rows) {
      return product(outputs, inputs, rows, dy, 1, outputs, x, false, nil, g + weight, adding)
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
          p + (layer.weight &+ row &* layer.inputs), min(panel, layer.outputs &- row), layer.inputs,
          transposed + (layer.weight &+ row &* layer.inputs), min(panel, layer.outputs &- row))
      }
    }
  }

  private var layers: [Linear] {
    [input, timeHidden, timeOutput, condition, modulation, output] + hidden + contribution
  }
}

extension NetworkScalar {
  /// Whether the library has a kernel for products of its own.
  static var hasProduct: Bool { kernels.product != nil }
}
