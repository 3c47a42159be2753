/// Normals from Philox words by the Box–Muller transform, in f32:
///
///     r = √(−2 ln((w0 + ½)/2³²)),  θ = 2π·w1/2³²,  and the normals r·cos θ, r·sin θ
///
/// Only integer operations and +, −, ×, √, which IEEE 754 rounds in one way; no libm and no contraction: the bits are the
/// same on every processor.
@inline(__always)
func boxMuller(_ w0: Words, _ w1: Words) -> (Floats, Floats) {
  let r = (-2.0 * logarithmOfUniform(w0)).squareRoot()
  let (cosine, sine) = cosineAndSine(w1)
  return (r * cosine, r * sine)
}

/// (w + ½)/2³², rounded once: relative precision down to 2⁻³³, which the tails need.
@inline(__always)
private func uniform(_ w: Words) -> Floats {
  // Each half becomes a float exactly through an exponent: 0x43000000 is 2⁷, 0x3b000000 is 2⁻⁹.
  let high = ((w >> 16) | 0x4300_0000).floats - 0x1p7
  let low = ((w & 0xffff) | 0x3b00_0000).floats - 0x0.ffffffp-9  // 2⁻⁹ − 2⁻³³
  return high + low
}

/// ln((w + ½)/2³²) to about 1 ulp (the polynomial of Cephes `logf`).
@inline(__always)
private func logarithmOfUniform(_ w: Words) -> Floats {
  // u = (1 + m)·2ᵉ with 1 + m in [√½, √2). Near u = 1, where small radii come from, u − 1 would be rounding error:
  // from √½ on, m = −(1 − u), of the complement. 0xb504f280 is the least w with a `uniform` of √½, 0x3f3504f3.
  let above = (w & ~(w - 0xb504_f280)).signedShift(31)
  let u = uniform(w ^ above)
  let shifted = u.bits - 0x3f35_04f3
  let exponent = shifted.signedShift(23) & ~above
  let fraction = ((shifted & 0x007f_ffff) + 0x3f35_04f3).floats - 1.0
  let m = above.ifSet((0.0 - u).bits, else: fraction.bits).floats
  let e = (exponent + 0x4b40_0000).floats - 12_582_912.0  // int to float
  let z = m * m
  var p: Floats = 7.0376836292e-2
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

/// cos and sin of 2π·w/2³², to about 1 ulp of 1.
@inline(__always)
private func cosineAndSine(_ w: Words) -> (Floats, Floats) {
  // Quadrant q and the rest as a fraction of a quadrant in [−½, ½), with 23 bits.
  let turned = w + 0x2000_0000
  let q = turned >> 30
  let fraction = (((turned & 0x3fff_ffff) >> 7) | 0x3f80_0000).floats - 1.5
  let t = fraction * 1.57079632679
  let z = t * t
  var s: Floats = -1.9515295891e-4
  s = s * z + 8.3321608736e-3
  s = s * z - 1.6666654611e-1
  s = s * z * t + t
  var c: Floats = 2.443315711809948e-5
  c = c * z - 1.388731625493765e-3
  c = c * z + 4.166664568298827e-2
  c = c * z * z - 0.5 * z + 1.0
  // Odd quadrants swap the two; the signs follow the quadrant.
  let swap = 0 - (q & 1)
  let cosine = swap.ifSet(s.bits, else: c.bits) ^ (((q + 1) & 2) << 30)
  let sine = swap.ifSet(c.bits, else: s.bits) ^ ((q & 2) << 30)
  return (cosine.floats, sine.floats)
}
