import ChunkGRPO
import Foundation
import Testing

@Suite("Chunk weights")
struct ChunkWeightsTests {
  @Test("TempFlow weights follow the noise and have mean 1 over the steps; GCPO's are its square roots")
  func weights() throws {
    let sampler = try Sampler(.shifted(steps: 17, shift: 3), eta: 0.7)
    let noise = sampler.coefficients.prefix(16).map(\.s)
    let single = try ChunkPlan.fixed(steps: 16, size: 1).tempFlowWeights(sampler)
    for (w, s) in zip(single, noise) { #expect(abs(w - s / mean(noise)) < 1e-14) }
    let plan = try ChunkPlan([2, 3, 4, 7])
    let chunks = try plan.tempFlowWeights(sampler)
    #expect(abs(zip(chunks, plan.sizes).reduce(0) { $0 + $1.0 * Double($1.1) } / 16 - 1) < 1e-14)
    #expect(try plan.gcpoWeights().first == 4)
    #expect(error { _ = try ChunkPlan([3]).tempFlowWeights(sampler) }?.message.contains("sizes") == true)
    let deterministic = try Sampler(.linear(steps: 4), dynamics: .ode)
    #expect(error { _ = try ChunkPlan([3]).tempFlowWeights(deterministic) }?.message.contains("stochastic") == true)
  }
}
