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

/// The up to four arrays that a kernel reads and the one that it writes. The third and the fourth may be of the compute
/// type, and then have room for a whole block.
struct Arrays {
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
func sixteens(_ count: Int, _ a: Arrays, writes: Bool, _ body: (In, In, In, In, Out) -> Void) {
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
