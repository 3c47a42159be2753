import ChunkGRPO
import Testing

@Suite("Reserved noise steps")
struct ReservedStepsTests {
  @Test("Reserved steps differ from each other and from every step of a rollout")
  func noCollisions() {
    let steps = ReservedStep.allCases.map(\.rawValue)
    #expect(Set(steps).count == ReservedStep.allCases.count)
    #expect(steps.allSatisfy { $0 > UInt32(Int32.max) })
    #expect(ReservedStep.initialNoise.rawValue == UInt32(truncatingIfNeeded: initialNoiseStep))
  }

  @Test("Their draws differ for one seed and sample")
  func drawsDiffer() {
    let draws = ReservedStep.allCases.map { uniforms(seed: 1, sampleID: 2, step: $0.rawValue, count: 8) }
    #expect(Set(draws).count == draws.count)
  }
}
