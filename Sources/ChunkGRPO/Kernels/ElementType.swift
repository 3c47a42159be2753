/// How latents are stored. Arithmetic is in `Double` for `float64` and in `Float` for the others.
public enum ElementType: Int32, Sendable, CaseIterable {
  case float32 = 1
  case float64 = 2
  case bfloat16 = 3
  case float16 = 4

  /// Bytes an element.
  public var size: Int {
    switch self {
    case .float32: 4
    case .float64: 8
    case .bfloat16, .float16: 2
    }
  }
}

/// A storage type that kernels load from and store to, eight elements at a time.
protocol LatentElement: BitwiseCopyable {
  associatedtype Compute: ComputeScalar

  static func load(_ source: UnsafePointer<Self>) -> SIMD8<Compute>
  /// Rounds to nearest, ties to even.
  static func store(_ values: SIMD8<Compute>, _ destination: UnsafeMutablePointer<Self>)
  static var zero: Self { get }
}

/// A type that arithmetic is done in; also a storage type, of itself.
protocol ComputeScalar: LatentElement, BinaryFloatingPoint, SIMDScalar, Codable where Compute == Self {
  static func magnitude(_ values: SIMD8<Self>) -> SIMD8<Self>
}

extension Float: ComputeScalar {
  typealias Compute = Float

  @inline(__always) static func magnitude(_ values: SIMD8<Float>) -> SIMD8<Float> {
    unsafeBitCast(unsafeBitCast(values, to: SIMD8<UInt32>.self) & 0x7fff_ffff, to: SIMD8<Float>.self)
  }

  @inline(__always) static func load(_ source: UnsafePointer<Float>) -> SIMD8<Float> {
    UnsafeRawPointer(source).loadUnaligned(as: SIMD8<Float>.self)
  }
  @inline(__always) static func store(_ values: SIMD8<Float>, _ destination: UnsafeMutablePointer<Float>) {
    UnsafeMutableRawPointer(destination).storeBytes(of: values, as: SIMD8<Float>.self)
  }
}

extension Double: ComputeScalar {
  typealias Compute = Double

  @inline(__always) static func magnitude(_ values: SIMD8<Double>) -> SIMD8<Double> {
    unsafeBitCast(
      unsafeBitCast(values, to: SIMD8<UInt64>.self) & 0x7fff_ffff_ffff_ffff, to: SIMD8<Double>.self)
  }

  @inline(__always) static func load(_ source: UnsafePointer<Double>) -> SIMD8<Double> {
    UnsafeRawPointer(source).loadUnaligned(as: SIMD8<Double>.self)
  }
  @inline(__always) static func store(_ values: SIMD8<Double>, _ destination: UnsafeMutablePointer<Double>) {
    UnsafeMutableRawPointer(destination).storeBytes(of: values, as: SIMD8<Double>.self)
  }
}

/// The bits of a bfloat16: the upper half of a `Float`.
struct BFloat16: LatentElement {
  typealias Compute = Float
  var bits: UInt16
  static var zero: BFloat16 { BFloat16(bits: 0) }

  @inline(__always) static func load(_ source: UnsafePointer<BFloat16>) -> SIMD8<Float> {
    let bits = UnsafeRawPointer(source).loadUnaligned(as: SIMD8<UInt16>.self)
    return unsafeBitCast(SIMD8<UInt32>(truncatingIfNeeded: bits) &<< 16, to: SIMD8<Float>.self)
  }

  @inline(__always) static func store(_ values: SIMD8<Float>, _ destination: UnsafeMutablePointer<BFloat16>) {
    let bits = unsafeBitCast(values, to: SIMD8<UInt32>.self)
    let magnitude = bits & 0x7fff_ffff
    let rounded = magnitude &+ 0x7fff &+ ((magnitude &>> 16) & 1)
    // Only a NaN can carry into the sign bit: it stays a NaN.
    let nan = (SIMD8<UInt32>.zero &- (rounded &>> 31)) & 0x7fc0_0000
    let result = (rounded & 0x7fff_ffff) | nan | (bits & 0x8000_0000)
    UnsafeMutableRawPointer(destination).storeBytes(
      of: SIMD8<UInt16>(truncatingIfNeeded: result &>> 16), as: SIMD8<UInt16>.self)
  }
}

/// The bits of an IEEE half. Converted by integer arithmetic, for `Float16` costs a library call an element where the
/// baseline processor has no instruction for it.
struct Half: LatentElement {
  typealias Compute = Float
  var bits: UInt16
  static var zero: Half { Half(bits: 0) }

  @inline(__always) static func load(_ source: UnsafePointer<Half>) -> SIMD8<Float> {
    let bits = SIMD8<Int32>(truncatingIfNeeded: UnsafeRawPointer(source).loadUnaligned(as: SIMD8<UInt16>.self))
    let magnitude = (bits & 0x7fff) &<< 13
    let exponent = magnitude & 0x0f80_0000
    let special = (0x0f7f_ffff &- exponent) &>> 31  // all ones for infinity and NaN
    let subnormal = (exponent &- 1) &>> 31  // all ones for zero and subnormals
    let normal = magnitude &+ (112 << 23) &+ (special & (112 << 23))
    let tiny = unsafeBitCast(
      unsafeBitCast(magnitude &+ (113 << 23), to: SIMD8<Float>.self) - Float(bitPattern: 113 << 23),
      to: SIMD8<Int32>.self)
    let result = (normal & ~subnormal) | (tiny & subnormal) | ((bits & 0x8000) &<< 16)
    return unsafeBitCast(result, to: SIMD8<Float>.self)
  }

  @inline(__always) static func store(_ values: SIMD8<Float>, _ destination: UnsafeMutablePointer<Half>) {
    let bits = unsafeBitCast(values, to: SIMD8<Int32>.self)
    let magnitude = bits & 0x7fff_ffff
    let nan = (0x7f80_0000 &- magnitude) &>> 31
    let large = (0x477f_ffff &- magnitude) &>> 31  // 65536 and more
    let small = (magnitude &- 0x3880_0000) &>> 31  // below 2^-14
    let normal = (magnitude &- (112 << 23) &+ 0xfff &+ ((magnitude &>> 13) & 1)) &>> 13
    let tiny =
      unsafeBitCast(unsafeBitCast(magnitude & small, to: SIMD8<Float>.self) + 0.5, to: SIMD8<Int32>.self)
      &- 0x3f00_0000
    let finite = (normal & ~small) | (tiny & small)
    let result = (finite & ~large) | (large & (0x7c00 | (nan & 0x0200))) | ((bits &>> 16) & 0x8000)
    UnsafeMutableRawPointer(destination).storeBytes(
      of: SIMD8<UInt16>(truncatingIfNeeded: result), as: SIMD8<UInt16>.self)
  }
}
