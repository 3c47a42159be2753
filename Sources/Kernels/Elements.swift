internal import CVectors

/// Sixteen elements in the type that arithmetic is done in.
typealias Pair<C: SIMDScalar> = (SIMD8<C>, SIMD8<C>)

/// A type that latents are stored in: sixteen elements at a time to and from the type that arithmetic is done in.
///
/// They come in the type's own order: the first and the last eight, or where it `splits`, the even and the odd ones.
/// Numbers of the compute type that go with them, noise and extra terms, lie in that order too.
protocol LatentElement: BitwiseCopyable, SendableMetatype {
  associatedtype Compute: ComputeScalar

  static var splits: Bool { get }
  static func load(_ source: UnsafeRawPointer) -> Pair<Compute>
  /// Rounds to nearest, ties to even, and returns what has been stored.
  @discardableResult
  static func store(_ values: Pair<Compute>, _ destination: UnsafeMutableRawPointer) -> Pair<Compute>
  /// The same past the caches, to a 32-byte boundary, for the types that training uses.
  static func stream(_ values: Pair<Compute>, _ destination: UnsafeMutableRawPointer)
}

extension LatentElement {
  @inline(__always) static func stream(_ values: Pair<Compute>, _ destination: UnsafeMutableRawPointer) {
    store(values, destination)
  }
}

/// A type that arithmetic is done in, on whole vectors; also a storage type, of itself.
protocol ComputeScalar: LatentElement, BinaryFloatingPoint, SIMDScalar, Codable where Compute == Self {
  static func add(_ u: SIMD8<Self>, _ v: SIMD8<Self>) -> SIMD8<Self>
  static func subtract(_ u: SIMD8<Self>, _ v: SIMD8<Self>) -> SIMD8<Self>
  static func multiply(_ u: SIMD8<Self>, _ v: SIMD8<Self>) -> SIMD8<Self>
  static func magnitude(_ values: SIMD8<Self>) -> SIMD8<Self>
}

extension ComputeScalar {
  static var splits: Bool { false }

  @inline(__always) static func load(_ source: UnsafeRawPointer) -> Pair<Self> {
    (
      source.loadUnaligned(as: SIMD8<Self>.self),
      source.loadUnaligned(fromByteOffset: MemoryLayout<SIMD8<Self>>.size, as: SIMD8<Self>.self)
    )
  }

  @inline(__always) @discardableResult
  static func store(_ values: Pair<Self>, _ destination: UnsafeMutableRawPointer) -> Pair<Self> {
    destination.storeBytes(of: values.0, as: SIMD8<Self>.self)
    destination.storeBytes(of: values.1, toByteOffset: MemoryLayout<SIMD8<Self>>.size, as: SIMD8<Self>.self)
    return values
  }
}

extension Float: ComputeScalar {
  typealias Compute = Float

  @inline(__always) static func add(_ u: SIMD8<Float>, _ v: SIMD8<Float>) -> SIMD8<Float> { chunkgrpo_float8_add(u, v) }
  @inline(__always) static func subtract(_ u: SIMD8<Float>, _ v: SIMD8<Float>) -> SIMD8<Float> {
    chunkgrpo_float8_subtract(u, v)
  }
  @inline(__always) static func multiply(_ u: SIMD8<Float>, _ v: SIMD8<Float>) -> SIMD8<Float> {
    chunkgrpo_float8_multiply(u, v)
  }

  @inline(__always) static func stream(_ values: Pair<Float>, _ destination: UnsafeMutableRawPointer) {
    chunkgrpo_uint8_stream(unsafeBitCast(values.0, to: SIMD8<UInt32>.self), destination)
    chunkgrpo_uint8_stream(unsafeBitCast(values.1, to: SIMD8<UInt32>.self), destination + 32)
  }

  @inline(__always) static func magnitude(_ values: SIMD8<Float>) -> SIMD8<Float> {
    unsafeBitCast(unsafeBitCast(values, to: SIMD8<UInt32>.self) & 0x7fff_ffff, to: SIMD8<Float>.self)
  }
}

extension Double: ComputeScalar {
  typealias Compute = Double

  @inline(__always) static func add(_ u: SIMD8<Double>, _ v: SIMD8<Double>) -> SIMD8<Double> {
    chunkgrpo_double8_add(u, v)
  }
  @inline(__always) static func subtract(_ u: SIMD8<Double>, _ v: SIMD8<Double>) -> SIMD8<Double> {
    chunkgrpo_double8_subtract(u, v)
  }
  @inline(__always) static func multiply(_ u: SIMD8<Double>, _ v: SIMD8<Double>) -> SIMD8<Double> {
    chunkgrpo_double8_multiply(u, v)
  }

  @inline(__always) static func magnitude(_ values: SIMD8<Double>) -> SIMD8<Double> {
    unsafeBitCast(
      unsafeBitCast(values, to: SIMD8<UInt64>.self) & 0x7fff_ffff_ffff_ffff, to: SIMD8<Double>.self)
  }
}

