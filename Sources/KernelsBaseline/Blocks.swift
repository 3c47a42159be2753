public import BlockKernels

private typealias In = UnsafeRawPointer
private typealias Out = UnsafeMutableRawPointer

/// The sums of the first or the second eight of every sixteen elements: an order that no instruction set changes.
private struct Eight<C: ComputeScalar> {
  var squares = SIMD8<C>.zero, change = SIMD8<C>.zero, magnitude = SIMD8<C>.zero
}

/// Adds up eight lanes of each half.
@inline(__always)
private func add<C>(_ first: Eight<C>, _ second: Eight<C>, to sums: Out) {
  @inline(__always) func sum(_ v: SIMD8<C>) -> Double {
    let four = v.lowHalf + v.highHalf
    return (Double(four[0]) + Double(four[1])) + (Double(four[2]) + Double(four[3]))
  }
  let sums = sums.assumingMemoryBound(to: BlockSums.self)
  sums.pointee.squares += sum(first.squares + second.squares)
  sums.pointee.change += sum(first.change + second.change)
  sums.pointee.magnitude += sum(first.magnitude + second.magnitude)
}

/// Up to four arrays that a kernel reads and the one that it writes, with the bytes of their elements.
private struct Arrays {
  var p0: In, p1: In, p2: In, p3: In
  var out: Out
  let size, size2, size3: Int

  /// - Parameters:
  ///   - p2, p3: of another type than the rest where sizes are given.
  @inline(__always)
  init<E: LatentElement>(_: E.Type, _ p0: In, _ p1: In, _ p2: In, _ p3: In, out: Out, computed2: Bool, computed3: Bool) {
    self.p0 = p0
    self.p1 = p1
    self.p2 = p2
    self.p3 = p3
    self.out = out
    size = MemoryLayout<E>.size
    size2 = computed2 ? MemoryLayout<E.Compute>.size : size
    size3 = computed3 ? MemoryLayout<E.Compute>.size : size
  }
}

/// Calls `body` for each eight of `count` elements, and adds the sums up. What is left is padded with zeros, which add
/// nothing to any sum.
@inline(__always)
private func eights<C: ComputeScalar>(
  _ count: Int, _ a: Arrays, writes: Bool, _ sums: Out, _: C.Type,
  _ body: (In, In, In, In, Out, inout Eight<C>) -> Void
) {
  var first = Eight<C>()
  var second = Eight<C>()
  var i = 0
  while i &+ 16 <= count {
    body(a.p0 + i &* a.size, a.p1 + i &* a.size, a.p2 + i &* a.size2, a.p3 + i &* a.size3, a.out + i &* a.size, &first)
    let j = i &+ 8
    body(a.p0 + j &* a.size, a.p1 + j &* a.size, a.p2 + j &* a.size2, a.p3 + j &* a.size3, a.out + j &* a.size, &second)
    i &+= 16
  }
  while i < count {
    let left = min(8, count &- i)
    withUnsafeTemporaryAllocation(byteCount: 5 * 64, alignment: 16) { memory in
      guard let slots = memory.baseAddress else { return }
      slots.initializeMemory(as: UInt8.self, repeating: 0, count: 5 * 64)
      slots.copyMemory(from: a.p0 + i &* a.size, byteCount: left &* a.size)
      (slots + 64).copyMemory(from: a.p1 + i &* a.size, byteCount: left &* a.size)
      (slots + 128).copyMemory(from: a.p2 + i &* a.size2, byteCount: left &* a.size2)
      (slots + 192).copyMemory(from: a.p3 + i &* a.size3, byteCount: left &* a.size3)
      body(In(slots), In(slots + 64), In(slots + 128), In(slots + 192), slots + 256, &first)
      if writes { (a.out + i &* a.size).copyMemory(from: slots + 256, byteCount: left &* a.size) }
    }
    swap(&first, &second)
    i &+= 8
  }
  add(first, second, to: sums)
}

/// m = a·x + b·v
private struct Affine<E: LatentElement> {
  let a, b: E.Compute

  @inline(__always) init(_ a: Double, _ b: Double) {
    self.a = E.Compute(a)
    self.b = E.Compute(b)
  }

  @inline(__always) func mean(_ x: SIMD8<E.Compute>, _ v: In) -> SIMD8<E.Compute> { a * x + b * E.load(v) }
}

