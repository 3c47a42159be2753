internal import CSupport
import ChunkGRPO
internal import KernelTable

/// The products of one layer. The library's own kernel takes those that stay within the caches: it copies no factor and
/// gives the same bits with AVX2 and AVX-512. OpenBLAS takes the others: those of large networks, with sizes that are
/// no multiples of 64, and all on processors without AVX2 and FMA.
///
/// Both are needed. Speed of a trainer's iteration relative to PyTorch eager, on a Zen 5 with AVX-512:
///
///     threads                  1     2
///     both                   2.6   2.9
///     OpenBLAS alone        1.35  1.65
extension Linear {
  /// y = x·Wᵀ + b, or y += x·Wᵀ + b. This and the other products throw `.outOfMemory`.
  func apply<S: NetworkScalar>(
    _ parameters: NetworkParameters<S>, _ x: UnsafePointer<S>, rows: Int, to y: UnsafeMutablePointer<S>,
    adding: Bool = false
  ) throws {
    let p = parameters.values
    if let transposed = parameters.transposed, S.kernels.hasProduct, fits(columns: outputs, inputs) {
      var product = ProductArguments(
        m: rows, n: outputs, k: inputs, a: x, rowStride: inputs, columnStride: 1, b: transposed + weight, packed: true,
        scratch: scratch,
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
    try S.gemm(
      false, true, rows, outputs, inputs, x, inputs, p + weight, inputs, adding || bias != nil ? 1 : 0, y, outputs)
  }

  /// dx = dy·W
  func applyTransposed<S: NetworkScalar>(
    _ parameters: NetworkParameters<S>, _ dy: UnsafePointer<S>, rows: Int, to dx: UnsafeMutablePointer<S>
  ) throws {
    let p = parameters.values
    if S.kernels.hasProduct, fits(columns: inputs, outputs) {
      var product = ProductArguments(
        m: rows, n: inputs, k: outputs, a: dy, rowStride: outputs, columnStride: 1, b: p + weight, packed: false,
        scratch: scratch,
        bias: nil, c: dx, adding: false)
      return S.kernels.product(&product)
    }
    try S.gemm(false, false, rows, inputs, outputs, dy, outputs, p + weight, inputs, 0, dx, inputs)
  }

  /// dW = dyᵀ·x, or dW += dyᵀ·x.
  func weightGradient<S: NetworkScalar>(
    _ dy: UnsafePointer<S>, _ x: UnsafePointer<S>, rows: Int, _ g: UnsafeMutablePointer<S>, adding: Bool
  ) throws {
    if S.kernels.hasProduct, fits(columns: inputs, rows) {
      var product = ProductArguments(
        m: outputs, n: inputs, k: rows, a: dy, rowStride: 1, columnStride: outputs, b: x, packed: false,
        scratch: scratch, bias: nil,
        c: g + weight, adding: adding)
      return S.kernels.product(&product)
    }
    try S.gemm(true, false, outputs, inputs, rows, dy, outputs, x, inputs, adding ? 1 : 0, g + weight, inputs)
  }

  /// A block of the thread's, which is larger than what a product needs; no pass is under way.
  private var scratch: UnsafeMutableRawPointer { chunkgrpo_support_scratch(CHUNKGRPO_SUPPORT_BLOCK) }

  /// Whether the right factor is one for the library's own kernel: of whole vectors, and within 1.5 MB.
  private func fits(columns: Int, _ terms: Int) -> Bool {
    columns % productColumns == 0 && columns &* terms <= 3 << 17
  }
}

extension NetworkShape {
  /// Writes each weight of `p` transposed, and packed for products, to its place in `transposed`, on up to `threads`
  /// threads.
  package func transpose<S: NetworkScalar>(
    _ p: UnsafePointer<S>, into transposed: UnsafeMutablePointer<S>, threads: Int
  ) {
    let (layers, panel) = (layers, S.kernels.panel)
    func panels(_ layer: Linear) -> Int { (layer.outputs &+ panel &- 1) / panel }
    parallel(units: layers.reduce(0) { $0 &+ panels($1) }, threads: threads) { units in
      var (number, first) = (0, 0)  // the layer of the unit, and its first unit
      for unit in units {
        while unit >= first &+ panels(layers[number]) {
          first &+= panels(layers[number])
          number &+= 1
        }
        let (layer, row) = (layers[number], (unit &- first) &* panel)
        S.kernels.transpose(
          p + (layer.weight &+ row &* layer.inputs), rows: min(panel, layer.outputs &- row), columns: layer.inputs,
          into: transposed + (layer.weight &+ row &* layer.inputs), stride: min(panel, layer.outputs &- row))
      }
    }
  }
}
