public import KernelTable

// The elementwise half of the network, sixteen numbers at a time: one fused pass a kernel. Sums are of sixteen lanes,
// whatever the width of the vectors.

private typealias In = UnsafeRawPointer
private typealias Out = UnsafeMutableRawPointer

/// Calls `body` for each sixteen of 0 ..< count, and once for what is left; `width` tells how many.
@inline(__always)
private func lanes(_ count: Int, _ body: (_ i: Int, _ width: Int) -> Void) {
  var i = 0
  while i &+ 16 <= count {
    body(i, 16)
    i &+= 16
  }
  if i < count { body(i, count &- i) }
}

/// `width` elements from `i` on; the other lanes are `fill`.
@inline(__always)
private func load<S: NetworkNumber>(_ p: UnsafePointer<S>, _ i: Int, _ width: Int, fill: S = 0) -> SIMD16<S> {
  if width == 16 { return UnsafeRawPointer(p + i).loadUnaligned(as: SIMD16<S>.self) }
  var values = SIMD16<S>(repeating: fill)
  for lane in 0..<width { values[lane] = p[i &+ lane] }
  return values
}

@inline(__always)
private func store<S: NetworkNumber>(_ values: SIMD16<S>, _ p: UnsafeMutablePointer<S>, _ i: Int, _ width: Int) {
  if width == 16 { return UnsafeMutableRawPointer(p + i).storeBytes(of: values, as: SIMD16<S>.self) }
  for lane in 0..<width { p[i &+ lane] = values[lane] }
}

@inline(__always)
private func add<S: NetworkNumber>(_ values: SIMD16<S>, to p: UnsafeMutablePointer<S>, _ i: Int, _ width: Int) {
  store(load(p, i, width) + values, p, i, width)
}

@inline(__always)
private func sum<S: NetworkNumber>(_ v: SIMD16<S>) -> S {
  let eight = v.lowHalf + v.highHalf
  let four = eight.lowHalf + eight.highHalf
  return (four[0] + four[1]) + (four[2] + four[3])
}

/// A modulation table of known type.
private struct Table<S: NetworkNumber> {
  let base: UnsafeMutablePointer<S>
  let stride: Int
  let contexts: UnsafePointer<Int32>

  @inline(__always) init(_ table: ModulationTable) {
    base = table.base.assumingMemoryBound(to: S.self)
    stride = table.stride
    contexts = table.contexts
  }

  @inline(__always) func vector(_ row: Int, at offset: Int) -> UnsafeMutablePointer<S> {
    base + (Int(truncatingIfNeeded: contexts[row]) &* stride &+ offset)
  }
}

@inline(__always)
private func transpose<S: NetworkNumber>(
  _: S.Type, _ x: UnsafePointer<S>, _ rows: Int, _ columns: Int, _ y: UnsafeMutablePointer<S>, _ stride: Int
) {
  // Four rows at a time, interleaved: then four numbers of a column lie side by side.
  var i = 0
  while i &+ 4 <= rows {
    let x = x + i &* columns
    let y = y + i
    lanes(columns) { j, n in
      let (a, b) = interleave(load(x, j, n), load(x + 2 &* columns, j, n))
      let (c, d) = interleave(load(x + columns, j, n), load(x + 3 &* columns, j, n))
      let (q0, q1) = interleave(a, c)
      let (q2, q3) = interleave(b, d)
      @inline(__always) func put(_ four: SIMD16<S>, _ first: Int) {
        let columns = (four.lowHalf.lowHalf, four.lowHalf.highHalf, four.highHalf.lowHalf, four.highHalf.highHalf)
        let out = UnsafeMutableRawPointer(y + (j &+ first) &* stride)
        let size = stride &* MemoryLayout<S>.size
        if first < n { out.storeBytes(of: columns.0, as: SIMD4<S>.self) }
        if first &+ 1 < n { (out + size).storeBytes(of: columns.1, as: SIMD4<S>.self) }
        if first &+ 2 < n { (out + 2 &* size).storeBytes(of: columns.2, as: SIMD4<S>.self) }
        if first &+ 3 < n { (out + 3 &* size).storeBytes(of: columns.3, as: SIMD4<S>.self) }
      }
      put(q0, 0)
      put(q1, 4)
      put(q2, 8)
      put(q3, 12)
    }
    i &+= 4
  }
  while i < rows {
    for j in 0..<columns { y[j &* stride &+ i] = x[i &* columns &+ j] }
    i &+= 1
  }
}

