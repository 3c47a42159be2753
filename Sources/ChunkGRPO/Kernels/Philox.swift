/// Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011), eight counters at a time.
///
/// A draw is a function of four numbers alone, so it is the same for any batch split, thread count or machine:
/// key = seed (low, high); counter = (block, step, sample id low, sample id high).
package struct Philox {
  let seed: UInt64
  let sampleID: UInt64
  let step: UInt32

  package init(seed: UInt64, sampleID: UInt64, step: UInt32) {
    self.seed = seed
    self.sampleID = sampleID
    self.step = step
  }

  /// The four output words of counters `8·group … 8·group + 7`.
  @inline(__always)
  func words(group: UInt32) -> (SIMD8<UInt32>, SIMD8<UInt32>, SIMD8<UInt32>, SIMD8<UInt32>) {
    // One 32-bit word a 64-bit lane: a round's product is then one instruction and needs no shuffle.
    // `even` holds counters 0, 2, 4, 6 of the group, `odd` 1, 3, 5, 7, so that they interleave by a shift at the end.
    let first = group &<< 3
    let even = rounds(SIMD4<UInt64>(0, 2, 4, 6) &+ UInt64(truncatingIfNeeded: first))
    let odd = rounds(SIMD4<UInt64>(1, 3, 5, 7) &+ UInt64(truncatingIfNeeded: first))
    return (
      interleave(even.0, odd.0), interleave(even.1, odd.1), interleave(even.2, odd.2), interleave(even.3, odd.3)
    )
  }

  @inline(__always)
  private func rounds(_ block: SIMD4<UInt64>) -> (
    SIMD4<UInt64>, SIMD4<UInt64>, SIMD4<UInt64>, SIMD4<UInt64>
  ) {
    let low: SIMD4<UInt64> = SIMD4(repeating: 0xffff_ffff)
    var c0 = block
    var c1 = SIMD4<UInt64>(repeating: UInt64(step))
    var c2 = SIMD4<UInt64>(repeating: sampleID & 0xffff_ffff)
    var c3 = SIMD4<UInt64>(repeating: sampleID &>> 32)
    var k0 = UInt32(truncatingIfNeeded: seed)
    var k1 = UInt32(truncatingIfNeeded: seed &>> 32)
    for _ in 0..<10 {
      let p0 = (c0 & low) &* 0xD251_1F53
      let p1 = (c2 & low) &* 0xCD9E_8D57
      c0 = (p1 &>> 32) ^ c1 ^ SIMD4(repeating: UInt64(k0))
      c2 = (p0 &>> 32) ^ c3 ^ SIMD4(repeating: UInt64(k1))
      c1 = p1 & low
      c3 = p0 & low
      k0 = k0 &+ 0x9E37_79B9
      k1 = k1 &+ 0xBB67_AE85
    }
    return (c0, c1, c2, c3)
  }

  @inline(__always)
  private func interleave(_ even: SIMD4<UInt64>, _ odd: SIMD4<UInt64>) -> SIMD8<UInt32> {
    unsafeBitCast(even | (odd &<< 32), to: SIMD8<UInt32>.self)
  }

  /// Uniform draws in (0, 1), 32 bits each, in counter order of word 0.
  package func uniforms(_ count: Int) -> [Double] {
    var result: [Double] = []
    result.reserveCapacity(count)
    while result.count < count {
      let word = words(group: UInt32(truncatingIfNeeded: result.count / 8)).0
      for lane in 0..<min(8, count - result.count) { result.append((Double(word[lane]) + 0.5) * 0x1p-32) }
    }
    return result
  }
}
