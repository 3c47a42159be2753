/// Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011), many counters at a time.
///
/// A draw is a function of four numbers alone, so it is the same for any batch split, thread count or machine:
/// key = seed (low, high); counter = (block, step, sample id low, sample id high).
struct Philox {
  let sampleID: UInt64
  let step: UInt32
  /// What each round xors with, two numbers a round: in memory, where operands take no register.
  private let keys: UnsafePointer<Counters>

  static let keyCount = 20
  /// Counters whose words are drawn at a time.
  static var count: Int { Counters.Halves.scalarCount }

  /// - Parameter keys: memory for `keyCount` of them, for as long as this is used.
  @inline(__always)
  init(seed: UInt64, sampleID: UInt64, step: UInt32, keys: UnsafeMutablePointer<Counters>) {
    self.sampleID = sampleID
    self.step = step
    self.keys = UnsafePointer(keys)
    var (k0, k1) = (Counters(seed), Counters(seed &>> 32))
    for round in 0..<10 {
      keys[2 &* round] = k0
      keys[2 &* round &+ 1] = k1
      k0 = k0 + Counters(0x9E37_79B9)
      k1 = k1 + Counters(0xBB67_AE85)
    }
  }

  /// The four output words of the counters `first …`.
  @inline(__always)
  func words(first: UInt32) -> (Counters.Halves, Counters.Halves, Counters.Halves, Counters.Halves) {
    // One 32-bit word a 64-bit lane: a round's product is then one instruction and needs no shuffle. Two states side by
    // side, for a round waits for the last.
    var a = State(Counters.pairs + Counters(UInt64(first)), self)
    var b = State(Counters.pairs + Counters(UInt64(first &+ 2)), self)
    for round in 0..<10 {
      a.round(keys[2 &* round], keys[2 &* round &+ 1])
      b.round(keys[2 &* round], keys[2 &* round &+ 1])
    }
    return (
      Counters.halves(a.c0, b.c0), Counters.halves(a.c1, b.c1), Counters.halves(a.c2, b.c2), Counters.halves(a.c3, b.c3)
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
      let p0 = c0 * Counters(0xD251_1F53)
      let p1 = c2 * Counters(0xCD9E_8D57)
      (c0, c1, c2, c3) = (p1.high ^ (c1 ^ k0), p1, p0.high ^ (c3 ^ k1), p0)
    }
  }
}
