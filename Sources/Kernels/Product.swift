internal import KernelTable

// A product of matrices that stay in the caches, near the limit of the multiply-adds: 6 rows of C at a time, and as many
// columns as there are registers for. Of B as many rows of these columns as stay in the first-level cache lie side by side:
// rows of a power of two would share a few of its lines. Every number is one sum in the order of k, whatever the width of
// the vectors and the depth of a panel.

// x86-64 has a fused multiply-add from x86-64-v3 on. Without, a sum would be other bits, or a call a number.
#if CHUNKGRPO_AVX2 || !arch(x86_64)

  #if CHUNKGRPO_AVX512
    private struct Columns {
      static let count = 64
      var a, b, c, d: SIMD16<Float>

      @inline(__always) init(_ p: UnsafePointer<Float>) {
        a = UnsafeRawPointer(p).loadUnaligned(as: SIMD16<Float>.self)
        b = UnsafeRawPointer(p + 16).loadUnaligned(as: SIMD16<Float>.self)
        c = UnsafeRawPointer(p + 32).loadUnaligned(as: SIMD16<Float>.self)
        d = UnsafeRawPointer(p + 48).loadUnaligned(as: SIMD16<Float>.self)
      }

      @inline(__always) init() {
        a = .zero
        b = .zero
        c = .zero
        d = .zero
      }

      @inline(__always) mutating func addProduct(_ x: Float, _ y: Columns) {
        a.addProduct(x, y.a)
        b.addProduct(x, y.b)
        c.addProduct(x, y.c)
        d.addProduct(x, y.d)
      }

      @inline(__always) static func + (u: Columns, v: Columns) -> Columns {
        var sum = u
        sum.a += v.a
        sum.b += v.b
        sum.c += v.c
        sum.d += v.d
        return sum
      }

      @inline(__always) func store(_ p: UnsafeMutablePointer<Float>) {
        UnsafeMutableRawPointer(p).storeBytes(of: a, as: SIMD16<Float>.self)
        UnsafeMutableRawPointer(p + 16).storeBytes(of: b, as: SIMD16<Float>.self)
        UnsafeMutableRawPointer(p + 32).storeBytes(of: c, as: SIMD16<Float>.self)
        UnsafeMutableRawPointer(p + 48).storeBytes(of: d, as: SIMD16<Float>.self)
      }
    }
  #else
    private struct Columns {
      static let count = 16
      var a: SIMD16<Float>

      @inline(__always) init(_ p: UnsafePointer<Float>) {
        a = UnsafeRawPointer(p).loadUnaligned(as: SIMD16<Float>.self)
      }

      @inline(__always) init() { a = .zero }

      @inline(__always) mutating func addProduct(_ x: Float, _ y: Columns) { a.addProduct(x, y.a) }

      @inline(__always) static func + (u: Columns, v: Columns) -> Columns {
        var sum = u
        sum.a += v.a
        return sum
      }

      @inline(__always) func store(_ p: UnsafeMutablePointer<Float>) {
        UnsafeMutableRawPointer(p).storeBytes(of: a, as: SIMD16<Float>.self)
      }
    }
  #endif

  /// Terms of a sum that are taken at a time: so many rows of a panel stay in the first-level cache.
  private let depth = 4096 / Columns.count

  /// See `NetworkKernels.product`.
  private func multiply(
    _ m: Int, _ n: Int, _ k: Int, _ a: UnsafePointer<Float>, _ rowStride: Int, _ columnStride: Int,
    _ b: UnsafePointer<Float>, _ packed: Bool, _ bias: UnsafePointer<Float>?, _ c: UnsafeMutablePointer<Float>,
    _ adding: Bool
  ) {
    withUnsafeTemporaryAllocation(of: Float.self, capacity: packed ? 1 : depth &* Columns.count) { memory in
      guard let copy = memory.baseAddress else { return }
      var j = 0
      while j < n {
        var start = 0
        repeat {
          let end = min(k, start &+ depth)
          var panel = UnsafePointer(copy)
          if packed {
            panel = b + (j &* k &+ start &* Columns.count)
          } else {
            for row in start..<end { Columns(b + (row &* n &+ j)).store(copy + (row &- start) &* Columns.count) }
          }
          multiply(
            m, n, end &- start, a + start &* columnStride, rowStride, columnStride, panel,
            start > 0 ? nil : bias.map { $0 + j }, c + j, adding || start > 0)
          start = end
        } while start < k
        j &+= Columns.count
      }
    }
  }

  /// The same for one panel of B. A sum begins with what is in C, where it is added to, and the bias.
  @inline(__always)
  private func multiply(
    _ m: Int, _ n: Int, _ k: Int, _ a: UnsafePointer<Float>, _ rowStride: Int, _ columnStride: Int,
    _ panel: UnsafePointer<Float>, _ bias: UnsafePointer<Float>?, _ c: UnsafeMutablePointer<Float>, _ adding: Bool
  ) {
    let start = bias.map { Columns($0) } ?? Columns()
    var i = 0
    while i < m {
      // Rows beyond the last are it again, and not stored.
      let rows = min(6, m &- i)
      @inline(__always) func row(_ r: Int) -> Int { i &+ min(r, rows &- 1) }
      @inline(__always) func sum(_ r: Int) -> Columns { adding ? Columns(c + row(r) &* n) + start : start }
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
      for _ in 0..<k {
        let y = Columns(columns)
        c0.addProduct(a0[at], y)
        c1.addProduct(a1[at], y)
        c2.addProduct(a2[at], y)
        c3.addProduct(a3[at], y)
        c4.addProduct(a4[at], y)
        c5.addProduct(a5[at], y)
        columns += Columns.count
        at &+= columnStride
      }
      let out = c + i &* n
      c0.store(out)
      if rows > 1 { c1.store(out + n) }
      if rows > 2 { c2.store(out + 2 &* n) }
      if rows > 3 { c3.store(out + 3 &* n) }
      if rows > 4 { c4.store(out + 4 &* n) }
      if rows > 5 { c5.store(out + 5 &* n) }
      i &+= 6
    }
  }

  let productPanel = Columns.count
  let floatProduct:
    (
      @Sendable (
        Int, Int, Int, UnsafeRawPointer, Int, Int, UnsafeRawPointer, Bool, UnsafeRawPointer?, UnsafeMutableRawPointer,
        Bool
      ) -> Void
    )? = { m, n, k, a, rowStride, columnStride, b, packed, bias, c, adding in
      multiply(
        m, n, k, a.assumingMemoryBound(to: Float.self), rowStride, columnStride, b.assumingMemoryBound(to: Float.self),
        packed, bias?.assumingMemoryBound(to: Float.self), c.assumingMemoryBound(to: Float.self), adding)
    }

#else

  let productPanel = productColumns
  let floatProduct:
    (
      @Sendable (
        Int, Int, Int, UnsafeRawPointer, Int, Int, UnsafeRawPointer, Bool, UnsafeRawPointer?, UnsafeMutableRawPointer,
        Bool
      ) -> Void
    )? = nil

#endif
