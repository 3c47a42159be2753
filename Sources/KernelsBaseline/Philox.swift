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
    // even counters, `odd` the odd ones, so that they interleave at the end; side by side, for a round waits for the last.
    var even = State(Counters(evenNumbers) + Counters(UInt64(first)), self)
    var odd = State(Counters(evenNumbers) + Counters(UInt64(first) &+ 1), self)
    var k0 = Counters(seed)
    var k1 = Counters(seed &>> 32)
    for _ in 0..<10 {
      even.round(k0, k1)
      odd.round(k0, k1)
      k0 = k0 + Counters(0x9E37_79B9)
      k1 = k1 + Counters(0xBB67_AE85)
    }
    return (
      Counters.words(even.c0, odd.c0), Counters.words(even.c1, odd.c1), Counters.words(even.c2, odd.c2),
      Counters.words(even.c3, odd.c3)
    )
  }

  /// Counters in flight; only the lower half of a lane counts.
  private struct State {
    var c0, c1, c2, c3: Counters

    @inline(__always) init(_ block: Counters, _ philox: Philox) {
      c0 = block
      c1 = Counters(UInt64(philox.step))
      c2 = Counters(philox.sampleID)
      c3 = Counters(philox.sampleID &>> 32)
    }

    @inline(__always) mutating func round(_ k0: Counters, _ k1: Counters) {
      let p0 = c0 * 0xD251_1F53
      let p1 = c2 * 0xCD9E_8D57
      (c0, c1, c2, c3) = (p1.high ^ c1 ^ k0, p1, p0.high ^ c3 ^ k1, p0)
    }
  }
}
