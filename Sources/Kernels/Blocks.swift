public import KernelTable

private typealias In = UnsafeRawPointer
private typealias Out = UnsafeMutableRawPointer

// MARK: - Sixteen elements

/// The sums of a block, of the first and the second of each pair apart: an order that no instruction set changes.
private struct Lanes<C: ComputeScalar> {
  var squares: Pair<C> = (.zero, .zero), change: Pair<C> = (.zero, .zero), magnitude: Pair<C> = (.zero, .zero)

  @inline(__always) mutating func addSquares(_ d: Pair<C>) { squares = plus(squares, times(d, d)) }

  @inline(__always) mutating func addChange(_ next: Pair<C>, _ x: Pair<C>) {
    let d = minus(next, x)
    change = plus(change, (C.magnitude(d.0), C.magnitude(d.1)))
    magnitude = plus(magnitude, (C.magnitude(x.0), C.magnitude(x.1)))
  }

  @inline(__always) func add(to sums: Out) {
    @inline(__always) func sum(_ v: Pair<C>) -> Double {
      let eight = C.add(v.0, v.1)
      let four = eight.lowHalf + eight.highHalf
      return (Double(four[0]) + Double(four[1])) + (Double(four[2]) + Double(four[3]))
    }
    let sums = sums.assumingMemoryBound(to: BlockSums.self)
    sums.pointee.squares += sum(squares)
    sums.pointee.change += sum(change)
    sums.pointee.magnitude += sum(magnitude)
  }
}

@inline(__always)
private func plus<C: ComputeScalar>(_ u: Pair<C>, _ v: Pair<C>) -> Pair<C> { (C.add(u.0, v.0), C.add(u.1, v.1)) }

@inline(__always)
private func minus<C: ComputeScalar>(_ u: Pair<C>, _ v: Pair<C>) -> Pair<C> {
  (C.subtract(u.0, v.0), C.subtract(u.1, v.1))
}

@inline(__always)
private func times<C: ComputeScalar>(_ u: Pair<C>, _ v: Pair<C>) -> Pair<C> {
  (C.multiply(u.0, v.0), C.multiply(u.1, v.1))
}

@inline(__always)
private func times<C: ComputeScalar>(_ a: C, _ v: Pair<C>) -> Pair<C> {
  let a = SIMD8(repeating: a)
  return times((a, a), v)
}

// MARK: - Blocks

/// The up to four arrays that a kernel reads and the one that it writes. The third and the fourth may be of the compute
/// type, and then have room for a whole block.
private struct Arrays {
  var p0: In, p1: In, p2: In, p3: In
  var out: Out
  let size, size2, size3: Int

