internal import CVectors

// Whole vectors with operators on all of it: see cvectors.h. Sixteen lanes are two registers or more but for AVX-512: where
// one waits for its last result, the other goes on.

struct Floats: ExpressibleByFloatLiteral {
  let lanes: SIMD16<Float>

  @inline(__always) init(_ lanes: SIMD16<Float>) { self.lanes = lanes }
  @inline(__always) init(_ value: Float) { lanes = SIMD16(repeating: value) }
  @inline(__always) init(floatLiteral value: Float) { self.init(value) }
  /// Of signed numbers, to nearest.
  @inline(__always) init(signed words: Words) { lanes = chunkgrpo_float16_from_signed(words.lanes) }

  @inline(__always) init(_ pair: Pair<Float>) { lanes = chunkgrpo_float16_from_halves(pair.0, pair.1) }

  @inline(__always) var pair: Pair<Float> { (lanes.lowHalf, lanes.highHalf) }
  @inline(__always) var magnitude: Floats { (bits & 0x7fff_ffff).floats }
  @inline(__always) var bits: Words { Words(unsafeBitCast(lanes, to: SIMD16<UInt32>.self)) }
  @inline(__always) func squareRoot() -> Floats { Floats(chunkgrpo_float16_square_root(lanes)) }

  @inline(__always) static func + (u: Floats, v: Floats) -> Floats { Floats(chunkgrpo_float16_add(u.lanes, v.lanes)) }
  @inline(__always) static func - (u: Floats, v: Floats) -> Floats {
    Floats(chunkgrpo_float16_subtract(u.lanes, v.lanes))
  }
  @inline(__always) static func * (u: Floats, v: Floats) -> Floats {
    Floats(chunkgrpo_float16_multiply(u.lanes, v.lanes))
  }
  @inline(__always) static prefix func - (v: Floats) -> Floats { 0.0 - v }
}

struct Words: ExpressibleByIntegerLiteral {
  let lanes: SIMD16<UInt32>

  @inline(__always) init(_ lanes: SIMD16<UInt32>) { self.lanes = lanes }
  @inline(__always) init(integerLiteral value: UInt32) { lanes = SIMD16(repeating: value) }

  @inline(__always) var floats: Floats { Floats(unsafeBitCast(lanes, to: SIMD16<Float>.self)) }

  @inline(__always) static func + (u: Words, v: Words) -> Words { Words(chunkgrpo_uint16_add(u.lanes, v.lanes)) }
  @inline(__always) static func & (u: Words, v: Words) -> Words { Words(chunkgrpo_uint16_and(u.lanes, v.lanes)) }
  @inline(__always) func without(_ bits: Words) -> Words { Words(chunkgrpo_uint16_without(lanes, bits.lanes)) }
  @inline(__always) static func | (u: Words, v: Words) -> Words { Words(chunkgrpo_uint16_or(u.lanes, v.lanes)) }
  @inline(__always) static func ^ (u: Words, v: Words) -> Words { Words(chunkgrpo_uint16_xor(u.lanes, v.lanes)) }
  @inline(__always) static func << (u: Words, v: Words) -> Words {
    Words(chunkgrpo_uint16_shift_left(u.lanes, v.lanes))
  }
  @inline(__always) static func >> (u: Words, v: Words) -> Words {
    Words(chunkgrpo_uint16_shift_right(u.lanes, v.lanes))
  }
  /// All ones where the highest bit is set, else zero.
  @inline(__always) var spreadSign: Words { Words(chunkgrpo_uint16_shift_right_signed(lanes, SIMD16(repeating: 31))) }
  /// u where the highest bit is set, else v.
  @inline(__always) func choose(_ u: Floats, else v: Floats) -> Floats {
    Floats(chunkgrpo_float16_choose(lanes, u.lanes, v.lanes))
  }
}

/// 32-bit numbers in 64-bit lanes, one register of them.
struct Counters {
  #if CHUNKGRPO_AVX512
    typealias Lanes = SIMD8<UInt64>
    typealias Halves = SIMD16<UInt32>
  #elseif CHUNKGRPO_AVX2
    typealias Lanes = SIMD4<UInt64>
    typealias Halves = SIMD8<UInt32>
  #else
    typealias Lanes = SIMD2<UInt64>
    typealias Halves = SIMD4<UInt32>
  #endif

  let lanes: Lanes

  @inline(__always) init(_ lanes: Lanes) { self.lanes = lanes }
  @inline(__always) init(_ value: UInt64) { lanes = Lanes(repeating: value) }

  @inline(__always) static func + (u: Counters, v: Counters) -> Counters {
    Counters(chunkgrpo_counters_add(u.lanes, v.lanes))
  }
  @inline(__always) static func ^ (u: Counters, v: Counters) -> Counters {
    Counters(chunkgrpo_counters_xor(u.lanes, v.lanes))
  }
  /// The upper halves.
  @inline(__always) var high: Counters { Counters(chunkgrpo_counters_shift_right(lanes, Lanes(repeating: 32))) }
  /// Products of the lower halves.
  @inline(__always) static func * (u: Counters, v: Counters) -> Counters {
    Counters(chunkgrpo_counters_multiply(u.lanes, v.lanes))
  }
  /// The lower halves: two of u, two of v, the next two of u, …
  @inline(__always) static func halves(_ u: Counters, _ v: Counters) -> Halves {
    chunkgrpo_counters_halves(u.lanes, v.lanes)
  }
  /// 0, 1, 4, 5, …: with `halves`, what u counts where v counts 2, 3, 6, 7, …
  @inline(__always) static var pairs: Counters {
    var lanes = Lanes()
    for i in 0..<Lanes.scalarCount { lanes[i] = UInt64(2 &* i &- (i & 1)) }
    return Counters(lanes)
  }
}
