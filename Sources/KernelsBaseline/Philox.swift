/// Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011), many counters at a time.
///
/// A draw is a function of four numbers alone, so it is the same for any batch split, thread count or machine:
/// key = seed (low, high); counter = (block, step, sample id low, sample id high).
struct Philox {
  let seed: UInt64
  let sampleID: UInt64
  let step: UInt32

  /// The four output words of the counters `first …`.
  @inline(__always)
  func words(first: UInt32) -> (Words, Words, Words, Words) {
    // One 32-bit word a 64-bit lane: a round's product is then one instruction and needs no shuffle. `even` holds the
    // even counters, `odd` the odd ones, so that they interleave by a shift; side by side, for a round waits for the last.
    let first = UInt64(first)
    var even = State(evenCounters &+ first, self)
    var odd = State(evenCounters &+ (first &+ 1), self)
    var k0 = Counters(repeating: seed)
    var k1 = Counters(repeating: seed &>> 32)
    for _ in 0..<10 {
      even.round(k0, k1)
      odd.round(k0, k1)
      k0 = k0 &+ 0x9E37_79B9
      k1 = k1 &+ 0xBB67_AE85
    }
    return (
      interleave(even.c0, odd.c0), interleave(even.c1, odd.c1), interleave(even.c2, odd.c2),
      interleave(even.c3, odd.c3)
    )
  }

  /// Counters in flight; only the lower half of a lane counts.
  private struct State {
    var c0, c1, c2, c3: Counters

    @inline(__always) init(_ block: Counters, _ philox: Philox) {
      c0 = block
      c1 = Counters(repeating: UInt64(philox.step))
      c2 = Counters(repeating: philox.sampleID)
      c3 = Counters(repeating: philox.sampleID &>> 32)
    }

    @inline(__always) mutating func round(_ k0: Counters, _ k1: Counters) {
      let p0 = (c0 & 0xffff_ffff) &* 0xD251_1F53
      let p1 = (c2 & 0xffff_ffff) &* 0xCD9E_8D57
      c0 = (p1 &>> 32) ^ c1 ^ k0
      c2 = (p0 &>> 32) ^ c3 ^ k1
      c1 = p1
      c3 = p0
    }
  }

  @inline(__always)
  private func interleave(_ even: Counters, _ odd: Counters) -> Words {
    unsafeBitCast((even & 0xffff_ffff) | (odd &<< 32), to: Words.self)
  }
}
