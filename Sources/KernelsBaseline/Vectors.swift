internal import CVectors

// Vectors that fill the registers, with operators on the whole of them: see cvectors.h.

#if CHUNKGRPO_AVX512
  typealias FloatLanes = SIMD16<Float>
  typealias WordLanes = SIMD16<UInt32>
  typealias CounterLanes = SIMD8<UInt64>
  typealias DoubleLanes = SIMD16<Double>
  let evenNumbers = CounterLanes(0, 2, 4, 6, 8, 10, 12, 14)
#else
  typealias FloatLanes = SIMD8<Float>
  typealias WordLanes = SIMD8<UInt32>
  typealias CounterLanes = SIMD4<UInt64>
  typealias DoubleLanes = SIMD8<Double>
  let evenNumbers = CounterLanes(0, 2, 4, 6)
#endif

struct Floats: ExpressibleByFloatLiteral {
  let lanes: FloatLanes

  @inline(__always) init(_ lanes: FloatLanes) { self.lanes = lanes }
  @inline(__always) init(floatLiteral value: Float) { lanes = FloatLanes(repeating: value) }

  @inline(__always) var bits: Words { Words(unsafeBitCast(lanes, to: WordLanes.self)) }
  @inline(__always) func squareRoot() -> Floats { Floats(chunkgrpo_floats_square_root(lanes)) }

  @inline(__always) static func + (u: Floats, v: Floats) -> Floats { Floats(chunkgrpo_floats_add(u.lanes, v.lanes)) }
  @inline(__always) static func - (u: Floats, v: Floats) -> Floats {
    Floats(chunkgrpo_floats_subtract(u.lanes, v.lanes))
  }
  @inline(__always) static func * (u: Floats, v: Floats) -> Floats {
    Floats(chunkgrpo_floats_multiply(u.lanes, v.lanes))
  }
}

struct Words: ExpressibleByIntegerLiteral {
  static var count: Int { WordLanes.scalarCount }

  let lanes: WordLanes

  @inline(__always) init(_ lanes: WordLanes) { self.lanes = lanes }
  @inline(__always) init(integerLiteral value: UInt32) { lanes = WordLanes(repeating: value) }

  @inline(__always) var floats: Floats { Floats(unsafeBitCast(lanes, to: FloatLanes.self)) }

  @inline(__always) static func + (u: Words, v: Words) -> Words { Words(chunkgrpo_words_add(u.lanes, v.lanes)) }
  @inline(__always) static func - (u: Words, v: Words) -> Words { Words(chunkgrpo_words_subtract(u.lanes, v.lanes)) }
  @inline(__always) static func & (u: Words, v: Words) -> Words { Words(chunkgrpo_words_and(u.lanes, v.lanes)) }
  @inline(__always) static func | (u: Words, v: Words) -> Words { Words(chunkgrpo_words_or(u.lanes, v.lanes)) }
  @inline(__always) static func ^ (u: Words, v: Words) -> Words { Words(chunkgrpo_words_xor(u.lanes, v.lanes)) }
  @inline(__always) static prefix func ~ (u: Words) -> Words { u ^ 0xffff_ffff }
  @inline(__always) static func << (u: Words, v: Words) -> Words { Words(chunkgrpo_words_shift_left(u.lanes, v.lanes)) }
  @inline(__always) static func >> (u: Words, v: Words) -> Words {
    Words(chunkgrpo_words_shift_right(u.lanes, v.lanes))
  }
  /// >> of signed numbers: the sign comes in from above.
  @inline(__always) func signedShift(_ v: Words) -> Words { Words(chunkgrpo_words_shift_right_signed(lanes, v.lanes)) }
  @inline(__always) func ifSet(_ u: Words, else v: Words) -> Words { (u & self) | (v & ~self) }
}

/// 32-bit numbers in 64-bit lanes, half as many as `Words` has.
struct Counters {
  let lanes: CounterLanes

  @inline(__always) init(_ lanes: CounterLanes) { self.lanes = lanes }
  @inline(__always) init(_ value: UInt64) { lanes = CounterLanes(repeating: value) }

  @inline(__always) static func + (u: Counters, v: Counters) -> Counters {
    Counters(chunkgrpo_counters_add(u.lanes, v.lanes))
  }
  @inline(__always) static func ^ (u: Counters, v: Counters) -> Counters {
    Counters(chunkgrpo_counters_xor(u.lanes, v.lanes))
  }
  /// The upper halves.
  @inline(__always) var high: Counters { Counters(chunkgrpo_counters_shift_right(lanes, CounterLanes(repeating: 32))) }
  /// Products of the lower halves.
  @inline(__always) static func * (u: Counters, v: UInt64) -> Counters {
    Counters(chunkgrpo_counters_multiply(u.lanes, CounterLanes(repeating: v)))
  }
  /// The lower halves of two, in turns.
  @inline(__always) static func words(_ even: Counters, _ odd: Counters) -> Words {
    Words(
      chunkgrpo_words_evens(unsafeBitCast(even.lanes, to: WordLanes.self), unsafeBitCast(odd.lanes, to: WordLanes.self))
    )
  }
}
