// eˣ = 2ⁿ·eʳ with n = round(x/ln 2) and |r| ≤ ½ ln 2: a polynomial, and n into the exponent's bits.
// Adding 1.5·2²³ (1.5·2⁵² in f64) rounds to an integer and leaves it in the low bits: no conversion, no libm.

/// A number that the network computes in.
protocol NetworkNumber: BinaryFloatingPoint, SIMDScalar, BitwiseCopyable, Codable, SendableMetatype {
  /// eˣ to about 1 ulp, for |x| up to 87 (700 in f64); beyond it, the value there. NaN in, unspecified out.
  static func exponential(_ x: SIMD16<Self>) -> SIMD16<Self>
}

extension Float: NetworkNumber {
  @inline(__always)
  static func exponential(_ x: SIMD16<Float>) -> SIMD16<Float> {
    let magic: Float = 12_582_912
    let y = bounded(x)
    let shifted = y * 1.44269504 + magic
    let n = shifted - magic
    let r = (y - n * 0.693359375) + n * 2.12194440e-4  // ln 2 in two parts (Cephes `expf`, as the polynomial)
    var p = SIMD16<Float>(repeating: 1.9875691500e-4)
    p = p * r + 1.3981999507e-3
    p = p * r + 8.3334519073e-3
    p = p * r + 4.1665795894e-2
    p = p * r + 1.6666665459e-1
    p = p * r + 5.0000001201e-1
    p = p * r * r + r + 1
    let power = (unsafeBitCast(shifted, to: SIMD16<UInt32>.self) &<< 23) &+ 0x3f80_0000
    return p * unsafeBitCast(power, to: SIMD16<Float>.self)
  }

  /// x with its magnitude cut to 87, by integer operations: comparisons of floats and `clamped` are one call per lane.
  @inline(__always)
  private static func bounded(_ x: SIMD16<Float>) -> SIMD16<Float> {
    let bits = unsafeBitCast(x, to: SIMD16<Int32>.self)
    let limit = Int32(bitPattern: Float(87).bitPattern)
    let magnitude = bits & 0x7fff_ffff
    let over = (limit &- magnitude) &>> 31
    return unsafeBitCast((bits & ~0x7fff_ffff) | (magnitude & ~over) | (over & limit), to: SIMD16<Float>.self)
  }
}

extension Double: NetworkNumber {
  @inline(__always)
  static func exponential(_ x: SIMD16<Double>) -> SIMD16<Double> {
    let magic = 6_755_399_441_055_744.0
    let y = bounded(x)
    let shifted = y * 1.4426950408889634 + magic
    let n = shifted - magic
    let r = (y - n * 0.6931471803691238) - n * 1.9082149292705877e-10
    var p = SIMD16<Double>(repeating: 1 / 6_227_020_800)  // Taylor: the next term is below 5·10⁻¹⁸
    p = p * r + 1 / 479_001_600
    p = p * r + 1 / 39_916_800
    p = p * r + 1 / 3_628_800
    p = p * r + 1 / 362_880
    p = p * r + 1 / 40_320
    p = p * r + 1 / 5_040
    p = p * r + 1 / 720
    p = p * r + 1 / 120
    p = p * r + 1 / 24
    p = p * r + 1 / 6
    p = p * r + 0.5
    p = p * r * r + r + 1
    let power = (unsafeBitCast(shifted, to: SIMD16<UInt64>.self) &<< 52) &+ 0x3ff0_0000_0000_0000
    return p * unsafeBitCast(power, to: SIMD16<Double>.self)
  }

  @inline(__always)
  private static func bounded(_ x: SIMD16<Double>) -> SIMD16<Double> {
    let bits = unsafeBitCast(x, to: SIMD16<Int64>.self)
    let limit = Int64(bitPattern: Double(700).bitPattern)
    let magnitude = bits & 0x7fff_ffff_ffff_ffff
    let over = (limit &- magnitude) &>> 63
    return unsafeBitCast(
      (bits & ~0x7fff_ffff_ffff_ffff) | (magnitude & ~over) | (over & limit), to: SIMD16<Double>.self)
  }
}
