// The elementwise half of the network: rows of `width` values, one fused pass a kernel.
// Where a bias is added, its gradient is summed in the backward pass of the same kernel.
//
// All are specialised for Float and Double: unspecialised, SIMD code is a hundred times slower.

/// Writes `row` into each of `rows` rows: a product with beta = 1 then adds to it.
func fill<S: NetworkScalar>(_ destination: UnsafeMutablePointer<S>, rows: Int, with row: UnsafePointer<S>, _ width: Int)
{
  for r in 0..<rows { (destination + r &* width).update(from: row, count: width) }
}

/// sum += the sum over the rows.
@specialized(where S == Float)
@specialized(where S == Double)
func addColumnSums<S: NetworkScalar>(
  _ x: UnsafePointer<S>, rows: Int, _ width: Int, to sum: UnsafeMutablePointer<S>
) {
  for r in 0..<rows {
    let x = x + r &* width
    lanes(width) { i, n in add(load(x, i, n), to: sum, i, n) }
  }
}

/// y = SiLU(x + bias) = u·g with u = x + bias, g = 1/(1 + e^−u); `slope`, which may be x, is the derivative g + y·(1 − g).
@specialized(where S == Float)
@specialized(where S == Double)
func siluForward<S: NetworkScalar>(
  _ x: UnsafePointer<S>, bias: UnsafePointer<S>, rows: Int, _ width: Int, y: UnsafeMutablePointer<S>,
  slope: UnsafeMutablePointer<S>
) {
  for r in 0..<rows {
    let x = x + r &* width
    let y = y + r &* width
    let slope = slope + r &* width
    lanes(width) { i, n in
      let u = load(x, i, n) + load(bias, i, n)
      let g = 1 / (1 + S.exponential(0 - u))
      let value = u * g
      store(value, y, i, n)
      store(g + value * (1 - g), slope, i, n)
    }
  }
}

/// dy ← dy·slope, the gradient of x; its sum over the rows is added to the bias's.
@specialized(where S == Float)
@specialized(where S == Double)
func siluBackward<S: NetworkScalar>(
  _ dy: UnsafeMutablePointer<S>, slope: UnsafePointer<S>, rows: Int, _ width: Int, gradBias: UnsafeMutablePointer<S>
) {
  for r in 0..<rows {
    let dy = dy + r &* width
    let slope = slope + r &* width
    lanes(width) { i, n in
      let dx = load(dy, i, n) * load(slope, i, n)
      store(dx, dy, i, n)
      add(dx, to: gradBias, i, n)
    }
  }
}

/// Rows of the modulation table that the rows of a batch share, and where in a row a vector begins.
struct Modulation<S: NetworkScalar> {
  let table: UnsafeMutablePointer<S>
  let stride: Int
  /// Which row of the table each row of the batch has.
  let contexts: UnsafePointer<Int32>

  @inline(__always)
  func vector(_ row: Int, at offset: Int) -> UnsafeMutablePointer<S> {
    table + Int(truncatingIfNeeded: contexts[row]) &* stride + offset
  }
}

/// y = n·(1 + scale) + shift with n = (x − mean)·rstd: layer norm without weights of its own, ε = 1e-6, modulated.
@specialized(where S == Float)
@specialized(where S == Double)
func normForward<S: NetworkScalar>(
  _ x: UnsafePointer<S>, rows: Int, _ width: Int, modulation: Modulation<S>, shift: Int, scale: Int,
  y: UnsafeMutablePointer<S>, mean: UnsafeMutablePointer<S>, rstd: UnsafeMutablePointer<S>
) {
  let share = 1 / S(width)
  for r in 0..<rows {
    let x = x + r &* width
    let y = y + r &* width
    let shift = modulation.vector(r, at: shift)
    let scale = modulation.vector(r, at: scale)
    var sum = SIMD8<S>.zero
    lanes(width) { i, n in sum += load(x, i, n) }
    let m = sum.sum() * share
    var squares = SIMD8<S>.zero
    lanes(width) { i, n in
      let d = load(x, i, n, fill: m) - m
      squares += d * d
    }
    let s = 1 / (squares.sum() * share + 1e-6).squareRoot()
    lanes(width) { i, n in
      let normal = (load(x, i, n) - m) * s
      store(normal * (1 + load(scale, i, n)) + load(shift, i, n), y, i, n)
    }
    mean[r] = m
    rstd[r] = s
  }
}