/// The bits of a bfloat16: the upper half of a `Float`. Two of them in a 32-bit lane come apart by a shift and a mask.
struct BFloat16: LatentElement {
  typealias Compute = Float
  fileprivate typealias Words = SIMD8<UInt32>
  var bits: UInt16

  static var splits: Bool { true }

  @inline(__always) static func load(_ source: UnsafeRawPointer) -> Pair<Float> {
    pair(source.loadUnaligned(as: Words.self), odd: chunkgrpo_bfloat16_odd(source))
  }

  @inline(__always) @discardableResult
  static func store(_ values: Pair<Float>, _ destination: UnsafeMutableRawPointer) -> Pair<Float> {
    let bits = rounded(values)
    destination.storeBytes(of: bits, as: Words.self)
    return pair(bits, odd: chunkgrpo_uint8_and(bits, Words(repeating: 0xffff_0000)))
  }

  @inline(__always) static func stream(_ values: Pair<Float>, _ destination: UnsafeMutableRawPointer) {
    chunkgrpo_uint8_stream(rounded(values), destination)
  }

  @inline(__always) private static func pair(_ bits: Words, odd: Words) -> Pair<Float> {
    let even = chunkgrpo_uint8_shift_left(bits, sixteen)
    return (unsafeBitCast(even, to: SIMD8<Float>.self), unsafeBitCast(odd, to: SIMD8<Float>.self))
  }

  /// A NaN may become another number; the sums have seen it.
  @inline(__always) private static func rounded(_ values: Pair<Float>) -> Words {
    unsafeBitCast(
      chunkgrpo_bfloat16_from_split(unsafeBitCast(values.0, to: Words.self), unsafeBitCast(values.1, to: Words.self)),
      to: Words.self)
  }

  @inline(__always) fileprivate static var sixteen: Words { Words(repeating: 16) }
}

/// The same in the order of the elements: a velocity's beside f32 latents, whose sums have that order.
struct OrderedBFloat16: LatentElement {
  typealias Compute = Float
  private typealias Eight = SIMD8<UInt16>
  private typealias Words = BFloat16.Words
  var bits: UInt16

  static var splits: Bool { false }

  @inline(__always) static func load(_ source: UnsafeRawPointer) -> Pair<Float> {
    (widened(source.loadUnaligned(as: Eight.self)), widened(source.loadUnaligned(fromByteOffset: 16, as: Eight.self)))
  }

  @inline(__always) @discardableResult
  static func store(_ values: Pair<Float>, _ destination: UnsafeMutableRawPointer) -> Pair<Float> {
    let bits = rounded(values)
    destination.storeBytes(of: bits, as: SIMD16<UInt16>.self)
    return (widened(bits.lowHalf), widened(bits.highHalf))
  }

  @inline(__always) static func stream(_ values: Pair<Float>, _ destination: UnsafeMutableRawPointer) {
    chunkgrpo_uint8_stream(unsafeBitCast(rounded(values), to: Words.self), destination)
  }

  @inline(__always) private static func widened(_ bits: Eight) -> SIMD8<Float> {
    unsafeBitCast(
      chunkgrpo_uint8_shift_left(chunkgrpo_uint8_from_ushort8(bits), BFloat16.sixteen), to: SIMD8<Float>.self)
  }

  @inline(__always) private static func rounded(_ values: Pair<Float>) -> SIMD16<UInt16> {
    chunkgrpo_bfloat16_from_halves(unsafeBitCast(values.0, to: Words.self), unsafeBitCast(values.1, to: Words.self))
  }
}

/// The bits of an IEEE half. Conversions are functions in C: by lanes they are so long in Swift that a kernel's closures are no
/// longer inlined.
struct Half: LatentElement {
  typealias Compute = Float
  private typealias Eight = SIMD8<UInt16>
  var bits: UInt16

  static var splits: Bool { false }

  @inline(__always) static func load(_ source: UnsafeRawPointer) -> Pair<Float> {
    (
      chunkgrpo_float8_from_half8(source.loadUnaligned(as: Eight.self)),
      chunkgrpo_float8_from_half8(source.loadUnaligned(fromByteOffset: 16, as: Eight.self))
    )
  }

  @inline(__always) @discardableResult
  static func store(_ values: Pair<Float>, _ destination: UnsafeMutableRawPointer) -> Pair<Float> {
    let (first, second) = (chunkgrpo_half8_from_float8(values.0), chunkgrpo_half8_from_float8(values.1))
    destination.storeBytes(of: first, as: Eight.self)
    destination.storeBytes(of: second, toByteOffset: 16, as: Eight.self)
    return (chunkgrpo_float8_from_half8(first), chunkgrpo_float8_from_half8(second))
  }
}
