/// Normals from Philox words by the Box–Muller transform, in f32.
///
/// Only +, −, × and integer operations on vectors: no libm and no contraction, so the bits are the same on every
/// processor. Element e of a sample is word (e/16) mod 4 of counter 16·(e/64) + (e mod 16): sixteen counters make
/// 64 elements without a transposition. Words (0, 1) and (2, 3) are the pairs:
///
///     r = √(−2 ln((w0 + ½)/2³²)),  θ = 2π·w1/2³²,  elements r·cos θ and r·sin θ

@inline(__always)
func boxMuller(_ w0: Words, _ w1: Words) -> (Floats, Floats) {
  let r = squareRoot(-2 * logarithmOfUniform(w0))
  let (cosine, sine) = cosineAndSine(w1)
  return (r * cosine, r * sine)
}

/// (w + ½)/2³², rounded once: relative precision down to 2⁻³³, which the tails need.
@inline(__always)
private func uniform(_ w: Words) -> Floats {
  // Each half becomes a float exactly through an exponent; there is no unsigned conversion instruction.
  let high = unsafeBitCast((w &>> 16) | (0x1p7 as Float).bitPattern, to: Floats.self) - 0x1p7
  let low = unsafeBitCast((w & 0xffff) | (0x1p-9 as Float).bitPattern, to: Floats.self) - (0x1p-9 - 0x1p-33)
  return high + low
}

/// The least w whose `uniform` is at least √½ (0x3f3504f3).
private let rootHalf: UInt32 = 0xb504_f280

/// ln((w + ½)/2³²) to about 1 ulp (the polynomial of Cephes `logf`).
@inline(__always)
private func logarithmOfUniform(_ w: Words) -> Floats {
  // u = (1 + m)·2ᵉ with 1 + m in [√½, √2). Near u = 1, where small radii come from, u − 1 would be rounding error:
  // from √½ on, m = −(1 − u), of the complement.
  let above = unsafeBitCast(unsafeBitCast(w & ~(w &- rootHalf), to: SignedWords.self) &>> 31, to: Words.self)
  let u = uniform(w ^ above)
  let shifted = unsafeBitCast(u, to: SignedWords.self) &- 0x3f35_04f3
  let exponent = (shifted &>> 23) & ~unsafeBitCast(above, to: SignedWords.self)
  let fraction = unsafeBitCast((shifted & 0x007f_ffff) &+ 0x3f35_04f3, to: Floats.self) - 1
  let m = unsafeBitCast(
    (unsafeBitCast(fraction, to: Words.self) & ~above) | (unsafeBitCast(0 - u, to: Words.self) & above),
    to: Floats.self)
  let e = unsafeBitCast(exponent &+ 0x4b40_0000, to: Floats.self) - 12_582_912  // int to float
  let z = m * m
  var p = Floats(repeating: 7.0376836292e-2)
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
private func squareRoot(_ y: Floats) -> Floats {
  let half = y * 0.5
  var r = unsafeBitCast(0x5f37_59df &- (unsafeBitCast(y, to: Words.self) &>> 1), to: Floats.self)
  r = r * (1.5 - half * r * r)
  r = r * (1.5 - half * r * r)
  r = r * (1.5 - half * r * r)
  let root = y * r
  return root + 0.5 * r * (y - root * root)  // the last step on the root itself, against the rounding of r
}

/// cos and sin of 2π·w/2³², to about 1 ulp of 1.
@inline(__always)
private func cosineAndSine(_ w: Words) -> (Floats, Floats) {
  // Quadrant q and the rest as a fraction of a quadrant in [−½, ½), with 23 bits.
  let turned = w &+ 0x2000_0000
  let q = turned &>> 30
  let fraction = unsafeBitCast(((turned & 0x3fff_ffff) &>> 7) | 0x3f80_0000, to: Floats.self) - 1.5
  let t = fraction * 1.57079632679
  let z = t * t
  var s = Floats(repeating: -1.9515295891e-4)
  s = s * z + 8.3321608736e-3
  s = s * z - 1.6666654611e-1
  s = s * z * t + t
  var c = Floats(repeating: 2.443315711809948e-5)
  c = c * z - 1.388731625493765e-3
  c = c * z + 4.166664568298827e-2
  c = c * z * z - 0.5 * z + 1
  // Odd quadrants swap the two; the signs follow the quadrant.
  let swap = Words.zero &- (q & 1)
  let cb = unsafeBitCast(c, to: Words.self)
  let sb = unsafeBitCast(s, to: Words.self)
  let cosine = ((cb & ~swap) | (sb & swap)) ^ (((q &+ 1) & 2) &<< 30)
  let sine = ((sb & ~swap) | (cb & swap)) ^ ((q & 2) &<< 30)
  return (unsafeBitCast(cosine, to: Floats.self), unsafeBitCast(sine, to: Floats.self))
}