@inline(__always)
private func combine<E: LatentElement>(
  _: E.Type, _ p: Double, _ y: In, _ q: Double, _ z: In?, _ extra: Out, _ count: Int
) {
  typealias C = E.Compute
  let (p, q) = (C(p), C(q))
  var i = 0
  // `extra` has room for a whole block; what lies beyond the rest is not used.
  while i < count {
    let n = min(8, count &- i)
    let offset = i &* MemoryLayout<E>.size
    var sum = p * part(E.self, y + offset, n)
    if let z { sum += q * part(E.self, z + offset, n) }
    C.store(sum, extra + i &* MemoryLayout<C>.size)
    i &+= 8
  }
}

/// The first n ≤ 8 elements at `p`, then zeros.
@inline(__always)
private func part<E: LatentElement>(_: E.Type, _ p: In, _ n: Int) -> SIMD8<E.Compute> {
  if n == 8 { return E.load(p) }
  return withUnsafeTemporaryAllocation(byteCount: 64, alignment: 16) { memory in
    guard let slot = memory.baseAddress else { return .zero }
    slot.initializeMemory(as: UInt8.self, repeating: 0, count: 64)
    slot.copyMemory(from: p, byteCount: n &* MemoryLayout<E>.size)
    return E.load(slot)
  }
}

@inline(__always)
private func step<E: LatentElement>(
  _: E.Type, _ a: Double, _ b: Double, _ s: Double, _ x: In, _ v: In, _ extra: In?, _ noise: In, _ next: Out,
  _ count: Int, _ sums: Out
) {
  typealias C = E.Compute
  let k = Affine<E>(a, b)
  let s = C(s)
  @inline(__always) func eight(_ x: In, _ mean: SIMD8<C>, _ noise: In, _ next: Out, _ lanes: inout Eight<C>) {
    E.store(mean + s * C.load(noise), next)
    let stored = E.load(next)  // rounded: what a later recomputation will see
    let x = E.load(x)
    let d = stored - mean
    lanes.squares += d * d
    lanes.change += C.magnitude(stored - x)
    lanes.magnitude += C.magnitude(x)
  }
  if let extra {
    let arrays = Arrays(E.self, x, v, extra, noise, out: next, computed2: true, computed3: true)
    eights(count, arrays, writes: true, sums, C.self) { eight($0, k.mean(E.load($0), $1) + C.load($2), $3, $4, &$5) }
  } else {
    let arrays = Arrays(E.self, x, v, x, noise, out: next, computed2: false, computed3: true)
    eights(count, arrays, writes: true, sums, C.self) { eight($0, k.mean(E.load($0), $1), $3, $4, &$5) }
  }
}

@inline(__always)
private func difference<E: LatentElement>(
  _: E.Type, _ a: Double, _ b: Double, _ x: In, _ v: In, _ extra: In?, _ next: In, _ scale: Double, _ gradient: Out?,
  _ count: Int, _ sums: Out
) {
  typealias C = E.Compute
  let k = Affine<E>(a, b)
  let scale = C(scale)
  @inline(__always) func eight(_ d: SIMD8<C>, _ gradient: Out, _ writes: Bool, _ lanes: inout Eight<C>) {
    lanes.squares += d * d
    if writes { E.store(scale * d, gradient) }
  }
  let out = gradient ?? Out(mutating: x)  // not written to where there is none
  if let extra {
    let arrays = Arrays(E.self, x, v, extra, next, out: out, computed2: true, computed3: false)
    if gradient != nil {
      eights(count, arrays, writes: true, sums, C.self) { eight(E.load($3) - (k.mean(E.load($0), $1) + C.load($2)), $4, true, &$5) }
    } else {
      eights(count, arrays, writes: false, sums, C.self) { eight(E.load($3) - (k.mean(E.load($0), $1) + C.load($2)), $4, false, &$5) }
    }
  } else {
    let arrays = Arrays(E.self, x, v, x, next, out: out, computed2: false, computed3: false)
    if gradient != nil {
      eights(count, arrays, writes: true, sums, C.self) { eight(E.load($3) - k.mean(E.load($0), $1), $4, true, &$5) }
    } else {
      eights(count, arrays, writes: false, sums, C.self) { eight(E.load($3) - k.mean(E.load($0), $1), $4, false, &$5) }
    }
  }
}