/// The lanes of a and b by turns: those of the lower halves, those of the upper.
@inline(__always)
private func interleave<S: NetworkNumber>(_ a: SIMD16<S>, _ b: SIMD16<S>) -> (SIMD16<S>, SIMD16<S>) {
  var low = SIMD16<S>.zero
  low.evenHalf = a.lowHalf
  low.oddHalf = b.lowHalf
  var high = SIMD16<S>.zero
  high.evenHalf = a.highHalf
  high.oddHalf = b.highHalf
  return (low, high)
}

@inline(__always)
private func siluForward<S: NetworkNumber>(
  _ x: UnsafePointer<S>, _ count: Int, _ y: UnsafeMutablePointer<S>, _ slope: UnsafeMutablePointer<S>
) {
  lanes(count) { i, n in
    let u = load(x, i, n)
    let g = 1 / (1 + S.exponential(0 - u))
    let value = u * g
    store(value, y, i, n)
    store(g + value * (1 - g), slope, i, n)
  }
}

@inline(__always)
private func siluBackward<S: NetworkNumber>(
  _ dy: UnsafeMutablePointer<S>, _ slope: UnsafePointer<S>, _ rows: Int, _ width: Int,
  _ gradBias: UnsafeMutablePointer<S>
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

@inline(__always)
private func addColumnSums<S: NetworkNumber>(
  _ x: UnsafePointer<S>, _ rows: Int, _ width: Int, _ sum: UnsafeMutablePointer<S>
) {
  for r in 0..<rows {
    let x = x + r &* width
    lanes(width) { i, n in add(load(x, i, n), to: sum, i, n) }
  }
}

@inline(__always)
private func normForward<S: NetworkNumber>(
  _ x: UnsafePointer<S>, _ rows: Int, _ width: Int, _ modulation: Table<S>, _ shift: Int, _ scale: Int,
  _ y: UnsafeMutablePointer<S>, _ mean: UnsafeMutablePointer<S>, _ rstd: UnsafeMutablePointer<S>
) {
  let share = 1 / S(width)
  for r in 0..<rows {
    let x = x + r &* width
    let y = y + r &* width
    let shift = modulation.vector(r, at: shift)
    let scale = modulation.vector(r, at: scale)
    var total = SIMD16<S>.zero
    lanes(width) { i, n in total += load(x, i, n) }
    let m = sum(total) * share
    var squares = SIMD16<S>.zero
    lanes(width) { i, n in
      let d = load(x, i, n, fill: m) - m
      squares += d * d
    }
    let s = 1 / (sum(squares) * share + 1e-6).squareRoot()
    lanes(width) { i, n in
      let normal = (load(x, i, n) - m) * s
      store(normal * (1 + load(scale, i, n)) + load(shift, i, n), y, i, n)
    }
    mean[r] = m
    rstd[r] = s
  }
}

@inline(__always)
private func normBackward<S: NetworkNumber>(
  _ dy: UnsafePointer<S>, _ x: UnsafePointer<S>, _ mean: UnsafePointer<S>, _ rstd: UnsafePointer<S>, _ rows: Int,
  _ width: Int, _ modulation: Table<S>, _ gradModulation: Table<S>, _ shift: Int, _ scale: Int,
  _ dx: UnsafeMutablePointer<S>
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
    var total = SIMD16<S>.zero
    var product = SIMD16<S>.zero
    lanes(width) { i, n in
      let normal = (load(x, i, n) - m) * s
      let d = load(dy, i, n)
      let dn = d * (1 + load(factor, i, n))
      total += dn
      product += dn * normal
      add(d, to: dShift, i, n)
      add(d * normal, to: dScale, i, n)
    }
    let meanOfGrad = sum(total) * share
    let meanOfProduct = sum(product) * share
    lanes(width) { i, n in
      let normal = (load(x, i, n) - m) * s
      let dn = load(dy, i, n) * (1 + load(factor, i, n))
      add((dn - meanOfGrad - normal * meanOfProduct) * s, to: dx, i, n)
    }
  }
}

@inline(__always)
private func gateForward<S: NetworkNumber>(
  _ z: UnsafePointer<S>, _ x: UnsafePointer<S>, _ rows: Int, _ width: Int, _ modulation: Table<S>, _ gate: Int,
  _ y: UnsafeMutablePointer<S>
) {
  for r in 0..<rows {
    let z = z + r &* width
    let x = x + r &* width
    let y = y + r &* width
    let gate = modulation.vector(r, at: gate)
    lanes(width) { i, n in store(load(x, i, n) + load(gate, i, n) * load(z, i, n), y, i, n) }
  }
}

@inline(__always)
private func gateBackward<S: NetworkNumber>(
  _ dy: UnsafePointer<S>, _ z: UnsafePointer<S>, _ rows: Int, _ width: Int, _ modulation: Table<S>,
  _ gradModulation: Table<S>, _ gate: Int, _ dz: UnsafeMutablePointer<S>, _ gradBias: UnsafeMutablePointer<S>
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
      add(d * load(z, i, n), to: dGate, i, n)
    }
  }
}

