internal import KernelTable

// Shared by the kernels: sixteen elements at a time, their sums, and what is left of a block.

typealias In = UnsafeRawPointer
typealias Out = UnsafeMutableRawPointer

/// The sums of a block, of the first and the second of each pair apart: an order that no instruction set changes.
struct Lanes<C: ComputeScalar> {
  var squares: Pair<C> = (.zero, .zero), change: Pair<C> = (.zero, .zero), magnitude: Pair<C> = (.zero, .zero)

  @inline(__always) mutating func addSquares(_ d: Pair<C>) { squares = plus(squares, times(d, d)) }

  @inline(__always) mutating func addMagnitude(_ d: Pair<C>) {
    magnitude = plus(magnitude, (C.magnitude(d.0), C.magnitude(d.1)))
  }

  @inline(__always) mutating func addChange(_ next: Pair<C>, _ x: Pair<C>) {
    let d = minus(next, x)
    change = plus(change, (C.magnitude(d.0), C.magnitude(d.1)))
    addMagnitude(x)
  }

  @inline(__always) func add(to sums: UnsafeMutablePointer<BlockSums>) {
    @inline(__always) func sum(_ v: Pair<C>) -> Double {
      let eight = C.add(v.0, v.1)
      let four = eight.lowHalf + eight.highHalf
      return (Double(four[0]) + Double(four[1])) + (Double(four[2]) + Double(four[3]))
    }
    sums.pointee.squares += sum(squares)
    sums.pointee.change += sum(change)
    sums.pointee.magnitude += sum(magnitude)
  }
}

@inline(__always)
func plus<C: ComputeScalar>(_ u: Pair<C>, _ v: Pair<C>) -> Pair<C> { (C.add(u.0, v.0), C.add(u.1, v.1)) }

@inline(__always)
func minus<C: ComputeScalar>(_ u: Pair<C>, _ v: Pair<C>) -> Pair<C> {
  (C.subtract(u.0, v.0), C.subtract(u.1, v.1))
}

@inline(__always)
func times<C: ComputeScalar>(_ u: Pair<C>, _ v: Pair<C>) -> Pair<C> {
  (C.multiply(u.0, v.0), C.multiply(u.1, v.1))
}

@inline(__always)
func times<C: ComputeScalar>(_ a: C, _ v: Pair<C>) -> Pair<C> {
  let a = SIMD8(repeating: a)
  return times((a, a), v)
}

/// An array that a kernel reads: its elements' size, and whether it ends with a block's last element.
struct Source {
  let start: In
  let size: Int
  let ends: Bool

  @inline(__always)
  static func of<E: LatentElement>(_: E.Type, _ start: In) -> Source {
    Source(start: start, size: MemoryLayout<E>.size, ends: true)
  }

  /// Made here, in the compute type and the kernels' order, with zeros to the end of the last sixteen.
  @inline(__always)
  static func made<C: ComputeScalar>(_: C.Type, _ start: In) -> Source {
    Source(start: start, size: MemoryLayout<C>.size, ends: false)
  }

  /// Noise: made here, but for the caller's of the compute type.
  @inline(__always)
  static func noise<E: LatentElement>(beside _: E.Type, _ start: In) -> Source {
    E.self == E.Compute.self ? .of(E.self, start) : .made(E.Compute.self, start)
  }
}

/// The up to four arrays that a kernel reads and the one that it writes.
struct Arrays {
  let p0, p1, p2, p3: Source
  let out: Out
  let outSize: Int

  @inline(__always)
  init<O: LatentElement>(
    _ p0: Source, _ p1: Source, _ p2: Source? = nil, _ p3: Source? = nil, out: Out, of _: O.Type
  ) {
    self.p0 = p0
    self.p1 = p1
    self.p2 = p2 ?? p0
    self.p3 = p3 ?? p0
    self.out = out
    outSize = MemoryLayout<O>.size
  }
}

/// Calls `body` for each sixteen of `count` elements. What is left is padded with zeros, which add nothing to any sum.
@inline(__always)
func sixteens(_ count: Int, _ a: Arrays, writes: Bool, _ body: (In, In, In, In, Out) -> Void) {
  var i = 0
  @inline(__always) func sixteen() {
    body(
      a.p0.start + i &* a.p0.size, a.p1.start + i &* a.p1.size, a.p2.start + i &* a.p2.size,
      a.p3.start + i &* a.p3.size,
      a.out + i &* a.outSize)
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
    @inline(__always) func pad(_ slot: Int, _ p: Source) -> In {
      if !p.ends { return p.start + i &* p.size }
      (slots + slot).copyMemory(from: p.start + i &* p.size, byteCount: left &* p.size)
      return In(slots + slot)
    }
    body(pad(0, a.p0), pad(128, a.p1), pad(256, a.p2), pad(384, a.p3), slots + 512)
    if writes { (a.out + i &* a.outSize).copyMemory(from: slots + 512, byteCount: left &* a.outSize) }
  }
}

/// The first n ≤ 16 elements at `p`, then zeros.
@inline(__always)
func part<E: LatentElement>(_: E.Type, _ p: In, _ n: Int) -> Pair<E.Compute> {
  if n == 16 { return E.load(p) }
  return withUnsafeTemporaryAllocation(byteCount: 128, alignment: 16) { memory in
    guard let slot = memory.baseAddress else { return (.zero, .zero) }
    slot.initializeMemory(as: UInt8.self, repeating: 0, count: 128)
    slot.copyMemory(from: p, byteCount: n &* MemoryLayout<E>.size)
    return E.load(slot)
  }
}
