import ChunkGRPO
import Foundation
import Testing

/// On the driver without a GPU (Tests/gpu/driver), which `make test-swift` has the tests find, or on a real one.
private let hasDriver = (try? prepareCUDA(device: 0)) != nil

/// How many waits the driver without a GPU has counted since the last question.
private let waits: (@Sendable () -> Int)? = {
  guard let driver = dlopen("libcuda.so.1", RTLD_NOW), let found = dlsym(driver, "fake_count") else { return nil }
  let count = unsafeBitCast(found, to: (@convention(c) (Int32) -> Int32).self)
  return { Int(count(1)) }
}()

@Suite("Latents on a CUDA device", .serialized)
struct CUDALatentsTests {
  private let sampler: Sampler

  init() throws { sampler = try Sampler(Schedule.make(steps: 8, ScheduleOptions { $0.shift = 3 })) }

  private func latents(_ seed: UInt64, _ type: ElementType = .float32, steps: Int = 1) throws -> Latents {
    let latents = try Latents(type: type, steps: steps, batch: 3, elements: 1100)
    for step in 0..<steps { try normal(seed: seed, step: step, into: latents[step]) }
    return latents
  }

  /// Expects one result of `body` from latents of the CPU and from copies on a device.
  private func same(_ body: (_ put: (Latents) throws -> Latents) throws -> [[Double]]) throws {
    let queue = try CUDAQueue.make(batch: 6, elements: 1100, steps: 8)
    let here = try body { try $0.copied() }
    let there = try body { try $0.copied(to: queue) }
    #expect(here.map { $0.map(\.bitPattern) } == there.map { $0.map(\.bitPattern) })
    #expect(!here.isEmpty && here.allSatisfy { !$0.isEmpty && $0.contains { $0 != 0 } })
  }

  @Test("Steps have the CPU's bits", .enabled(if: hasDriver), arguments: ElementType.allCases)
  func steps(type: ElementType) throws {
    try same { put in
      let (x, v, u) = try (put(latents(1, type)), put(latents(2, type)), put(latents(3, type)))
      let (next, image) = try (put(latents(4, type)), put(latents(5, type)))
      let noises = try [
        Noise.library(seed: 5), .library(seed: 5, sampleIDs: [9, 2, 40]), .given(put(latents(6, type)).view),
      ]
      var results: [[Double]] = []
      for noise in noises {
        let guided = StepExtras(unconditional: u.view, steps: [0, 3, 6], guidances: [1, 2.5, 4])
        for (k, extras) in [(2, StepExtras()), (2, StepExtras(unconditional: u.view, guidance: 3)), (0, guided)] {
          let result = try sampler.step(
            k, latents: x.view, velocity: v.view, extras: extras, noise: noise, next: next.view, relativeL1: true)
          try sampler.predictedImage(k, latents: x.view, velocity: v.view, extras: extras, image: image.view)
          results += try [result.logProb, result.relativeL1, next.values, image.values]
        }
      }
      try normal(seed: 3, sampleIDs: [4, 4, 5], step: 2, into: image.view)
      return try results + [image.values]
    }
  }

  @Test("Log-probabilities and gradients have the CPU's bits", .enabled(if: hasDriver), arguments: ElementType.allCases)
  func gradients(type: ElementType) throws {
    try same { put in
      let (x, v, u) = try (put(latents(1, type)), put(latents(2, type)), put(latents(3, type)))
      let (next, gradient, other) = try (put(latents(4, type)), put(latents(5, type)), put(latents(6, type)))
      var results: [[Double]] = []
      for extras in [StepExtras(), StepExtras(unconditional: u.view, guidance: 3), StepExtras(steps: [0, 3, 6])] {
        let k = extras.unconditional == nil ? 0 : 2
        let guided = extras.unconditional == nil ? nil : other.view
        results += try [
          sampler.logProb(k, latents: x.view, velocity: v.view, extras: extras, next: next.view),
          sampler.logProbVJP(
            k, latents: x.view, velocity: v.view, extras: extras, next: next.view, gradLogProb: [1, -0.5, 0.25],
            gradVelocity: gradient.view, gradUnconditional: guided),
          gradient.values, other.values,
        ]
      }
      return results
    }
  }

