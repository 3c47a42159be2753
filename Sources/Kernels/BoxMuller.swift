/// Normals from Philox words by the Box–Muller transform, in f32:
///
///     r = √(−2 ln((w0 + ½)/2³²)),  θ = 2π·w1/2³²,  and the normals r·cos θ, r·sin θ
///
/// Only integer operations and +, −, ×, √ and the conversion of integers, which IEEE 754 rounds in one way; no libm and no
/// contraction: the bits are the same on every processor. Polynomials are minimax (Sollya's fpminimax); the normals have
/// an error of up to 2.5·10⁻⁷·r.
struct BoxMuller {
  // Stored, a whole vector each: as operands in memory they take no register and no instruction of their own.
  private let half: Floats = 0.5, one: Floats = 1.0, unit: Floats = 0x1p-32, minusUnit: Floats = -0x1p-32
  private let fraction: Words = 0x007f_ffff, bias: Words = 0xffff_ff62  // −126 − 32
  // −2·ln(1 + m)/m on [−½, 0), to 2.5·10⁻⁸
  private let l0: Floats = -2.0, l1: Floats = 0.99999022, l2: Floats = -0.66727114, l3: Floats = 0.48728305
  private let l4: Floats = -0.5278589, l5: Floats = -0.3633891, l6: Floats = -2.419914, l7: Floats = -3.2812252
  private let l8: Floats = -2.8297012, ln4: Floats = -1.3862944
  // sin(π/2·f)/f and (cos(π/2·f) − 1)/f² on [−½, ½], in f², to 2.8·10⁻⁸ and 1.1·10⁻⁹
  private let s0: Floats = 1.5707964, s1: Floats = -0.645965, s2: Floats = 0.07969201, s3: Floats = -0.004628752
  private let c0: Floats = -1.2337005, c1: Floats = 0.25366828, c2: Floats = -0.02085249, c3: Floats = 0.00088610698
  private let eighth: Words = 0x2000_0000, sign: Words = 0x8000_0000

  nonisolated(unsafe) static let shared: UnsafePointer<BoxMuller> = {
    let memory = UnsafeMutablePointer<BoxMuller>.allocate(capacity: 1)
    memory.initialize(to: BoxMuller())
    return UnsafePointer(memory)
  }()

  @inline(__always)
  func normals(_ w0: Words, _ w1: Words) -> (Floats, Floats) {
    let radius = squaredRadius(w0).squareRoot()  // first: it takes longest
    // θ is the nearest of the quarters 0 … 3 and a fraction in [−½, ½) of one: `turned` has the quarter in its upper bits.
    let turned = w1 + eighth
    let f = Floats(signed: w1 << 2) * unit
    let z = f * f
    let sine = (((s3 * z + s2) * z + s1) * z + s0) * f
    let cosine = (((c3 * z + c2) * z + c1) * z + c0) * z + one
    // cos, −sin, −cos, sin and sin, cos, −sin, −cos: odd quarters swap them, and the third and fourth turn the sign.
    let odd = turned << 1
    let r = (radius.bits ^ (turned & sign)).floats
    return (r * odd.choose(-sine, else: cosine), r * odd.choose(cosine, else: sine))
  }

  /// −2 ln u for u = (w + ½)/2³²
  @inline(__always)
  private func squaredRadius(_ w: Words) -> Floats {
    // Both ends want relative precision: near 0, where tails come from, in u; near 1, where small radii come from, in
    // 1 − u. `small` is the lesser of the two, times 2³².
    let high = w.spreadSign
    let small = Floats(signed: w ^ high) + half
    // u = (1 + m)·2ᵉ with 1 + m in [½, 1); above ½, m = −(1 − u) and e = 0.
    let m = w.choose(small * minusUnit, else: ((small.bits & fraction) | half.bits).floats - one)
    let exponent = (small.bits >> 23) + bias
    let e = Floats(signed: exponent.without(high))
    let m2 = m * m
    let even = (((l8 * m2 + l6) * m2 + l4) * m2 + l2) * m2 + l0
    let odd = ((l7 * m2 + l5) * m2 + l3) * m2 + l1
    return (odd * m + even) * m + ln4 * e
  }
}
