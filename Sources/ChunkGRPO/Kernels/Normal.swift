/// Normals from Philox words by the Box–Muller transform, in f32.
///
/// Only +, −, × and integer operations on vectors: no libm and no contraction, so the bits are the same on every
/// processor. Element e of a sample is word (e/8) mod 4 of counter 8·(e/32) + (e mod 8): a group of eight counters
/// makes 32 elements without a transposition. Words (0, 1) and (2, 3) are the pairs:
///
///     r = √(−2 ln((w0 + ½)/2³²)),  θ = 2π·w1/2³²,  elements r·cos θ and r·sin θ
struct NormalStream {
  private let philox: Philox

  init(seed: UInt64, sampleID: UInt64, step: UInt32) {
    philox = Philox(seed: seed, sampleID: sampleID, step: step)
  }

  /// The 32 elements of `group`, eight a vector.
  @inline(__always)
  func normals<C: ComputeScalar>(group: UInt32, as _: C.Type = C.self) -> Vectors4<C> {
    let (w0, w1, w2, w3) = philox.words(group: group)
    let (n0, n1) = boxMuller(w0, w1)
    let (n2, n3) = boxMuller(w2, w3)
    return (widen(n0), widen(n1), widen(n2), widen(n3))
  }

  @inline(__always)
  private func widen<C: ComputeScalar>(_ values: SIMD8<Float>) -> SIMD8<C> {
    if C.self == Float.self { return unsafeBitCast(values, to: SIMD8<C>.self) }
    return SIMD8<C>(values)
  }
}

/// 32 elements: what one Philox group makes and one turn of a kernel's loop takes.
typealias Vectors4<C: SIMDScalar> = (SIMD8<C>, SIMD8<C>, SIMD8<C>, SIMD8<C>)

@inline(__always)
private func boxMuller(_ w0: SIMD8<UInt32>, _ w1: SIMD8<UInt32>) -> (SIMD8<Float>, SIMD8<Float>) {
  let r = squareRoot(-2 * logarithmOfUniform(w0))
  let (cosine, sine) = cosineAndSine(w1)
  return (r * cosine, r * sine)
}

/// (w + ½)/2³², rounded once: relative precision down to 2⁻³³, which the tails need.
@inline(__always)
private func uniform(_ w: SIMD8<UInt32>) -> SIMD8<Float> {
  // Each half becomes a float exactly through the exponent of 2²³; there is no unsigned conversion instruction.
  let magic: UInt32 = 0x4b00_0000
  let high = unsafeBitCast((w &>> 16) | magic, to: SIMD8<Float>.self) - 8_388_608
  let low = unsafeBitCast((w & 0xffff) | magic, to: SIMD8<Float>.self) - 8_388_607.5
  return (high * 65536 + low) * 0x1p-32
}

/// ln((w + ½)/2³²) to about 1 ulp (the polynomial of Cephes `logf`).
@inline(__always)
private func logarithmOfUniform(_ w: SIMD8<UInt32>) -> SIMD8<Float> {
  // u = (1 + m)·2ᵉ with 1 + m in [√½, √2).
  let shifted = unsafeBitCast(uniform(w), to: SIMD8<Int32>.self) &- 0x3f35_04f3
  let exponent = shifted &>> 23
  let fraction = unsafeBitCast((shifted & 0x007f_ffff) &+ 0x3f35_04f3, to: SIMD8<Float>.self) - 1
  // Near u = 1, where small radii come from, u − 1 would be rounding error: there m = −(1 − u), of the complement.
  let below = unsafeBitCast(exponent &>> 31, to: SIMD8<UInt32>.self)
  let m = unsafeBitCast(
    (unsafeBitCast(fraction, to: SIMD8<UInt32>.self) & below)
      | (unsafeBitCast(0 - uniform(~w), to: SIMD8<UInt32>.self) & ~below), to: SIMD8<Float>.self)
  let e = unsafeBitCast(exponent &+ 0x4b40_0000, to: SIMD8<Float>.self) - 12_582_912  // int to float
  let z = m * m
  var p = SIMD8<Float>(repeating: 7.0376836292e-2)
  p = p * m - 1.1514610310e-1
  p = p * m + 1.1676998740e-1
  p = p * m - 1.2420140846e-1
  p = p * m + 1.4249322787e-1
  p = p * m - 1.6668057665e-1
  p = p * m + 2.0000714765e-1
  p = p * m - 2.4999993993e-1
  p = p * m + 3.3333331174e-1
  let y = p * m * z - 2.12194440e-4 * e - 0.5 * z
  return m + y + 0.693359375 * e
}

/// √y for y ≥ 0 by Newton steps on 1/√y: the vector square root of the standard library is a call a lane.
@inline(__always)
private func squareRoot(_ y: SIMD8<Float>) -> SIMD8<Float> {
  let half = y * 0.5
  var r = unsafeBitCast(0x5f37_59df &- (unsafeBitCast(y, to: SIMD8<UInt32>.self) &>> 1), to: SIMD8<Float>.self)
  r = r * (1.5 - half * r * r)
  r = r * (1.5 - half * r * r)
  r = r * (1.5 - half * r * r)
  let root = y * r
  return root + 0.5 * r * (y - root * root)  // the last step on the root itself, against the rounding of r
}

/// cos and sin of 2π·w/2³², to about 1 ulp of 1.
@inline(__always)
private func cosineAndSine(_ w: SIMD8<UInt32>) -> (SIMD8<Float>, SIMD8<Float>) {
  // Quadrant q and the rest as a fraction of a quadrant in [−½, ½), with 23 bits.
  let turned = w &+ 0x2000_0000
  let q = turned &>> 30
  let fraction = unsafeBitCast(((turned & 0x3fff_ffff) &>> 7) | 0x3f80_0000, to: SIMD8<Float>.self) - 1.5
  let t = fraction * 1.57079632679
  let z = t * t
  var s = SIMD8<Float>(repeating: -1.9515295891e-4)
  s = s * z + 8.3321608736e-3
  s = s * z - 1.6666654611e-1
  s = s * z * t + t
  var c = SIMD8<Float>(repeating: 2.443315711809948e-5)
  c = c * z - 1.388731625493765e-3
  c = c * z + 4.166664568298827e-2
  c = c * z * z - 0.5 * z + 1
  // Odd quadrants swap the two; the signs follow the quadrant.
  let swap = SIMD8<UInt32>.zero &- (q & 1)
  let cb = unsafeBitCast(c, to: SIMD8<UInt32>.self)
  let sb = unsafeBitCast(s, to: SIMD8<UInt32>.self)
  let cosine = ((cb & ~swap) | (sb & swap)) ^ (((q &+ 1) & 2) &<< 30)
  let sine = ((sb & ~swap) | (cb & swap)) ^ ((q & 2) &<< 30)
  return (unsafeBitCast(cosine, to: SIMD8<Float>.self), unsafeBitCast(sine, to: SIMD8<Float>.self))
}