  @Test("Velocities of 16 bits beside f32 latents have the CPU's bits", .enabled(if: hasDriver))
  func mixedTypes() throws {
    try same { put in
      var results: [[Double]] = []
      for type in [ElementType.bfloat16, .float16] {
        let (x, v) = try (put(latents(1)), put(latents(2, type)))
        let (next, gradient) = try (put(latents(4)), put(latents(5, type)))
        let result = try sampler.step(
          2, latents: x.view, velocity: v.view, noise: .library(seed: 5), next: next.view)
        try sampler.logProbVJP(
          2, latents: x.view, velocity: v.view, next: next.view, gradLogProb: [1, -0.5, 0.25],
          gradVelocity: gradient.view)
        results += try [result.logProb, next.values, gradient.values]
        results.append(
          try forwardDistance(
            clean: x.view, velocity: v.view, noise: .library(seed: 1),
            gradient: (.init(distance: [1, 2, 3]), gradient.view)
          ).distance)
        results.append(try gradient.values)
      }
      return results
    }
  }

  @Test("Trajectories have the CPU's bits", .enabled(if: hasDriver), arguments: ElementType.allCases)
  func trajectories(type: ElementType) throws {
    try same { put in
      let (x, v) = try (put(latents(1, type, steps: 4)), put(latents(2, type, steps: 3)))
      let gradients = try put(latents(3, type, steps: 3))
      var results: [[Double]] = []
      for firsts in [nil, [0, 2, 4]] {
        let first = firsts == nil ? 1 : 0
        results.append(
          try sampler.logProbs(
            firstStep: first, firstSteps: firsts, latents: x.trajectory, velocities: v.trajectory))
        try sampler.logProbsVJP(
          firstStep: first, firstSteps: firsts, latents: x.trajectory, velocities: v.trajectory,
          gradLogProbs: [1, 2, 3, -1, -2, -3, 0.5, 0.25, 4], gradVelocities: gradients.trajectory)
        results.append(try gradients.values)
      }
      return try results + [relativeL1(x.trajectory)]
    }
  }

  @Test("A rollout, its parts and its forks have the CPU's bits", .enabled(if: hasDriver), arguments: [1, 2])
  func rollouts(order: Int) throws {
    let sampler = try Sampler(
      Schedule.make(steps: 8, ScheduleOptions { $0.shift = 3 }),
      SamplerOptions {
        if order == 2 { ($0.dynamics, $0.dpmOrder) = (.dpmSDE, 2) }
      })
    try same { put in
      func velocity(step: Int, sigma: Double, x: LatentsView, v: LatentsView) throws {
        try sampler.predictedImage(step, latents: x, velocity: x, image: v)
      }
      let initial = try put(latents(1))
      let trajectory = try Trajectory(sampler, initial: initial.view, noise: .library(seed: 4))
      try trajectory.advance(to: 3, velocity: velocity)
      let early = trajectory.logProbs
      try trajectory.advance(velocity: velocity)
      #expect(trajectory.position == 8)
      var results = try [early, trajectory.logProbs, trajectory.relativeL1, trajectory.latents.values]
      let forked = try trajectory.fork(at: order == 2 ? 0 : 2, branches: 2)
      try forked.advance(velocity: velocity)
      results += try [forked.logProbs, forked.latents.values]
      return results
    }
  }

  @Test("Divergences have the CPU's bits", .enabled(if: hasDriver), arguments: Divergence.allCases)
  func divergences(kind: Divergence) throws {
    try same { put in
      let (x, v, w) = try (put(latents(1)), put(latents(2)), put(latents(3)))
      let (next, gradient) = try (put(latents(4)), put(latents(5)))
      var results: [[Double]] = []
      for steps in [nil, [0, 2, 4]] {
        let (k, upstream) = (steps == nil ? 2 : 0, [1, -0.5, 0.25])
        results.append(
          try sampler.divergence(
            kind, k, steps: steps, velocity: v.view, other: w.view, gradient: (upstream, gradient.view)))
        results.append(try gradient.values)
        results.append(
          try sampler.divergenceFromSampled(
            kind, k, steps: steps, latents: x.view, velocity: v.view, noise: .library(seed: 3), next: next.view,
            gradient: (upstream, gradient.view)))
        results.append(try gradient.values)
      }
      return results
    }
  }