/// dx += the gradient of x for dy; the gradients of shift and scale are added to `gradModulation`.
///
/// With dn = dy·(1 + scale): dx = rstd·(dn − mean(dn) − n·mean(dn·n)).
@specialized(where S == Float)
@specialized(where S == Double)
func normBackward<S: NetworkScalar>(
  _ dy: UnsafePointer<S>, x: UnsafePointer<S>, mean: UnsafePointer<S>, rstd: UnsafePointer<S>, rows: Int, _ width: Int,
  modulation: Modulation<S>, gradModulation: Modulation<S>, shift: Int, scale: Int, dx: UnsafeMutablePointer<S>
) {
  let share = 1 / S(width)
  for r in 0..<rows {
    let x = x + r &* width
    let dy = dy + r &* width
    let dx = dx + r &* width
    let factor = modulation.vector(r, at: scale)
    let dShift = gradModulation.vector(r, at: shift)
    let dScale = gradModulation.vector(r, at: scale)
    let m = mean[r]
    let s = rstd[r]
    var sum = SIMD8<S>.zero
    var product = SIMD8<S>.zero
    lanes(width) { i, n in
      let normal = (load(x, i, n) - m) * s
      let d = load(dy, i, n)
      let dn = d * (1 + load(factor, i, n))
      sum += dn
      product += dn * normal
      add(d, to: dShift, i, n)
      add(d * normal, to: dScale, i, n)
    }
    let meanOfGrad = sum.sum() * share
    let meanOfProduct = product.sum() * share
    lanes(width) { i, n in
      let normal = (load(x, i, n) - m) * s
      let dn = load(dy, i, n) * (1 + load(factor, i, n))
      add((dn - meanOfGrad - normal * meanOfProduct) * s, to: dx, i, n)
    }
  }
}

/// y = x + gate·(z + bias); y may be x.
@specialized(where S == Float)
@specialized(where S == Double)
func gateForward<S: NetworkScalar>(
  _ z: UnsafePointer<S>, bias: UnsafePointer<S>, x: UnsafePointer<S>, rows: Int, _ width: Int,
  modulation: Modulation<S>, gate: Int, y: UnsafeMutablePointer<S>
) {
  for r in 0..<rows {
    let z = z + r &* width
    let x = x + r &* width
    let y = y + r &* width
    let gate = modulation.vector(r, at: gate)
    lanes(width) { i, n in
      store(load(x, i, n) + load(gate, i, n) * (load(z, i, n) + load(bias, i, n)), y, i, n)
    }
  }
}

/// dz = dy·gate for the gradient dy of y; the gradients of gate and bias are added up.
@specialized(where S == Float)
@specialized(where S == Double)
func gateBackward<S: NetworkScalar>(
  _ dy: UnsafePointer<S>, z: UnsafePointer<S>, bias: UnsafePointer<S>, rows: Int, _ width: Int,
  modulation: Modulation<S>, gradModulation: Modulation<S>, gate: Int, dz: UnsafeMutablePointer<S>,
  gradBias: UnsafeMutablePointer<S>
) {
  for r in 0..<rows {
    let z = z + r &* width
    let dy = dy + r &* width
    let dz = dz + r &* width
    let factor = modulation.vector(r, at: gate)
    let dGate = gradModulation.vector(r, at: gate)
    lanes(width) { i, n in
      let d = load(dy, i, n)
      let gradient = d * load(factor, i, n)
      store(gradient, dz, i, n)
      add(gradient, to: gradBias, i, n)
      add(d * (load(z, i, n) + load(bias, i, n)), to: dGate, i, n)
    }
  }
}
