import ChunkGRPO
import Testing

/// On the driver without a GPU (Tests/gpu/driver), which `make test-swift` has the tests find, or on a real one.
private let hasDriver = (try? prepareCUDA(device: 0)) != nil

@Suite("Latents on a CUDA device")
struct CUDALatentsTests {
  private let sampler: Sampler

  init() throws { sampler = try Sampler(Schedule.make(steps: 8, ScheduleOptions { $0.shift = 3 })) }

  private func latents(_ seed: UInt64, _ type: ElementType = .float32) throws -> Latents {
    let latents = try Latents(type: type, batch: 3, elements: 200)
    try normal(seed: seed, into: latents.view)
    return latents
  }

  @Test("A step and its gradient have the CPU's bits", .enabled(if: hasDriver), arguments: ElementType.allCases)
  func bits(type: ElementType) throws {
    let queue = try CUDAQueue.make(batch: 3, elements: 200)
    func there(_ latents: Latents) throws -> CUDALatents { try CUDALatents(latents, queue: queue) }
    let (x, v, next, gradient) = try (latents(1, type), latents(2, type), latents(3, type), latents(4, type))
    let (dx, dv, dnext, dgradient) = try (there(x), there(v), there(next), there(gradient))
    let (logProb, change) = try (CUDADoubles(count: 3), CUDADoubles(count: 3))
    let noise = Noise.library(seed: 5)
    let result = try sampler.step(
      2, latents: x.view, velocity: v.view, noise: noise, next: next.view, relativeL1: true)
    try sampler.step(
      2, latents: dx.view, velocity: dv.view, noise: noise, next: dnext.view, logProb: logProb, relativeL1: change)
    #expect(try logProb.values() == result.logProb && change.values() == result.relativeL1)
    #expect(try dnext.copied().values == next.values)
    let upstream = [1, -0.5, 0.25]
    try sampler.logProbVJP(
      2, latents: x.view, velocity: v.view, next: next.view, gradLogProb: upstream, gradVelocity: gradient.view)
    try sampler.logProbVJP(
      2, latents: dx.view, velocity: dv.view, next: dnext.view, gradLogProb: CUDADoubles(upstream),
      gradVelocity: dgradient.view)
    #expect(try dgradient.copied().values == gradient.values)
    try queue.checkFinite()
  }

  @Test("What is not finite is thrown once, where the host waits", .enabled(if: hasDriver))
  func finite() throws {
    let queue = try CUDAQueue.make(batch: 3, elements: 200)
    let x = try latents(1)
    try x.view.set(1, to: [Float](repeating: .nan, count: 200))
    let (dx, logProb) = try (CUDALatents(x, queue: queue), CUDADoubles(count: 3))
    try sampler.logProb(2, latents: dx.view, velocity: dx.view, next: dx.view, into: logProb)
    #expect(error { try queue.checkFinite() }?.message.contains("sample 1 at step 2") == true)
    try queue.checkFinite()
  }

  @Test("Arrays of the CPU and of a device do not mix", .enabled(if: hasDriver))
  func places() throws {
    let queue = try CUDAQueue.make(batch: 3, elements: 200)
    let x = try latents(1)
    let dx = try CUDALatents(x, queue: queue)
    func message(_ velocity: LatentsView) -> String? {
      error { _ = try sampler.logProb(2, latents: dx.view, velocity: velocity, next: dx.view) }?.message
    }
    #expect(message(x.view)?.contains("velocity lies in the CPU's memory") == true)
    #expect(message(dx.view)?.contains("log_prob is an address of the host") == true)
    #expect(error { _ = try dx.view[0] }?.code == .wrongType)
    #expect(error { _ = try diversity(dx.view) }?.code == .wrongType)
    #expect(error { _ = try sampler.rollout(from: dx.view, noise: nil) { _, _, _, _ in } }?.code == .wrongType)
  }

  @Test("Without a driver a sentence says so", .enabled(if: !hasDriver))
  func noDriver() throws {
    #expect(error { try prepareCUDA(device: 0) }?.code == .deviceFailed)
    #expect(error { _ = try CUDADoubles(count: 3) }?.message.contains("driver") == true)
  }
}