  @Test("The forward process has the CPU's bits", .enabled(if: hasDriver), arguments: ElementType.allCases)
  func forward(type: ElementType) throws {
    let noise = Noise.library(seed: 3, sampleIDs: [7, 5, 6])
    try same { put in
      let (clean, v, gradient) = try (put(latents(1, type)), put(latents(2, type)), put(latents(3, type)))
      let (old, reference) = try (put(latents(4, type)), put(latents(5, type)))
      try forwardNoised(clean: clean.view, times: [0.1, 0.5, 1], noise: noise, draw: 2, into: gradient.view)
      let noised = try gradient.values
      let extras = ForwardExtras(oldVelocity: old.view, referenceVelocity: reference.view, nftBeta: 0.3)
      let upstream = ForwardGradients(
        distance: [1, 2, 3], positiveDistance: [1, -1, 2], negativeDistance: [0.5, 1, 0], oldDivergence: [1, 1, 1],
        referenceDivergence: [-1, 0, 1])
      let d = try forwardDistance(
        clean: clean.view, velocity: v.view, noise: noise, draw: 2, extras: extras, gradient: (upstream, gradient.view))
      let alone = try forwardDistance(clean: clean.view, velocity: v.view, noise: noise, draw: 2)
      #expect(alone.oldDistance.isEmpty)
      return try [
        noised, d.distance, d.absolute, d.oldDistance, d.oldAbsolute, d.referenceDistance, d.positiveDistance,
        d.positiveAbsolute, d.negativeDistance, d.negativeAbsolute, d.oldDivergence, d.referenceDivergence,
        gradient.values, alone.distance, alone.absolute,
      ]
    }
  }

