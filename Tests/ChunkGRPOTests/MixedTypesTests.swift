import ChunkGRPO
import Testing

@Suite("Velocities of 16 bits beside f32 latents")
struct MixedTypesTests {
  private func sampler() throws -> Sampler { try Sampler(Schedule.linear(steps: 6), eta: 0.6) }

  /// The same numbers as f32.
  private func wide(_ narrow: Latents) throws -> Latents {
    try Latents(narrow.values.map(Float.init), batch: narrow.batch)
  }

  @Test(
    "a rollout takes them in their type, and gives the latents of wide ones",
    arguments: [ElementType.bfloat16, .float16])
  func rollouts(type: ElementType) throws {
    let sampler = try sampler()
    let initial = try Latents(batch: 2, elements: 65)
    try normal(seed: 3, into: initial.view)
    let narrow = try sampler.rollout(from: initial.view, noise: .library(seed: 1), velocityType: type) { k, _, _, v in
      #expect(v.type == type)
      try normal(seed: 2, step: k, into: v)
    }
    let known = try sampler.rollout(from: initial.view, noise: .library(seed: 1)) { k, _, _, v in
      let drawn = try Latents(type: type, batch: v.batch, elements: v.elements)
      try normal(seed: 2, step: k, into: drawn.view)
      for i in 0..<v.batch { try v.set(i, to: Array(wide(drawn).view[i])) }
    }
    #expect(try narrow.latents.values == known.latents.values)
    #expect(narrow.logProbs == known.logProbs && narrow.relativeL1 == known.relativeL1)
    #expect(throws: ChunkGRPOError.self) {
      try sampler.rollout(from: initial.view, noise: .library(seed: 1), velocityType: .float64) { _, _, _, _ in }
    }
  }

  @Test("a gradient has the velocity's type", arguments: [ElementType.bfloat16, .float16])
  func gradients(type: ElementType) throws {
    let sampler = try sampler()
    let (x, next) = (try Latents(batch: 2, elements: 65), try Latents(batch: 2, elements: 65))
    let (v, narrow) = (try Latents(type: type, batch: 2, elements: 65), try Latents(type: type, batch: 2, elements: 65))
    for (i, latents) in [x, next, v].enumerated() { try normal(seed: 7, step: i, into: latents.view) }
    let upstream = [900.0, -70]
    let found = try sampler.logProbVJP(
      2, latents: x.view, velocity: v.view, next: next.view, gradLogProb: upstream, gradVelocity: narrow.view)
    let gradient = try Latents(batch: 2, elements: 65)
    let known = try sampler.logProbVJP(
      2, latents: x.view, velocity: wide(v).view, next: next.view, gradLogProb: upstream, gradVelocity: gradient.view)
    #expect(found == known)
    let unit = type == .bfloat16 ? 0x1p-8 : 0x1p-11
    for (one, other) in try zip(narrow.values, gradient.values) {
      #expect(abs(one - other) <= unit * abs(other) + 0x1p-25)
    }
    #expect(throws: ChunkGRPOError.self) {
      try sampler.logProbVJP(
        2, latents: x.view, velocity: v.view, next: next.view, gradLogProb: upstream, gradVelocity: gradient.view)
    }
  }
}
