import ChunkGRPO
import Testing

@Suite("Storage types")
struct ElementTypeTests {
  /// Runs f32 values through the type and back, by an ODE step from x with v = 0: x' = 1·x + b·0, stored.
  private func roundTrip(_ bits: [UInt16], _ type: ElementType) throws -> [UInt16] {
    let x = try Latents(type: type, batch: 1, elements: bits.count)
    let v = try Latents(type: type, batch: 1, elements: bits.count)
    let next = try Latents(type: type, batch: 1, elements: bits.count)
    bits.withUnsafeBytes { x.view.base.copyMemory(from: $0.baseAddress!, byteCount: $0.count) }
    try Sampler(Schedule.linear(steps: 2), dynamics: .ode).step(
      0, latents: x.view, velocity: v.view, noise: nil, next: next.view)
    return Array(
      UnsafeBufferPointer(start: next.view.base.assumingMemoryBound(to: UInt16.self), count: bits.count))
  }

  @Test("Every finite half and bfloat16 reads and writes back to itself")
  func everyValueRoundTrips() throws {
    let halves = (UInt16.min ... .max).filter { Float16(bitPattern: $0).isFinite && $0 != 0x8000 }
    #expect(try roundTrip(halves, .float16) == halves)
    // Squares of larger numbers overflow f32, which the step refuses.
    let brains = (UInt16.min ... .max).filter {
      abs(Float(bitPattern: UInt32($0) << 16)) < 1e18 && $0 != 0x8000
    }
    #expect(try roundTrip(brains, .bfloat16) == brains)
  }

  @Test("Reading a half gives its exact value")
  func halvesReadExactly() throws {
    let halves = (UInt16.min ... .max).filter { Float16(bitPattern: $0).isFinite }
    let x = try Latents(type: .float16, batch: 1, elements: halves.count)
    halves.withUnsafeBytes { x.view.base.copyMemory(from: $0.baseAddress!, byteCount: $0.count) }
    #expect(try x.values == halves.map { Double(Float16(bitPattern: $0)) })
  }

  @Test("Writing rounds to nearest even, as the hardware conversion does")
  func writingRoundsToNearestEven() throws {
    // x' = a·x for v = x: many f32 results from half inputs; compare with Swift's own rounding of the same product.
    let halves = (UInt16.min ... .max).filter { Float16(bitPattern: $0).isFinite }
    let sampler = try Sampler(Schedule([0.9, 0.5123, 0]), dynamics: .ode)
    let b = Float(sampler.coefficients[0].b)
    let x = try Latents(type: .float16, batch: 1, elements: halves.count)
    let v = try Latents(type: .float16, batch: 1, elements: halves.count)
    let next = try Latents(type: .float16, batch: 1, elements: halves.count)
    halves.withUnsafeBytes { v.view.base.copyMemory(from: $0.baseAddress!, byteCount: $0.count) }
    try sampler.step(0, latents: x.view, velocity: v.view, noise: nil, next: next.view)
    #expect(try next.values == halves.map { Double(Float16(0 + b * Float(Float16(bitPattern: $0)))) })

    let brains = (UInt16.min ... .max).filter { abs(Float(bitPattern: UInt32($0) << 16)) < 1e18 }
    let bv = try Latents(type: .bfloat16, batch: 1, elements: brains.count)
    let bx = try Latents(type: .bfloat16, batch: 1, elements: brains.count)
    let bn = try Latents(type: .bfloat16, batch: 1, elements: brains.count)
    brains.withUnsafeBytes { bv.view.base.copyMemory(from: $0.baseAddress!, byteCount: $0.count) }
    try sampler.step(0, latents: bx.view, velocity: bv.view, noise: nil, next: bn.view)
    for (bits, stored) in try zip(brains, bn.values) {
      let exact = b * Float(bitPattern: UInt32(bits) << 16)
      let below = Float(bitPattern: exact.bitPattern & 0xffff_0000)
      let above = Float(bitPattern: (exact.bitPattern & 0xffff_0000) &+ 0x1_0000)
      let (down, up) = (abs(exact - below), abs(above - exact))
      let even = (exact.bitPattern >> 16) & 1 == 0
      #expect(Float(stored) == (down < up || (down == up && even) ? below : above))
    }
  }
}