@inline(__always)
private func squares<S: NetworkNumber>(_ x: UnsafePointer<S>, _ count: Int) -> Double {
  var total = SIMD16<S>.zero
  lanes(count) { i, n in
    let value = load(x, i, n)
    total += value * value
  }
  return Double(sum(total))
}

extension UnsafeRawPointer {
  @inline(__always) fileprivate func of<S>(_: S.Type) -> UnsafePointer<S> { assumingMemoryBound(to: S.self) }
}

extension UnsafeMutableRawPointer {
  @inline(__always) fileprivate func of<S>(_: S.Type) -> UnsafeMutablePointer<S> { assumingMemoryBound(to: S.self) }
}

@inline(__always)
private func tableOfKernels<S: NetworkNumber>(_: S.Type) -> NetworkKernels {
  NetworkKernels(
    product: S.self == Float.self ? floatProduct : nil, panel: productPanel,
    transpose: { transpose(S.self, $0.of(S.self), $1, $2, $3.of(S.self), $4) },
    siluForward: { siluForward($0.of(S.self), $1, $2.of(S.self), $3.of(S.self)) },
    siluBackward: { siluBackward($0.of(S.self), $1.of(S.self), $2, $3, $4.of(S.self)) },
    addColumnSums: { addColumnSums($0.of(S.self), $1, $2, $3.of(S.self)) },
    normForward: {
      normForward($0.of(S.self), $1, $2, Table($3), $4, $5, $6.of(S.self), $7.of(S.self), $8.of(S.self))
    },
    normBackward: {
      normBackward(
        $0.of(S.self), $1.of(S.self), $2.of(S.self), $3.of(S.self), $4, $5, Table($6), Table($7), $8, $9,
        $10.of(S.self))
    },
    gateForward: { gateForward($0.of(S.self), $1.of(S.self), $2, $3, Table($4), $5, $6.of(S.self)) },
    gateBackward: {
      gateBackward($0.of(S.self), $1.of(S.self), $2, $3, Table($4), Table($5), $6, $7.of(S.self), $8.of(S.self))
    },
    add: { x, y, count in
      let (x, y) = (x.of(S.self), y.of(S.self))
      lanes(count) { i, n in add(load(x, i, n), to: y, i, n) }
    },
    squares: { squares($0.of(S.self), $1) })
}

/// √y for y ≥ 0 to about 2 ulp, by Newton steps on 1/√y: the vector square root of the standard library is a call a lane.
@inline(__always)
private func squareRoot(_ y: SIMD16<Float>) -> SIMD16<Float> {
  let half = y * 0.5
  var r = unsafeBitCast(0x5f37_59df &- (unsafeBitCast(y, to: SIMD16<UInt32>.self) &>> 1), to: SIMD16<Float>.self)
  r = r * (1.5 - half * r * r)
  r = r * (1.5 - half * r * r)
  r = r * (1.5 - half * r * r)
  return y * r
}

private func adamW(
  _ f: AdamWFactors, _ g: In, _ w: In, _ m: In, _ v: In, _ newW: Out, _ newM: Out, _ newV: Out, _ count: Int
) {
  let (g, w, m, v) = (g.of(Float.self), w.of(Float.self), m.of(Float.self), v.of(Float.self))
  let (newW, newM, newV) = (newW.of(Float.self), newM.of(Float.self), newV.of(Float.self))
  // A function, because a closure of this size is not inlined into both calls of `lanes`.
  @inline(__always) func step(_ i: Int, _ n: Int) {
    let gradient = load(g, i, n) * f.scale
    let first = load(m, i, n) * f.beta1 + gradient * f.new1
    let second = load(v, i, n) * f.beta2 + gradient * gradient * f.new2
    store(first, newM, i, n)
    store(second, newV, i, n)
    store(load(w, i, n) * f.keep - first * f.rate / (squareRoot(second) * f.correction + f.epsilon), newW, i, n)
  }
  lanes(count) { step($0, $1) }
}

private func average(_ share: Float, _ w: In, _ average: In, _ newAverage: Out, _ count: Int) {
  let (w, average, newAverage) = (w.of(Float.self), average.of(Float.self), newAverage.of(Float.self))
  lanes(count) { i, n in
    let a = load(average, i, n)
    store(a + (load(w, i, n) - a) * share, newAverage, i, n)
  }
}

/// The kernels of the network as this module was compiled.
public let networkKernels = NetworkKernelSet(
  float32: tableOfKernels(Float.self), float64: tableOfKernels(Double.self), adamW: adamW, average: average)