  /// Runs calls whose numbers stay on the device, and expects that none waits.
  private func withoutWaiting(_ queue: CUDAQueue, _ body: () throws -> Void) throws {
    _ = waits?()
    try body()
    if let waits { #expect(waits() == 0) }
    try queue.checkFinite()
  }

  @Test("Calls whose numbers stay on the device do not wait, and give the same: steps", .enabled(if: hasDriver))
  func staysOfSteps() throws {
    let queue = try CUDAQueue.make(batch: 3, elements: 1100)
    let (hx, hv, hw, hnext) = try (latents(1), latents(2), latents(3), latents(4))
    func put(_ latents: Latents) throws -> Latents { try latents.copied(to: queue) }
    let (x, v, w, next) = try (put(hx), put(hv), put(hw), put(hnext))
    let gradients = try (0..<3).map { _ in try put(hx) }
    let numbers = try (0..<5).map { _ in try CUDADoubles(count: 3) }
    let (up, noise) = (try CUDADoubles([1, 2, 3]), Noise.library(seed: 5))
    try withoutWaiting(queue) {
      try sampler.step(
        2, latents: x.view, velocity: v.view, noise: noise, next: next.view, logProb: numbers[0],
        relativeL1: numbers[1])
      try sampler.logProb(2, latents: x.view, velocity: v.view, next: next.view, into: numbers[2])
      try sampler.logProbVJP(
        2, latents: x.view, velocity: v.view, next: next.view, gradLogProb: up, gradVelocity: gradients[0].view)
      try sampler.divergence(
        .mean, 2, velocity: v.view, other: w.view, gradient: (up, gradients[1].view), into: numbers[3])
      try sampler.divergenceFromSampled(
        .mean, 2, latents: x.view, velocity: v.view, noise: noise, next: w.view, gradient: (up, gradients[2].view),
        into: numbers[4])
    }
    let g = try latents(5)
    func expect(_ gradient: Latents) throws { #expect(try gradient.values == g.values) }
    let step = try sampler.step(
      2, latents: hx.view, velocity: hv.view, noise: noise, next: hnext.view, relativeL1: true)
    #expect(try numbers[0].values() == step.logProb && numbers[1].values() == step.relativeL1)
    let logProb = try sampler.logProbVJP(
      2, latents: hx.view, velocity: hv.view, next: hnext.view, gradLogProb: [1, 2, 3], gradVelocity: g.view)
    #expect(try numbers[2].values() == logProb)
    try expect(gradients[0])
    let divergence = try sampler.divergence(
      .mean, 2, velocity: hv.view, other: hw.view, gradient: ([1, 2, 3], g.view))
    #expect(try numbers[3].values() == divergence)
    try expect(gradients[1])
    let sampled = try sampler.divergenceFromSampled(
      .mean, 2, latents: hx.view, velocity: hv.view, noise: noise, next: hw.view, gradient: ([1, 2, 3], g.view))
    #expect(try numbers[4].values() == sampled)
    try expect(gradients[2])
  }

  @Test("Calls whose numbers stay on the device do not wait, and give the same: rollouts", .enabled(if: hasDriver))
  func staysOfTrajectories() throws {
    let queue = try CUDAQueue.make(batch: 3, elements: 1100, steps: 8)
    let (hpath, hvelocities, initial) = try (latents(1, steps: 4), latents(2, steps: 3), latents(6))
    let (path, velocities) = try (hpath.copied(to: queue), hvelocities.copied(to: queue))
    let (gradients, whole) = try (velocities.copied(to: queue), latents(6, steps: 9).copied(to: queue))
    let (logProbs, change, rolled, rolledChange) = try (
      CUDADoubles(count: 9), CUDADoubles(count: 9), CUDADoubles(count: 21), CUDADoubles(count: 21)
    )
    let upstream = (1...9).map(Double.init)
    let up = try CUDADoubles(upstream)
    func velocity(step: Int, sigma: Double, x: LatentsView, v: LatentsView) throws {
      try sampler.predictedImage(step, latents: x, velocity: x, image: v)
    }
    try withoutWaiting(queue) {
      try sampler.logProbs(latents: path.trajectory, velocities: velocities.trajectory, into: logProbs)
      try sampler.logProbsVJP(
        latents: path.trajectory, velocities: velocities.trajectory, gradLogProbs: up,
        gradVelocities: gradients.trajectory)
      try relativeL1(path.trajectory, into: change)
      try sampler.rollout(
        whole.trajectory, noise: .library(seed: 5), logProbs: rolled, relativeL1: rolledChange, velocity: velocity)
    }
    #expect(
      try logProbs.values() == sampler.logProbs(latents: hpath.trajectory, velocities: hvelocities.trajectory))
    let g = try latents(1, steps: 3)
    try sampler.logProbsVJP(
      latents: hpath.trajectory, velocities: hvelocities.trajectory, gradLogProbs: upstream,
      gradVelocities: g.trajectory)
    #expect(try gradients.values == g.values)
    #expect(try change.values() == relativeL1(hpath.trajectory))
    try normal(seed: 6, step: 0, into: initial.view)
    let rollout = try sampler.rollout(from: initial.view, noise: .library(seed: 5), velocity: velocity)
    #expect(try rolled.values() == rollout.logProbs && rolledChange.values() == rollout.relativeL1)
    #expect(try whole.values == rollout.latents.values)
  }

  @Test("Calls whose numbers stay on the device do not wait, and give the same: distances", .enabled(if: hasDriver))
  func staysOfDistances() throws {
    let queue = try CUDAQueue.make(batch: 3, elements: 1100)
    let (hx, hv, hw, g) = try (latents(1), latents(2), latents(3), latents(4))
    let (x, v, w) = try (hx.copied(to: queue), hv.copied(to: queue), hw.copied(to: queue))
    let (noised, gradient) = try (hx.copied(to: queue), hx.copied(to: queue))
    let (up, times) = try (CUDADoubles([1, 2, 3]), CUDADoubles([0.1, 0.2, 1]))
    let noise = Noise.library(seed: 5)
    var wanted = ForwardDistances<CUDADoubles?>()
    let (distance, old) = try (CUDADoubles(count: 3), CUDADoubles(count: 3))
    (wanted.distance, wanted.oldDivergence) = (distance, old)
    try withoutWaiting(queue) {
      try forwardNoised(clean: x.view, times: times, noise: noise, into: noised.view)
      try forwardDistance(
        clean: x.view, velocity: v.view, noise: noise, extras: ForwardExtras(oldVelocity: w.view),
        gradient: (ForwardGradients(oldDivergence: up), gradient.view), into: wanted)
    }
    try forwardNoised(clean: hx.view, times: [0.1, 0.2, 1], noise: noise, into: g.view)
    #expect(try noised.values == g.values)
    let d = try forwardDistance(
      clean: hx.view, velocity: hv.view, noise: noise, extras: ForwardExtras(oldVelocity: hw.view),
      gradient: (ForwardGradients(oldDivergence: [1, 2, 3]), g.view))
    #expect(try distance.values() == d.distance && old.values() == d.oldDivergence)
    #expect(try gradient.values == g.values)
  }

  @Test("Seed and ids in a device's memory are read by the kernels", .enabled(if: hasDriver))
  func seeds() throws {
    func there(_ bits: [UInt64]) throws -> Latents {
      try Latents(bits.map { Double(bitPattern: $0) }, batch: 1).copied(to: CUDAQueue())
    }
    let (seed, ids) = try (there([11]), there([3, 8, 2]))
    let queue = CUDAQueue(
      seed: UnsafePointer(seed.view.base.assumingMemoryBound(to: UInt64.self)),
      sampleIDs: UnsafePointer(ids.view.base.assumingMemoryBound(to: UInt64.self)))
    let (out, expected) = try (latents(1).copied(to: queue), latents(1))
    try normal(seed: 0, step: 2, into: out.view)
    try normal(seed: 11, sampleIDs: [3, 8, 2], step: 2, into: expected.view)
    #expect(try out.values == expected.values)
  }

  @Test("What is not finite is thrown once, where the host waits", .enabled(if: hasDriver))
  func finite() throws {
    let queue = try CUDAQueue.make(batch: 3, elements: 1100)
    let x = try latents(1)
    try x.view.set(1, to: [Float](repeating: .nan, count: 1100))
    let (dx, logProb) = try (x.copied(to: queue), CUDADoubles(count: 3))
    try sampler.logProb(2, latents: dx.view, velocity: dx.view, next: dx.view, into: logProb)
    #expect(error { try queue.checkFinite() }?.message.contains("sample 1 at step 2") == true)
    try queue.checkFinite()
    let thrown = error { _ = try sampler.logProb(2, latents: dx.view, velocity: dx.view, next: dx.view) }
    #expect(thrown?.code == .nonFinite && thrown?.message.contains("sample 1 at step 2") == true)
    let trajectory = try Trajectory(sampler, initial: dx.view, noise: .library(seed: 1))
    #expect(error { try trajectory.advance { _, _, _, _ in } }?.code == .nonFinite)
    #expect(trajectory.position == 0)
  }

  @Test("Without a status word a result that is not finite is thrown too", .enabled(if: hasDriver))
  func finiteWithoutStatus() throws {
    let own = try CUDAQueue.make(batch: 3, elements: 1100)
    let queue = CUDAQueue(workspace: own.workspace, workspaceSize: own.workspaceSize)
    let x = try latents(1)
    try x.view.set(2, to: [Float](repeating: .infinity, count: 1100))
    let dx = try x.copied(to: queue)
    let thrown = error { _ = try sampler.logProb(2, latents: dx.view, velocity: dx.view, next: dx.view) }
    #expect(thrown?.code == .nonFinite && thrown?.message.contains("sample 2") == true)
    withExtendedLifetime(own) {}
  }

  @Test("Arrays of the CPU and of a device do not mix", .enabled(if: hasDriver))
  func places() throws {
    let queue = try CUDAQueue.make(batch: 3, elements: 1100)
    let x = try latents(1)
    let dx = try x.copied(to: queue)
    func message(_ latents: LatentsView, _ velocity: LatentsView) -> String? {
      error { _ = try sampler.logProb(2, latents: latents, velocity: velocity, next: latents) }?.message
    }
    #expect(message(dx.view, x.view)?.contains("velocity lies in the CPU's memory") == true)
    let numbers = try CUDADoubles(count: 3)
    let here = error { try sampler.logProb(2, latents: x.view, velocity: x.view, next: x.view, into: numbers) }
    #expect(here?.code == .wrongType && here?.message.contains("log_prob lies on a CUDA device") == true)
    let few = try CUDADoubles(count: 2)
    #expect(
      error { try sampler.logProb(2, latents: dx.view, velocity: dx.view, next: dx.view, into: few) }?.message
        .contains("log_prob has 2 numbers for a batch of 3") == true)
    #expect(error { _ = try dx.view[0] }?.code == .wrongType)
    #expect(error { _ = try diversity(dx.view) }?.code == .wrongType)
    #expect(
      error { _ = try Trajectory(sampler, initial: dx.view, noise: nil, position: 2, previousImage: x.view) }?.code
        == .wrongType)
  }

  @Test("Memory of a second device", .enabled(if: hasDriver))
  func second() throws {
    guard let queue = try? CUDAQueue.make(batch: 3, elements: 1100, device: 1) else { return }
    let x = try latents(1)
    let dx = try x.copied(to: queue)
    #expect(try dx.copied().values == x.values)
    #expect(
      try sampler.logProb(2, latents: dx.view, velocity: dx.view, next: dx.view)
        == sampler.logProb(2, latents: x.view, velocity: x.view, next: x.view))
    let elsewhere = try CUDADoubles(count: 3)
    #expect(
      error { try sampler.logProb(2, latents: dx.view, velocity: dx.view, next: dx.view, into: elsewhere) }?.message
        .contains("log_prob is memory of CUDA device 0") == true)
  }

  @Test("Without a driver a sentence says so", .enabled(if: !hasDriver))
  func noDriver() throws {
    #expect(error { try prepareCUDA(device: 0) }?.code == .deviceFailed)
    #expect(error { _ = try CUDADoubles(count: 3) }?.message.contains("driver") == true)
  }
}
