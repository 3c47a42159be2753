import ChunkGRPO
import Foundation
import Testing

@Suite("Noise")
struct NoiseTests {
  /// Philox4x32-10 word by word, as the paper has it.
  private func philox(_ counter: [UInt32], key: [UInt32]) -> [UInt32] {
    var (c, k) = (counter, key)
    for _ in 0..<10 {
      let p0 = 0xD251_1F53 * UInt64(c[0])
      let p1 = 0xCD9E_8D57 * UInt64(c[2])
      c = [
        UInt32(p1 >> 32) ^ c[1] ^ k[0], UInt32(truncatingIfNeeded: p1), UInt32(p0 >> 32) ^ c[3] ^ k[1],
        UInt32(truncatingIfNeeded: p0),
      ]
      k = [k[0] &+ 0x9E37_79B9, k[1] &+ 0xBB67_AE85]
    }
    return c
  }

  @Test("This test's own Philox gives the known answers of Random123")
  func knownAnswers() {
    #expect(philox([0, 0, 0, 0], key: [0, 0]) == [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8])
    let ones: UInt32 = 0xffff_ffff
    #expect(
      philox([ones, ones, ones, ones], key: [ones, ones]) == [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd])
    #expect(
      philox([0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344], key: [0xa409_3822, 0x299f_31d0])
        == [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1])
  }

  @Test("Normals are Box-Muller of Philox words, a function of seed, sample id, step and element")
  func normalsFollowTheirDefinition() throws {
    let (seed, ids, step) = (UInt64(0x0123_4567_89ab_cdef), [UInt64(5), 0xfedc_ba98_7654_3210], 12)
    let latents = try Latents(type: .float32, batch: 2, elements: 2000)
    try normal(seed: seed, sampleIDs: ids, step: step, into: latents.view)
    let values = try latents.values
    for (sample, id) in ids.enumerated() {
      for e in 0..<2000 {
        let word = (e / 16) % 4
        let counter = UInt32(16 * (e / 64) + e % 16)
        let w = philox(
          [counter, UInt32(step), UInt32(truncatingIfNeeded: id), UInt32(id >> 32)],
          key: [UInt32(truncatingIfNeeded: seed), UInt32(seed >> 32)])
        let r = (-2 * log((Double(w[word & 2]) + 0.5) * 0x1p-32)).squareRoot()
        let angle = 2 * Double.pi * Double(w[(word & 2) + 1]) * 0x1p-32
        let expected = word & 1 == 0 ? r * cos(angle) : r * sin(angle)
        #expect(abs(values[sample * 2000 + e] - expected) < 4e-7 * r)
      }
    }
  }

  @Test("All types get the same normals, rounded to the type")
  func typesShareTheirNormals() throws {
    func values(_ type: ElementType) throws -> [Double] {
      let latents = try Latents(type: type, batch: 2, elements: 1001)
      try normal(seed: 4, into: latents.view)
      return try latents.values
    }
    let f32 = try values(.float32)
    #expect(try values(.float64) == f32)
    #expect(try values(.float16) == f32.map { Double(Float16($0)) })
    for (brain, exact) in zip(try values(.bfloat16), f32) { #expect(abs(brain - exact) <= abs(exact) * 0x1p-8) }
  }

  @Test("Samples, steps and seeds are uncorrelated")
  func streamsAreUncorrelated() throws {
    let n = 200_000
    func draws(seed: UInt64, id: UInt64, step: Int) throws -> [Double] {
      let latents = try Latents(batch: 1, elements: n)
      try normal(seed: seed, sampleIDs: [id], step: step, into: latents.view)
      return try latents.values
    }
    let base = try draws(seed: 1, id: 0, step: 0)
    for other in [
      try draws(seed: 2, id: 0, step: 0), try draws(seed: 1, id: 1, step: 0), try draws(seed: 1, id: 0, step: 1),
      try draws(seed: 1, id: 0, step: -1), try draws(seed: 1 << 32, id: 0, step: 0),
      try draws(seed: 1, id: 1 << 32, step: 0),
    ] {
      #expect(abs(zip(base, other).reduce(0) { $0 + $1.0 * $1.1 }) / Double(n) < 5 / Double(n).squareRoot())
    }
  }

  @Test("Equal sample ids share their noise: one initial noise per group")
  func groupsShareNoise() throws {
    let latents = try Latents(batch: 4, elements: 50)
    try normal(seed: 1, sampleIDs: [7, 7, 8, 8], into: latents.view)
    let v = try latents.values
    #expect(v[0..<50] == v[50..<100] && v[100..<150] == v[150..<200] && v[0..<50] != v[100..<150])
  }
}