  @inline(__always)
  init<E: LatentElement>(
    _: E.Type, _ p0: In, _ p1: In, _ p2: In, _ p3: In, out: Out, computed2: Bool = false, computed3: Bool = false
  ) {
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

/// Calls `body` for each sixteen of `count` elements. What is left is padded with zeros, which add nothing to any sum.
@inline(__always)
private func sixteens(_ count: Int, _ a: Arrays, writes: Bool, _ body: (In, In, In, In, Out) -> Void) {
  var i = 0
  @inline(__always) func sixteen() {
    body(a.p0 + i &* a.size, a.p1 + i &* a.size, a.p2 + i &* a.size2, a.p3 + i &* a.size3, a.out + i &* a.size)
    i &+= 16
  }
  while i &+ 32 <= count {
    sixteen()
    sixteen()
  }
  if i &+ 16 <= count { sixteen() }
  if i == count { return }
  let left = count &- i
  withUnsafeTemporaryAllocation(byteCount: 5 * 128, alignment: 16) { memory in
    guard let slots = memory.baseAddress else { return }
    slots.initializeMemory(as: UInt8.self, repeating: 0, count: 5 * 128)
    @inline(__always) func pad(_ slot: Int, _ p: In, _ size: Int) -> In {
      (slots + slot).copyMemory(from: p + i &* size, byteCount: left &* size)
      return In(slots + slot)
    }
    // Numbers of a wider type than the latents' were made here, in their own order and with zeros to the end.
    let p2 = a.size2 == a.size ? pad(256, a.p2, a.size2) : a.p2 + i &* a.size2
    let p3 = a.size3 == a.size ? pad(384, a.p3, a.size3) : a.p3 + i &* a.size3
    body(pad(0, a.p0, a.size), pad(128, a.p1, a.size), p2, p3, slots + 512)
    if writes { (a.out + i &* a.size).copyMemory(from: slots + 512, byteCount: left &* a.size) }
  }
}

// MARK: - Kernels

/// m = a·x + b·v
private struct Affine<E: LatentElement> {
  let a, b: E.Compute

  @inline(__always) init(_ a: Double, _ b: Double) {
    self.a = E.Compute(a)
    self.b = E.Compute(b)
  }

  @inline(__always) func mean(_ x: Pair<E.Compute>, _ v: In) -> Pair<E.Compute> {
    plus(times(a, x), times(b, E.load(v)))
  }
}

@inline(__always)
private func combine<E: LatentElement>(
  _: E.Type, _ p: Double, _ y: In, _ q: Double, _ z: In?, _ extra: Out, _ count: Int
) {
  typealias C = E.Compute
  let (p, q) = (C(p), C(q))
  var i = 0
  while i < count {
    let left = min(16, count &- i)
    let offset = i &* MemoryLayout<E>.size
    var sum = times(p, part(E.self, y + offset, left))
    if let z { sum = plus(sum, times(q, part(E.self, z + offset, left))) }
    C.store(sum, extra + i &* MemoryLayout<C>.size)
    i &+= 16
  }
}

/// The first n ≤ 16 elements at `p`, then zeros.
@inline(__always)
private func part<E: LatentElement>(_: E.Type, _ p: In, _ n: Int) -> Pair<E.Compute> {
  if n == 16 { return E.load(p) }
  return withUnsafeTemporaryAllocation(byteCount: 128, alignment: 16) { memory in
    guard let slot = memory.baseAddress else { return (.zero, .zero) }
    slot.initializeMemory(as: UInt8.self, repeating: 0, count: 128)
    slot.copyMemory(from: p, byteCount: n &* MemoryLayout<E>.size)
    return E.load(slot)
  }
}

@inline(__always)
private func step<E: LatentElement>(
  _: E.Type, _ a: Double, _ b: Double, _ s: Double, _ x: In, _ v: In, _ extra: In?, _ noise: In, _ next: Out,
  _ change: Bool, _ count: Int, _ sums: Out
) {
  typealias C = E.Compute
  let k = Affine<E>(a, b)
  let s = C(s)
  var lanes = Lanes<C>()
  @inline(__always) func take(_ x: Pair<C>, _ mean: Pair<C>, _ noise: In, _ next: Out, change: Bool) {
    let stored = E.store(plus(mean, times(s, C.load(noise))), next)  // rounded: what a later recomputation will see
    lanes.addSquares(minus(stored, mean))
    if change { lanes.addChange(stored, x) }
  }
  if let extra {
    let arrays = Arrays(E.self, x, v, extra, noise, out: next, computed2: true, computed3: true)
    sixteens(count, arrays, writes: true) {
      let x = E.load($0)
      take(x, plus(k.mean(x, $1), C.load($2)), $3, $4, change: true)
    }
  } else {
    let arrays = Arrays(E.self, x, v, x, noise, out: next, computed3: true)
    @inline(__always) func run(change: Bool) {
      sixteens(count, arrays, writes: true) {
        let x = E.load($0)
        take(x, k.mean(x, $1), $3, $4, change: change)
      }
    }
    if change { run(change: true) } else { run(change: false) }
  }
  lanes.add(to: sums)
}

@Sendable
private func noisyStep(
  _ a: Double, _ b: Double, _ s: Double, _ x: In, _ v: In, _ draw: Draw, _ words: Out, _ next: Out, _ change: Bool,
  _ count: Int, _ sums: Out
) {
  drawWords(draw, words, (count &+ 63) & ~63)
  if change {
    noisyStep(Affine(a, b), Float(s), x, v, words, next, change: true, count, sums)
  } else {
    noisyStep(Affine(a, b), Float(s), x, v, words, next, change: false, count, sums)
  }
}

@inline(__always)
private func noisyStep(
  _ k: Affine<Float>, _ s: Float, _ x: In, _ v: In, _ words: In, _ next: Out, change: Bool, _ count: Int, _ sums: Out
) {
  let transform = BoxMuller.shared
  var lanes = Lanes<Float>()
  @inline(__always) func take(_ i: Int, _ noise: SIMD16<Float>) {
    let x = Float.load(x + 4 &* i)
    let mean = k.mean(x, v + 4 &* i)
    let stored = Float.store(plus(mean, times(s, (noise.lowHalf, noise.highHalf))), next + 4 &* i)
    lanes.addSquares(minus(stored, mean))
    if change { lanes.addChange(stored, x) }
  }
  var i = 0
  while i < count {
    let (first, second) = transform.pointee.normals(at: words + 4 &* i)
    take(i, first.lanes)
    take(i &+ 16, second.lanes)
    i &+= 32
  }
  lanes.add(to: sums)
}

/// Where a kernel writes: a type, so that each has a loop of its own.
private protocol Destination {
  static var writes: Bool { get }
  static func put<E: LatentElement>(_: E.Type, _ values: Pair<E.Compute>, _ out: Out)
}

private enum Nowhere: Destination {
  static var writes: Bool { false }
  @inline(__always) static func put<E: LatentElement>(_: E.Type, _ values: Pair<E.Compute>, _ out: Out) {}
}

private enum ThroughCaches: Destination {
  static var writes: Bool { true }
  @inline(__always) static func put<E: LatentElement>(_: E.Type, _ values: Pair<E.Compute>, _ out: Out) {
    E.store(values, out)
  }
}

private enum PastCaches: Destination {
  static var writes: Bool { true }
  @inline(__always) static func put<E: LatentElement>(_: E.Type, _ values: Pair<E.Compute>, _ out: Out) {
    E.stream(values, out)
  }
}

@inline(__always)
private func difference<E: LatentElement>(
  _: E.Type, _ a: Double, _ b: Double, _ x: In, _ v: In, _ extra: In?, _ next: In, _ scale: Double, _ gradient: Out?,
  _ streams: Bool, _ count: Int, _ sums: Out
) {
  let k = Affine<E>(a, b)
  let scale = E.Compute(scale)
  if let gradient {
    if streams && count & 15 == 0 && UInt(bitPattern: gradient) & 31 == 0 {
      difference(k, x, v, extra, next, scale, gradient, PastCaches.self, count, sums)
    } else {
      difference(k, x, v, extra, next, scale, gradient, ThroughCaches.self, count, sums)
    }
  } else {
    difference(k, x, v, extra, next, scale, Out(mutating: x), Nowhere.self, count, sums)
  }
}

@inline(__always)
private func difference<E: LatentElement, D: Destination>(
  _ k: Affine<E>, _ x: In, _ v: In, _ extra: In?, _ next: In, _ scale: E.Compute, _ gradient: Out, _: D.Type,
  _ count: Int, _ sums: Out
) {
  typealias C = E.Compute
  var lanes = Lanes<C>()
  @inline(__always) func take(_ next: In, _ mean: Pair<C>, _ gradient: Out) {
    let d = minus(E.load(next), mean)
    lanes.addSquares(d)
    D.put(E.self, times(scale, d), gradient)
  }
  if let extra {
    let arrays = Arrays(E.self, x, v, extra, next, out: gradient, computed2: true)
    sixteens(count, arrays, writes: D.writes) { take($3, plus(k.mean(E.load($0), $1), C.load($2)), $4) }
  } else {
    let arrays = Arrays(E.self, x, v, x, next, out: gradient)
    sixteens(count, arrays, writes: D.writes) { take($3, k.mean(E.load($0), $1), $4) }
  }
  lanes.add(to: sums)
}

@inline(__always)
private func distance<E: LatentElement>(
  _: E.Type, _ v: In, _ w: In, _ scale: Double, _ gradient: Out?, _ count: Int, _ sums: Out
) {
  let scale = E.Compute(scale)
  if let gradient {
    distance(E.self, v, w, scale, gradient, ThroughCaches.self, count, sums)
  } else {
    distance(E.self, v, w, scale, Out(mutating: v), Nowhere.self, count, sums)
  }
}

@inline(__always)
private func distance<E: LatentElement, D: Destination>(
  _: E.Type, _ v: In, _ w: In, _ scale: E.Compute, _ gradient: Out, _: D.Type, _ count: Int, _ sums: Out
) {
  var lanes = Lanes<E.Compute>()
  sixteens(count, Arrays(E.self, v, w, v, v, out: gradient), writes: D.writes) { v, w, _, _, out in
    let d = minus(E.load(v), E.load(w))
    lanes.addSquares(d)
    D.put(E.self, times(scale, d), out)
  }
  lanes.add(to: sums)
}

@inline(__always)
private func meanDistance<E: LatentElement>(
  _: E.Type, _ a: Double, _ b: Double, _ s: Double, _ x: In, _ v: In, _ noise: In, _ next: In, _ scale: Double,
  _ gradient: Out?, _ count: Int, _ sums: Out
) {
  let (k, s, scale) = (Affine<E>(a, b), E.Compute(s), E.Compute(scale))
  if let gradient {
    meanDistance(k, s, x, v, noise, next, scale, gradient, ThroughCaches.self, count, sums)
  } else {
    meanDistance(k, s, x, v, noise, next, scale, Out(mutating: x), Nowhere.self, count, sums)
  }
}

@inline(__always)
private func meanDistance<E: LatentElement, D: Destination>(
  _ k: Affine<E>, _ s: E.Compute, _ x: In, _ v: In, _ noise: In, _ next: In, _ scale: E.Compute, _ gradient: Out,
  _: D.Type, _ count: Int, _ sums: Out
) {
  typealias C = E.Compute
  var lanes = Lanes<C>()
  let arrays = Arrays(E.self, x, v, noise, next, out: gradient, computed2: true)
  sixteens(count, arrays, writes: D.writes) { x, v, noise, next, out in
    let d = minus(k.mean(E.load(x), v), minus(E.load(next), times(s, C.load(noise))))
    lanes.addSquares(d)
    D.put(E.self, times(scale, d), out)
  }
  lanes.add(to: sums)
}

@inline(__always)
private func change<E: LatentElement>(_: E.Type, _ x: In, _ next: In, _ count: Int, _ sums: Out) {
  var lanes = Lanes<E.Compute>()
  let arrays = Arrays(E.self, x, next, x, x, out: Out(mutating: x))
  sixteens(count, arrays, writes: false) { x, next, _, _, _ in lanes.addChange(E.load(next), E.load(x)) }
  lanes.add(to: sums)
}

@inline(__always)
private func widen<E: LatentElement>(_: E.Type, _ from: In, _ to: Out, _ count: Int) {
  var i = 0
  while i < count {
    let values = part(E.self, from + i &* MemoryLayout<E>.size, min(16, count &- i))
    E.Compute.store(values, to + i &* MemoryLayout<E.Compute>.size)
    i &+= 16
  }
}

@inline(__always)
private func narrow<E: LatentElement>(_: E.Type, _ from: In, _ to: Out, _ count: Int) {
  var i = 0
  while i < count {
    let values = E.Compute.load(from + i &* MemoryLayout<E.Compute>.size)
    let out = to + i &* MemoryLayout<E>.size
    if i &+ 16 <= count {
      E.store(values, out)
    } else {
      withUnsafeTemporaryAllocation(byteCount: 128, alignment: 16) { memory in
        guard let slot = memory.baseAddress else { return }
        E.store(values, slot)
        out.copyMemory(from: slot, byteCount: (count &- i) &* MemoryLayout<E>.size)
      }
    }
    i &+= 16
  }
}

/// From the order of a type that splits into that of the elements.
@Sendable
private func unsplit(_ numbers: Out, _ count: Int) {
  typealias Sixteen = SIMD16<Float>
  var i = 0
  while i < count {
    let values = numbers.loadUnaligned(fromByteOffset: 4 &* i, as: Sixteen.self)
    var ordered = Sixteen()
    ordered.evenHalf = values.lowHalf
    ordered.oddHalf = values.highHalf
    numbers.storeBytes(of: ordered, toByteOffset: 4 &* i, as: Sixteen.self)
    i &+= 16
  }
}

@inline(__always)
private func blockKernels<E: LatentElement>(_: E.Type) -> BlockKernels {
  BlockKernels(
    combine: { combine(E.self, $0, $1, $2, $3, $4, $5) },
    step: { step(E.self, $0, $1, $2, $3, $4, $5, $6, $7, $8, $9, $10) },
    noisyStep: E.self == Float.self ? noisyStep : nil,
    difference: { difference(E.self, $0, $1, $2, $3, $4, $5, $6, $7, $8, $9, $10) },
    distance: { distance(E.self, $0, $1, $2, $3, $4, $5) },
    meanDistance: { meanDistance(E.self, $0, $1, $2, $3, $4, $5, $6, $7, $8, $9, $10) },
    change: { change(E.self, $0, $1, $2, $3) },
    normals: E.Compute.self == Double.self ? doubleNormals : E.splits ? splitNormals : floatNormals,
    unsplit: E.splits ? unsplit : nil,
    widen: { widen(E.self, $0, $1, $2) },
    narrow: { narrow(E.self, $0, $1, $2) })
}

/// The kernels as this module was compiled.
public let kernels = KernelSet(
  float32: blockKernels(Float.self), float64: blockKernels(Double.self), bfloat16: blockKernels(BFloat16.self),
  float16: blockKernels(Half.self))
