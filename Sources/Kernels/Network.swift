public import KernelTable

// The elementwise half of the network, sixteen numbers at a time: one fused pass a kernel. Sums are of sixteen lanes,
// whatever the width of the vectors.

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
private func accumulate<S: NetworkNumber>(_ values: SIMD16<S>, _ p: UnsafeMutablePointer<S>, _ i: Int, _ width: Int) {
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

extension UnsafeRawPointer {
  @inline(__always) func of<S>(_: S.Type) -> UnsafePointer<S> { assumingMemoryBound(to: S.self) }
}

extension UnsafeMutableRawPointer {
  @inline(__always) func of<S>(_: S.Type) -> UnsafeMutablePointer<S> { assumingMemoryBound(to: S.self) }
}

/// The kernels of one type of number. Inlined into each type's, so that no closure of a loop stays generic.
protocol TypedNetworkKernels: NetworkKernels {
  associatedtype S: NetworkNumber
}

extension TypedNetworkKernels {
  static var hasProduct: Bool { false }
  @inline(__always)
  static func product(_ arguments: UnsafePointer<ProductArguments>) {}
  static var panel: Int { productPanel }

  @inline(__always)
  static func transpose(_ x: In, rows: Int, columns: Int, into y: Out, stride: Int) {
    let (x, y) = (x.of(S.self), y.of(S.self))
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

  @inline(__always)
  static func siluForward(_ x: In, count: Int, into y: Out, slope: Out) {
    let (x, y, slope) = (x.of(S.self), y.of(S.self), slope.of(S.self))
    lanes(count) { i, n in
      let u = load(x, i, n)
      let g = 1 / (1 + S.exponential(0 - u))
      let value = u * g
      store(value, y, i, n)
      store(g + value * (1 - g), slope, i, n)
    }
  }

  @inline(__always)
  static func siluBackward(_ dy: Out, slope: In, rows: Int, width: Int, gradBias: Out) {
    let (dy, slope, gradBias) = (dy.of(S.self), slope.of(S.self), gradBias.of(S.self))
    for r in 0..<rows {
      let dy = dy + r &* width
      let slope = slope + r &* width
      lanes(width) { i, n in
        let dx = load(dy, i, n) * load(slope, i, n)
        store(dx, dy, i, n)
        accumulate(dx, gradBias, i, n)
      }
    }
  }

  @inline(__always)
  static func addColumnSums(_ x: In, rows: Int, width: Int, to sum: Out) {
    let (x, sum) = (x.of(S.self), sum.of(S.self))
    for r in 0..<rows {
      let x = x + r &* width
      lanes(width) { i, n in accumulate(load(x, i, n), sum, i, n) }
    }
  }

  @inline(__always)
  static func normForward(_ arguments: UnsafePointer<NormArguments>) {
    let k = arguments.pointee
    let width = k.width
    let modulation = Table<S>(k.modulation)
    let share = 1 / S(width)
    for r in 0..<k.rows {
      let x = k.x.of(S.self) + r &* width
      let y = k.y.of(S.self) + r &* width
      let shift = modulation.vector(r, at: k.shift)
      let scale = modulation.vector(r, at: k.scale)
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
      k.mean.of(S.self)[r] = m
      k.rstd.of(S.self)[r] = s
    }
  }

  @inline(__always)
  static func normBackward(_ arguments: UnsafePointer<NormGradientArguments>) {
    let k = arguments.pointee
    let width = k.width
    let (modulation, gradModulation) = (Table<S>(k.modulation), Table<S>(k.gradModulation))
    let share = 1 / S(width)
    for r in 0..<k.rows {
      let x = k.x.of(S.self) + r &* width
      let dy = k.dy.of(S.self) + r &* width
      let dx = k.dx.of(S.self) + r &* width
      let factor = modulation.vector(r, at: k.scale)
      let dShift = gradModulation.vector(r, at: k.shift)
      let dScale = gradModulation.vector(r, at: k.scale)
      let m = k.mean.of(S.self)[r]
      let s = k.rstd.of(S.self)[r]
      var total = SIMD16<S>.zero
      var product = SIMD16<S>.zero
      lanes(width) { i, n in
        let normal = (load(x, i, n) - m) * s
        let d = load(dy, i, n)
        let dn = d * (1 + load(factor, i, n))
        total += dn
        product += dn * normal
        accumulate(d, dShift, i, n)
        accumulate(d * normal, dScale, i, n)
      }
      let meanOfGrad = sum(total) * share
      let meanOfProduct = sum(product) * share
      lanes(width) { i, n in
        let normal = (load(x, i, n) - m) * s
        let dn = load(dy, i, n) * (1 + load(factor, i, n))
        accumulate((dn - meanOfGrad - normal * meanOfProduct) * s, dx, i, n)
      }
    }
  }

  @inline(__always)
  static func gateForward(_ arguments: UnsafePointer<GateArguments>) {
    let k = arguments.pointee
    let width = k.width
    let modulation = Table<S>(k.modulation)
    for r in 0..<k.rows {
      let z = k.z.of(S.self) + r &* width
      let x = k.x.of(S.self) + r &* width
      let y = k.y.of(S.self) + r &* width
      let gate = modulation.vector(r, at: k.gate)
      lanes(width) { i, n in store(load(x, i, n) + load(gate, i, n) * load(z, i, n), y, i, n) }
    }
  }

  @inline(__always)
  static func gateBackward(_ arguments: UnsafePointer<GateGradientArguments>) {
    let k = arguments.pointee
    let width = k.width
    let (modulation, gradModulation) = (Table<S>(k.modulation), Table<S>(k.gradModulation))
    let gradBias = k.gradBias.of(S.self)
    for r in 0..<k.rows {
      let z = k.z.of(S.self) + r &* width
      let dy = k.dy.of(S.self) + r &* width
      let dz = k.dz.of(S.self) + r &* width
      let factor = modulation.vector(r, at: k.gate)
      let dGate = gradModulation.vector(r, at: k.gate)
      lanes(width) { i, n in
        let d = load(dy, i, n)
        let gradient = d * load(factor, i, n)
        store(gradient, dz, i, n)
        accumulate(gradient, gradBias, i, n)
        accumulate(d * load(z, i, n), dGate, i, n)
      }
    }
  }

  @inline(__always)
  static func add(_ x: In, to y: Out, count: Int) {
    let (x, y) = (x.of(S.self), y.of(S.self))
    lanes(count) { i, n in accumulate(load(x, i, n), y, i, n) }
  }

  @inline(__always)
  static func squares(_ x: In, count: Int) -> Double {
    let x = x.of(S.self)
    var total = SIMD16<S>.zero
    lanes(count) { i, n in
      let value = load(x, i, n)
      total += value * value
    }
    return Double(sum(total))
  }
}

enum Network32: TypedNetworkKernels {
  typealias S = Float

  #if CHUNKGRPO_AVX2 || !arch(x86_64)
    static var hasProduct: Bool { true }
    static func product(_ arguments: UnsafePointer<ProductArguments>) { multiply(arguments.pointee) }
  #endif
}

enum Network64: TypedNetworkKernels { typealias S = Double }

/// √y for y ≥ 0 to about 2 ulp, by Newton steps on 1/√y: the vector square root of the standard library is one call per lane.
@inline(__always)
private func squareRoot(_ y: SIMD16<Float>) -> SIMD16<Float> {
  let half = y * 0.5
  var r = unsafeBitCast(0x5f37_59df &- (unsafeBitCast(y, to: SIMD16<UInt32>.self) &>> 1), to: SIMD16<Float>.self)
  r = r * (1.5 - half * r * r)
  r = r * (1.5 - half * r * r)
  r = r * (1.5 - half * r * r)
  return y * r
}

extension Kernels {
  public static func adamW(_ arguments: UnsafePointer<AdamWArguments>) {
    let k = arguments.pointee
    let f = k.factors
    let (g, w, m, v) = (k.g.of(Float.self), k.w.of(Float.self), k.m.of(Float.self), k.v.of(Float.self))
    let (newW, newM, newV) = (k.newW.of(Float.self), k.newM.of(Float.self), k.newV.of(Float.self))
    // A function, because a closure of this size is not inlined into both calls of `lanes`.
    @inline(__always) func step(_ i: Int, _ n: Int) {
      let gradient = load(g, i, n) * f.scale
      let first = load(m, i, n) * f.beta1 + gradient * f.new1
      let second = load(v, i, n) * f.beta2 + gradient * gradient * f.new2
      store(first, newM, i, n)
      store(second, newV, i, n)
      store(load(w, i, n) * f.keep - first * f.rate / (squareRoot(second) * f.correction + f.epsilon), newW, i, n)
    }
    lanes(k.count) { step($0, $1) }
  }

  public static func average(
    share: Float, _ w: UnsafeRawPointer, _ average: UnsafeRawPointer, into newAverage: UnsafeMutableRawPointer,
    count: Int
  ) {
    let (w, average, newAverage) = (w.of(Float.self), average.of(Float.self), newAverage.of(Float.self))
    lanes(count) { i, n in
      let a = load(average, i, n)
      store(a + (load(w, i, n) - a) * share, newAverage, i, n)
    }
  }
}
