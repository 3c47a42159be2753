import ChunkGRPO
import Testing

@Suite("Trajectories")
struct TrajectoryTests {
  private struct Stop: Error {}

  /// A velocity that depends on everything it is given.
  private func model(_ step: Int, _ sigma: Double, _ x: LatentsView, _ v: LatentsView) {
    for i in 0..<x.batch {
      let source = x.base.assumingMemoryBound(to: Float.self) + i * x.batchStride
      let target = v.base.assumingMemoryBound(to: Float.self) + i * v.batchStride
      for e in 0..<x.elements { target[e] = 0.3 * source[e] + Float(sigma) * Float(e % 3) - 0.1 * Float(step) }
    }
  }

  private func initial() throws -> Latents {
    let x = try Latents(batch: 3, elements: 40)
    try normal(seed: 11, into: x.view)
    return x
  }

  @Test("Chunk by chunk, and from another host, gives the bits of the whole rollout")
  func chunkByChunk() throws {
    let sampler = try Sampler(Schedule.shifted(steps: 17, shift: 3))
    let noise = Noise.library(seed: 5, sampleIDs: [4, 9, 2])
    let whole = try sampler.rollout(from: initial().view, noise: noise, velocity: model)
    let parts = try Trajectory(sampler, initial: initial().view, noise: noise)
    for end in [2, 5, 9, 16, 17] { try parts.advance(to: end, velocity: model) }
    #expect(try parts.latents.values == whole.latents.values)
    #expect(parts.logProbs == whole.logProbs && parts.relativeL1 == whole.relativeL1)

    let elsewhere = try Trajectory(sampler, initial: whole.latents[9], noise: noise, position: 9)
    try elsewhere.advance(velocity: model)
    #expect(try elsewhere.latents.values.suffix(120) == whole.latents.values.suffix(120))
    for i in 0..<3 { #expect(elsewhere.logProbs[i * 16 + 9..<i * 16 + 16] == whole.logProbs[i * 16 + 9..<i * 16 + 16]) }
  }

  @Test("One's own noise for all steps, where it is the library's, gives the library's rollout")
  func givenNoise() throws {
    let sampler = try Sampler(Schedule.shifted(steps: 9, shift: 3))
    let whole = try sampler.rollout(from: initial().view, noise: .library(seed: 5), velocity: model)
    let noise = try Latents(steps: 9, batch: 3, elements: 40)
    for k in 0..<9 { try normal(seed: 5, step: k, into: noise[k]) }
    let given = try sampler.rollout(from: initial().view, noise: .given(noise.trajectory), velocity: model)
    #expect(try given.latents.values == whole.latents.values && given.logProbs == whole.logProbs)
    #expect(throws: ChunkGRPOError.self) {
      try Trajectory(sampler, initial: initial().view, noise: .given(noise[0]))  // one step for nine
    }
  }

  @Test("A second-order rollout goes on elsewhere with the image of the step before")
  func secondOrderElsewhere() throws {
    let sampler = try Sampler(Schedule.shifted(steps: 9, shift: 3), SamplerOptions { $0.dynamics = .dpmSDE })
    let whole = try sampler.rollout(from: initial().view, noise: .library(seed: 5), velocity: model)
    #expect(throws: ChunkGRPOError.self) {
      try Trajectory(sampler, initial: whole.latents[4], noise: .library(seed: 5), position: 4)
    }
    let (velocity, image) = (try Latents(batch: 3, elements: 40), try Latents(batch: 3, elements: 40))
    try model(3, sampler.schedule.sigmas[3], whole.latents[3], velocity.view)
    try sampler.predictedImage(3, latents: whole.latents[3], velocity: velocity.view, image: image.view)
    let elsewhere = try Trajectory(
      sampler, initial: whole.latents[4], noise: .library(seed: 5), position: 4, previousImage: image.view)
    try elsewhere.advance(velocity: model)
    #expect(try elsewhere.latents.values.suffix(5 * 120) == whole.latents.values.suffix(5 * 120))
  }

  @Test("Log-probabilities and relative L1 of a trajectory are those of its steps, taken again")
  func recomputation() throws {
    let sampler = try Sampler(Schedule.shifted(steps: 9, shift: 3))
    let velocities = try Latents(steps: 8, batch: 3, elements: 40)
    let trajectory = try sampler.rollout(from: initial().view, noise: .library(seed: 1)) { k, sigma, x, v in
      model(k, sigma, x, v)
      if k < 8 { try velocities[k].base.copyMemory(from: v.base, byteCount: 3 * 40 * 4) }
    }
    let again = try sampler.logProbs(
      firstStep: 0, latents: trajectory.latents.trajectory, velocities: velocities.trajectory)
    #expect(again == trajectory.logProbs)
    #expect(try relativeL1(Latents(batch: 3, elements: 2).trajectory).isEmpty)
    let change = try relativeL1(trajectory.latents.trajectory)
    for i in 0..<3 { #expect(Array(change[i * 9..<i * 9 + 8]) == Array(trajectory.relativeL1[i * 8..<i * 8 + 8])) }
  }

  @Test("A failing velocity leaves the position, and the same call can be made again")
  func failingVelocity() throws {
    let sampler = try Sampler(Schedule.shifted(steps: 9, shift: 3))
    let whole = try sampler.rollout(from: initial().view, noise: .library(seed: 1), velocity: model)
    let trajectory = try Trajectory(sampler, initial: initial().view, noise: .library(seed: 1))
    try trajectory.advance(to: 3, velocity: model)
    #expect(throws: Stop.self) {
      try trajectory.advance { k, sigma, x, v in
        if k == 6 { throw Stop() }
        model(k, sigma, x, v)
      }
    }
    #expect(trajectory.position == 3)
    try trajectory.advance(velocity: model)
    #expect(try trajectory.latents.values == whole.latents.values && trajectory.logProbs == whole.logProbs)
  }

  @Test("A rollout leaves the task that made it")
  func leavesItsTask() async throws {
    let trajectory = try await Task {
      let x = try Latents(batch: 3, elements: 40)
      try normal(seed: 11, into: x.view)
      return try Sampler(Schedule.shifted(steps: 9, shift: 3)).rollout(
        from: x.view, noise: .library(seed: 1), velocity: TrajectoryTests().model)
    }.value
    let here = try Sampler(Schedule.shifted(steps: 9, shift: 3)).rollout(
      from: initial().view, noise: .library(seed: 1), velocity: model)
    #expect(try trajectory.position == 9 && trajectory.latents.values == here.latents.values)
  }

  @Test("While one task advances a trajectory, another is refused, and may read what is done")
  func oneAtATime() throws {
    let trajectory = try Trajectory(
      Sampler(Schedule.shifted(steps: 9, shift: 3)), initial: initial().view, noise: .library(seed: 1))
    var refused: ChunkGRPOError?
    try trajectory.advance(to: 4) { k, sigma, x, v in
      if k == 2 { refused = error { try trajectory.advance(velocity: model) } }
      #expect(trajectory.position == 0)
      model(k, sigma, x, v)
    }
    #expect(refused?.message.contains("another") == true && trajectory.position == 4)
    try trajectory.advance(velocity: model)
    #expect(trajectory.position == 9)
  }
}
