internal import KernelTable

// A product of matrices that stay in the caches, near the limit of the multiply-adds: 6 rows of C at a time, and as many
// columns as there are registers for. Of B as many rows of these columns as stay in the first-level cache lie side by side:
// rows of a power of two would share a few of its lines. Every number is one sum in the order of k, whatever the width of
// the vectors and the depth of a panel.
//
// Why not OpenBLAS alone: the network's products are small, and those that fit the caches need no copies of their factors
// here. The trainer's iteration is 2.6 (one thread) and 2.9 times (two) as fast as PyTorch eager with this, 1.35 and 1.65
// with OpenBLAS alone (Zen 5, AVX-512); and only this one gives the same bits on AVX2 and AVX-512.

// x86-64 has a fused multiply-add from x86-64-v3 on. Without, a sum would be other bits, or a call a number.
#if CHUNKGRPO_AVX2 || !arch(x86_64)

  /// Numbers of one row of B or C, in registers.
  private protocol Columns {
    static var count: Int { get }
    static var zero: Self { get }
    init(at p: UnsafePointer<Float>)
    func store(at p: UnsafeMutablePointer<Float>)
    mutating func addProduct(_ x: Float, _ y: Self)
    static func + (u: Self, v: Self) -> Self
  }

  extension SIMD16<Float>: Columns {
    fileprivate static var count: Int { 16 }

    @inline(__always) fileprivate init(at p: UnsafePointer<Float>) {
      self = UnsafeRawPointer(p).loadUnaligned(as: Self.self)
    }

    @inline(__always) fileprivate func store(at p: UnsafeMutablePointer<Float>) {
      UnsafeMutableRawPointer(p).storeBytes(of: self, as: Self.self)
    }
  }

  /// Twice as many.
  private struct Twice<Half: Columns>: Columns {
    var a, b: Half

    static var count: Int { 2 &* Half.count }
    @inline(__always) static var zero: Self { Self(a: .zero, b: .zero) }

    @inline(__always) init(a: Half, b: Half) { (self.a, self.b) = (a, b) }
    @inline(__always) init(at p: UnsafePointer<Float>) { self.init(a: Half(at: p), b: Half(at: p + Half.count)) }

    @inline(__always) func store(at p: UnsafeMutablePointer<Float>) {
      a.store(at: p)
      b.store(at: p + Half.count)
    }

    @inline(__always) mutating func addProduct(_ x: Float, _ y: Self) {
      a.addProduct(x, y.a)
      b.addProduct(x, y.b)
    }

    @inline(__always) static func + (u: Self, v: Self) -> Self { Self(a: u.a + v.a, b: u.b + v.b) }
  }

  #if CHUNKGRPO_AVX512
    private typealias Panel = Twice<Twice<SIMD16<Float>>>
  #else
    private typealias Panel = SIMD16<Float>
  #endif

  /// Terms of a sum that are taken at a time: this many rows of a panel stay in the first-level cache.
  private let depth = 4096 / Panel.count

  func multiply(_ k: ProductArguments) {
    let (a, b, c) = (k.a.of(Float.self), k.b.of(Float.self), k.c.of(Float.self))
    let copy = k.scratch.of(Float.self)
    var j = 0
    while j < k.n {
      var start = 0
      repeat {
        let end = min(k.k, start &+ depth)
        var panel = UnsafePointer(copy)
        if k.packed {
          panel = b + (j &* k.k &+ start &* Panel.count)
        } else {
          for row in start..<end { Panel(at: b + (row &* k.n &+ j)).store(at: copy + (row &- start) &* Panel.count) }
        }
        multiply(
          k, terms: end &- start, a + start &* k.columnStride, panel,
          bias: start > 0 ? nil : k.bias.map { $0.of(Float.self) + j }, c + j, adding: k.adding || start > 0)
        start = end
      } while start < k.k
      j &+= Panel.count
    }
  }

  /// The same for one panel of B. A sum begins with what is in C, where it is added to, and the bias.
  @inline(__always)
  private func multiply(
    _ k: ProductArguments, terms: Int, _ a: UnsafePointer<Float>, _ panel: UnsafePointer<Float>,
    bias: UnsafePointer<Float>?, _ c: UnsafeMutablePointer<Float>, adding: Bool
  ) {
    let (m, n, rowStride, columnStride) = (k.m, k.n, k.rowStride, k.columnStride)
    let start = bias.map { Panel(at: $0) } ?? .zero
    var i = 0
    while i < m {
      // Rows beyond the last are it again, and not stored.
      let rows = min(6, m &- i)
      @inline(__always) func row(_ r: Int) -> Int { i &+ min(r, rows &- 1) }
      @inline(__always) func sum(_ r: Int) -> Panel { adding ? Panel(at: c + row(r) &* n) + start : start }
      let a0 = a + i &* rowStride
      let a1 = a + row(1) &* rowStride
      let a2 = a + row(2) &* rowStride
      let a3 = a + row(3) &* rowStride
      let a4 = a + row(4) &* rowStride
      let a5 = a + row(5) &* rowStride
      var c0 = sum(0)
      var c1 = sum(1)
      var c2 = sum(2)
      var c3 = sum(3)
      var c4 = sum(4)
      var c5 = sum(5)
      var columns = panel
      var at = 0
      for _ in 0..<terms {
        let y = Panel(at: columns)
        c0.addProduct(a0[at], y)
        c1.addProduct(a1[at], y)
        c2.addProduct(a2[at], y)
        c3.addProduct(a3[at], y)
        c4.addProduct(a4[at], y)
        c5.addProduct(a5[at], y)
        columns += Panel.count
        at &+= columnStride
      }
      let out = c + i &* n
      c0.store(at: out)
      if rows > 1 { c1.store(at: out + n) }
      if rows > 2 { c2.store(at: out + 2 &* n) }
      if rows > 3 { c3.store(at: out + 3 &* n) }
      if rows > 4 { c4.store(at: out + 4 &* n) }
      if rows > 5 { c5.store(at: out + 5 &* n) }
      i &+= 6
    }
  }

  let productPanel = Panel.count

#else

  let productPanel = productColumns

#endif
