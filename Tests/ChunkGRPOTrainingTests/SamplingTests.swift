import ChunkGRPO
import ChunkGRPOTraining
import Testing

@Suite("Sampling")
struct SamplingTests {
  @Test("Draws are those of the velocity and the schedule: one Euler step after the other")
  func sampleFollowsVelocity() throws {
    let trainer = try pretrained(steps: 50)
    let sigmas = trainer.sampler.schedule.sigmas
    let latents = try Latents(batch: 2, elements: 2)
    try normal(seed: 7, into: latents.view)
    var x = try latents.values.map { Float($0) }
    for k in 0..<trainer.sampler.steps {
      let v = try trainer.velocity(parameters: .trained, latents: x, sigma: sigmas[k], conditions: oneHots)
      for i in x.indices { x[i] -= Float(sigmas[k] - sigmas[k + 1]) * v[i] }
    }
    let drawn = try trainer.sample(conditions: oneHots, parameters: .trained, eta: 0, seed: 7)
    for (a, b) in zip(x, drawn) { #expect(abs(a - b) < 1e-5) }
  }

  @Test("Arrays of wrong sizes and sigmas are refused by name")
  func refusals() throws {
    let trainer = try ChunkGRPOTrainer(tinyOptions())
    func refused(_ reason: String, _ body: () throws -> [Float]) {
      let thrown = #expect(throws: ChunkGRPOError.self) { try body() }
      #expect(thrown?.message.contains(reason) == true, "\(thrown?.message ?? "") for \(reason)")
    }
    refused("conditions has 0 numbers") { try trainer.sample(conditions: [], seed: 1) }
    refused("conditions has 3 numbers") { try trainer.sample(conditions: [1, 0, 1], seed: 1) }
    refused("conditions of row 0 has nan") { try trainer.sample(conditions: [1, .nan], seed: 1) }
    refused("eta") { try trainer.sample(conditions: [1, 0], eta: -1, seed: 1) }
    refused("conditions has 1 rows for 2 latents") {
      try trainer.velocity(latents: oneHots, sigma: 1, conditions: [1, 0])
    }
    refused("sigma = 1.5") { try trainer.velocity(latents: oneHots, sigma: 1.5, conditions: oneHots) }
  }

  @Test("A velocity that overflows is refused with its row")
  func overflow() throws {
    let trainer = try pretrained(steps: 50)
    for (latents, row) in [([0, 1, 3e38, -3e38], 1), ([3e38, 3e38, 0, 1], 0)] as [([Float], Int)] {
      let thrown = #expect(throws: ChunkGRPOError.self) {
        try trainer.velocity(latents: latents, sigma: 0.5, conditions: oneHots)
      }
      #expect(thrown?.code == .nonFinite && thrown?.message.contains("of row \(row) is") == true)
    }
  }
}
