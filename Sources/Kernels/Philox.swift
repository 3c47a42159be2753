/// Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011), many counters at a time.
///
/// A draw is a function of four numbers alone, so it is the same for any batch split, thread count or machine:
/// key = seed (low, high); counter = (block, step, sample id low, sample id high).
struct Philox {
  /// The words that change a counter's beside the counter: in memory, where operands take no register. Four for the first two
  /// rounds, then two keys a round.
  private let constants: UnsafePointer<Counters>

  static let constantCount = 20
  /// Counters whose words are drawn at a time.
  static var count: Int { Counters.Halves.scalarCount }

  /// - Parameter constants: memory for `constantCount` of them, for as long as this is used.
  @inline(__always)
  init(seed: UInt64, sampleID: UInt64, step: UInt32, constants: UnsafeMutablePointer<Counters>) {
    self.constants = UnsafePointer(constants)
    var (k0, k1) = (Counters(seed), Counters(seed &>> 32))
    func next() {
      k0 = k0 + Counters(0x9E37_79B9)
      k1 = k1 + Counters(0xBB67_AE85)
    }
    // Counters of a draw differ in their first word alone, which is half of a round's input for two rounds.
    let p1 = Counters(sampleID) * State.m1
    let c0 = p1.high ^ Counters(UInt64(step)) ^ k0
    constants[0] = Counters(sampleID &>> 32) ^ k1
    next()
    let p0 = c0 * State.m0
    constants[1] = p1 ^ k0
    constants[2] = p0.high ^ k1
    constants[3] = p0
    for round in 2..<10 {
      next()
      constants[2 &* round] = k0
      constants[2 &* round &+ 1] = k1
    }
  }

  /// The four output words of the counters `first …`.
  @inline(__always)
  func words(first: UInt32) -> (Counters.Halves, Counters.Halves, Counters.Halves, Counters.Halves) {
    // One 32-bit word a 64-bit lane: a round's product is then one instruction and needs no shuffle. Two states side by
    // side, for a round waits for the last.
    var a = State(Counters.pairs + Counters(UInt64(first)), constants)
    var b = State(Counters.pairs + Counters(UInt64(first &+ 2)), constants)
    @inline(__always) func round(_ round: Int) {
      a.round(constants[2 &* round], constants[2 &* round &+ 1])
      b.round(constants[2 &* round], constants[2 &* round &+ 1])
    }
    // No loop: it takes a fifth longer.
    round(2)
    round(3)
    round(4)
    round(5)
    round(6)
    round(7)
    round(8)
    round(9)
    return (
      Counters.halves(a.c0, b.c0), Counters.halves(a.c1, b.c1), Counters.halves(a.c2, b.c2), Counters.halves(a.c3, b.c3)
    )
  }

  /// Counters in flight; only the lower half of a lane counts.
  private struct State {
    static var m0: Counters { Counters(0xD251_1F53) }
    static var m1: Counters { Counters(0xCD9E_8D57) }

    var c0, c1, c2, c3: Counters

    /// After two rounds.
    @inline(__always) init(_ block: Counters, _ constants: UnsafePointer<Counters>) {
      let p0 = block * State.m0
      let p1 = (p0.high ^ constants[0]) * State.m1
      (c0, c1, c2, c3) = (p1.high ^ constants[1], p1, p0 ^ constants[2], constants[3])
    }

    @inline(__always) mutating func round(_ k0: Counters, _ k1: Counters) {
      let p0 = c0 * State.m0
      let p1 = c2 * State.m1
      (c0, c1, c2, c3) = (p1.high ^ (c1 ^ k0), p1, p0.high ^ (c3 ^ k1), p0)
    }
  }
}