@inline(__always)
private func distance<E: LatentElement>(
  _: E.Type, _ v: In, _ w: In, _ scale: Double, _ gradient: Out?, _ count: Int, _ sums: Out
) {
  typealias C = E.Compute
  let scale = C(scale)
  let arrays = Arrays(E.self, v, w, v, v, out: gradient ?? Out(mutating: v), computed2: false, computed3: false)
  eights(count, arrays, writes: gradient != nil, sums, C.self) { v, w, _, _, out, lanes in
    let d = E.load(v) - E.load(w)
    lanes.squares += d * d
    if gradient != nil { E.store(scale * d, out) }
  }
}

@inline(__always)
private func meanDistance<E: LatentElement>(
  _: E.Type, _ a: Double, _ b: Double, _ s: Double, _ x: In, _ v: In, _ noise: In, _ next: In, _ scale: Double,
  _ gradient: Out?, _ count: Int, _ sums: Out
) {
  typealias C = E.Compute
  let k = Affine<E>(a, b)
  let (s, scale) = (C(s), C(scale))
  let arrays = Arrays(E.self, x, v, noise, next, out: gradient ?? Out(mutating: x), computed2: true, computed3: false)
  eights(count, arrays, writes: gradient != nil, sums, C.self) { x, v, noise, next, out, lanes in
    let d = k.mean(E.load(x), v) - (E.load(next) - s * C.load(noise))
    lanes.squares += d * d
    if gradient != nil { E.store(scale * d, out) }
  }
}

@inline(__always)
private func change<E: LatentElement>(_: E.Type, _ x: In, _ next: In, _ count: Int, _ sums: Out) {
  let arrays = Arrays(E.self, x, next, x, x, out: Out(mutating: x), computed2: false, computed3: false)
  eights(count, arrays, writes: false, sums, E.Compute.self) { x, next, _, _, _, lanes in
    let x = E.load(x)
    lanes.change += E.Compute.magnitude(E.load(next) - x)
    lanes.magnitude += E.Compute.magnitude(x)
  }
}

@inline(__always)
private func widen<E: LatentElement>(_: E.Type, _ from: In, _ to: Out, _ count: Int) {
  var i = 0
  while i < count {
    let values = part(E.self, from + i &* MemoryLayout<E>.size, min(8, count &- i))
    E.Compute.store(values, to + i &* MemoryLayout<E.Compute>.size)
    i &+= 8
  }
}

@inline(__always)
private func narrow<E: LatentElement>(_: E.Type, _ from: In, _ to: Out, _ count: Int) {
  let size = MemoryLayout<E.Compute>.size
  var i = 0
  while i &+ 8 <= count {
    E.store(E.Compute.load(from + i &* size), to + i &* MemoryLayout<E>.size)
    i &+= 8
  }
  if i == count { return }
  withUnsafeTemporaryAllocation(byteCount: 64, alignment: 16) { memory in
    guard let slot = memory.baseAddress else { return }
    E.store(part(E.Compute.self, from + i &* size, count &- i), slot)
    (to + i &* MemoryLayout<E>.size).copyMemory(from: slot, byteCount: (count &- i) &* MemoryLayout<E>.size)
  }
}

@inline(__always)
private func blockKernels<E: LatentElement>(_: E.Type) -> BlockKernels {
  BlockKernels(
    combine: { combine(E.self, $0, $1, $2, $3, $4, $5) },
    step: { step(E.self, $0, $1, $2, $3, $4, $5, $6, $7, $8, $9) },
    difference: { difference(E.self, $0, $1, $2, $3, $4, $5, $6, $7, $8, $9) },
    distance: { distance(E.self, $0, $1, $2, $3, $4, $5) },
    meanDistance: { meanDistance(E.self, $0, $1, $2, $3, $4, $5, $6, $7, $8, $9, $10) },
    change: { change(E.self, $0, $1, $2, $3) },
    normals: E.Compute.self == Double.self ? doubleNormals : floatNormals,
    widen: { widen(E.self, $0, $1, $2) },
    narrow: { narrow(E.self, $0, $1, $2) })
}

/// The kernels as this module was compiled.
public let kernels = KernelSet(
  float32: blockKernels(Float.self), float64: blockKernels(Double.self), bfloat16: blockKernels(BFloat16.self),
  float16: blockKernels(Half.self))
