/// A type that latents are stored in: eight elements at a time to and from the type that arithmetic is done in.
protocol LatentElement: BitwiseCopyable, SendableMetatype {
  associatedtype Compute: ComputeScalar

  static func load(_ source: UnsafeRawPointer) -> SIMD8<Compute>
  /// Rounds to nearest, ties to even.
  static func store(_ values: SIMD8<Compute>, _ destination: UnsafeMutableRawPointer)
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
  @inline(__always) static func load(_ source: UnsafeRawPointer) -> SIMD8<Float> {
    source.loadUnaligned(as: SIMD8<Float>.self)
  }
  @inline(__always) static func store(_ values: SIMD8<Float>, _ destination: UnsafeMutableRawPointer) {
    destination.storeBytes(of: values, as: SIMD8<Float>.self)
  }
}

extension Double: ComputeScalar {
  typealias Compute = Double

  @inline(__always) static func magnitude(_ values: SIMD8<Double>) -> SIMD8<Double> {
    unsafeBitCast(
      unsafeBitCast(values, to: SIMD8<UInt64>.self) & 0x7fff_ffff_ffff_ffff, to: SIMD8<Double>.self)
  }
  @inline(__always) static func load(_ source: UnsafeRawPointer) -> SIMD8<Double> {
    source.loadUnaligned(as: SIMD8<Double>.self)
  }
  @inline(__always) static func store(_ values: SIMD8<Double>, _ destination: UnsafeMutableRawPointer) {
    destination.storeBytes(of: values, as: SIMD8<Double>.self)
  }
}

// 16-bit numbers in the upper halves of 32-bit lanes. By interleaving with zeros, which is one instruction: a loop of
// conversions is taken apart by the optimiser, and the standard library's are a call.

@inline(__always)
private func unpack(_ source: UnsafeRawPointer) -> SIMD8<UInt32> {
  var wide = SIMD16<UInt16>.zero
  wide.oddHalf = source.loadUnaligned(as: SIMD8<UInt16>.self)
  return unsafeBitCast(wide, to: SIMD8<UInt32>.self)
}

@inline(__always)
private func pack(_ values: SIMD8<UInt32>, _ destination: UnsafeMutableRawPointer) {
  destination.storeBytes(of: unsafeBitCast(values, to: SIMD16<UInt16>.self).oddHalf, as: SIMD8<UInt16>.self)
}

/// The bits of a bfloat16: the upper half of a `Float`.
struct BFloat16: LatentElement {
  typealias Compute = Float
  var bits: UInt16

  @inline(__always) static func load(_ source: UnsafeRawPointer) -> SIMD8<Float> {
    unsafeBitCast(unpack(source), to: SIMD8<Float>.self)
  }

  /// A NaN may become another number: whoever stores one has seen it in the sums.
  @inline(__always) static func store(_ values: SIMD8<Float>, _ destination: UnsafeMutableRawPointer) {
    let bits = unsafeBitCast(values, to: SIMD8<UInt32>.self)
    pack(bits &+ 0x7fff &+ ((bits &>> 16) & 1), destination)
  }
}

/// The bits of an IEEE half.
struct Half: LatentElement {
  typealias Compute = Float
  var bits: UInt16

  #if CHUNKGRPO_F16C
    @inline(__always) static func load(_ source: UnsafeRawPointer) -> SIMD8<Float> {
      let halves = source.loadUnaligned(as: SIMD8<Float16>.self)
      var wide = SIMD8<Float>()
      for lane in 0..<8 { wide[lane] = Float(halves[lane]) }
      return wide
    }

    @inline(__always) static func store(_ values: SIMD8<Float>, _ destination: UnsafeMutableRawPointer) {
      var halves = SIMD8<Float16>()
      for lane in 0..<8 { halves[lane] = Float16(values[lane]) }
      destination.storeBytes(of: halves, as: SIMD8<Float16>.self)
    }
  #else
    // By integer arithmetic: without an instruction for it, `Float16` is a library call an element.

    @inline(__always) static func load(_ source: UnsafeRawPointer) -> SIMD8<Float> {
      let bits = unsafeBitCast(unpack(source) &>> 16, to: SIMD8<Int32>.self)
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

    @inline(__always) static func store(_ values: SIMD8<Float>, _ destination: UnsafeMutableRawPointer) {
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
      pack(unsafeBitCast(result, to: SIMD8<UInt32>.self) &<< 16, destination)
    }
  #endif
}
