import ChunkGRPO
import Testing

/// Arrays of a batch, and the same of one sample in place.
private struct Batch {
  let all: [LatentsView]
  let owners: [Latents]

  init(_ count: Int, _ type: ElementType, batch: Int, elements: Int, seed: UInt64) throws {
    owners = try (0..<count).map { i in
      let latents = try Latents(type: type, batch: batch, elements: elements)
      try normal(seed: seed, step: i, into: latents.view)
      return latents
    }
    all = owners.map(\.view)
  }

  func sample(_ i: Int) -> [LatentsView] {
    all.map {
      LatentsView(
        $0.base + i * $0.batchStride * $0.type.size, type: $0.type, batch: 1, elements: $0.elements, owner: $0.owner)
    }
  }

  var bits: [[UInt64]] { get throws { try owners.map { try $0.values.map(\.bitPattern) } } }
}

private func bits(_ values: [Double]) -> [UInt64] { values.map(\.bitPattern) }

@Suite("Batches of mixed steps")
struct MixedStepsTests {
  let steps = [3, 0, 7, 3]
  let guidances = [2.5, 1, 0, 4]
  let ids: [UInt64] = [9, 4, 4, 70]
  let upstream = [0.7, -1.3, 0.01, 2]

  /// Every function of one step, for the whole batch or for one sample of it: the numbers that it returns, in order.
  private func everything(
    _ sampler: Sampler, _ a: [LatentsView], step: Int, extras: (LatentsView) -> StepExtras, steps: [Int]?,
    ids: [UInt64], upstream: [Double]
  ) throws -> [[Double]] {
    let (x, v, u, h, next) = (a[0], a[1], a[2], a[3], a[4])
    let with = extras(u)
    let noise = Noise.library(seed: 5, sampleIDs: ids)
    var with2 = with
    with2.previousImage = h
    let taken = try sampler.step(
      step, latents: x, velocity: v, extras: with2, noise: noise, next: next, relativeL1: true)
    let again = try sampler.logProb(step, latents: x, velocity: v, extras: with2, next: next)
    let third = try sampler.logProbVJP(
      step, latents: x, velocity: v, extras: with2, next: next, gradLogProb: upstream, gradVelocity: a[5],
      gradUnconditional: a[6])
    try sampler.predictedImage(step, latents: x, velocity: v, extras: with2, image: a[7])
    var result = [taken.logProb, taken.relativeL1, again, third]
    for (i, kind) in Divergence.allCases.enumerated() {
      result.append(
        try sampler.divergence(kind, step, steps: steps, velocity: v, other: u, gradient: (upstream, a[8 + i])))
    }
    return result
  }

  private func check(_ sampler: Sampler, _ type: ElementType, elements: Int) throws {
    let mixed = try Batch(12, type, batch: 4, elements: elements, seed: 1)
    let alone = try Batch(12, type, batch: 4, elements: elements, seed: 1)
    let together = try everything(
      sampler, mixed.all, step: 0, extras: { StepExtras(unconditional: $0, steps: steps, guidances: guidances) },
      steps: steps, ids: ids, upstream: upstream)
    for i in 0..<4 {
      let own = try everything(
        sampler, alone.sample(i), step: steps[i], extras: { StepExtras(unconditional: $0, guidance: guidances[i]) },
        steps: nil, ids: [ids[i]], upstream: [upstream[i]])
      #expect(own.map { bits($0) } == together.map { bits([$0[i]]) })
    }
    #expect(try mixed.bits == alone.bits)
  }

  @Test("are their samples one by one, to the bit, in every storage type and sampler", arguments: ElementType.allCases)
  func oneByOne(type: ElementType) throws {
    for (dynamics, order) in [(Dynamics.flowSDE, 1), (.cps, 1), (.dpmSDE, 2), (.wanSDE, 1)] {
      var o = SamplerOptions()
      (o.dynamics, o.dpmOrder) = (dynamics, order)
      try check(Sampler(.shifted(steps: 9, shift: 3), o), type, elements: 1099)
    }
  }

  @Test("are the same on several threads", arguments: [1, 2, 5])
  func threads(count: Int) throws {
    try check(Sampler(.shifted(steps: 9, shift: 3), threads: count), .float32, elements: 50_001)
  }

  @Test("may mix deterministic steps in: their log-probability is 0, and they have no density")
  func deterministic() throws {
    var o = SamplerOptions()
    o.window = [2, 3]
    let sampler = try Sampler(.shifted(steps: 9, shift: 3), o)
    let extras = StepExtras(steps: [3, 5, 2])
    for type in ElementType.allCases {
      let (mixed, alone) = (
        try Batch(3, type, batch: 3, elements: 160, seed: 1), try Batch(3, type, batch: 3, elements: 160, seed: 1)
      )
      let a = mixed.all
      let taken = try sampler.step(
        0, latents: a[0], velocity: a[1], extras: extras, noise: .library(seed: 5), next: a[2])
      for (i, k) in [3, 5, 2].enumerated() {
        let own = alone.sample(i)
        let one = try sampler.step(
          k, latents: own[0], velocity: own[1], noise: .library(seed: 5, sampleIDs: [UInt64(i)]), next: own[2])
        #expect(bits(one.logProb) == bits([taken.logProb[i]]))
      }
      #expect(taken.logProb[1] == 0 && taken.logProb[0] != 0)
      #expect(try mixed.bits == alone.bits)
      let refused = error {
        _ = try sampler.logProb(0, latents: a[0], velocity: a[1], extras: extras, next: a[2])
      }
      #expect(refused?.message.contains("step 5 of sample 1 is deterministic") == true)
      let without = error {
        try sampler.step(0, latents: a[0], velocity: a[1], extras: extras, noise: nil, next: a[2])
      }
      #expect(without?.message.contains("step 3 of sample 0 is stochastic") == true)
    }
  }

  @Test("take each sample's own step of given noise", arguments: [ElementType.float32, .bfloat16])
  func givenNoise(type: ElementType) throws {
    let sampler = try Sampler(.shifted(steps: 9, shift: 3))
    let whole = try Latents(type: type, steps: 9, batch: 4, elements: 130)
    for k in 0..<9 { try normal(seed: 3, step: k, into: whole[k]) }
    let (mixed, alone) = (
      try Batch(3, type, batch: 4, elements: 130, seed: 1), try Batch(3, type, batch: 4, elements: 130, seed: 1)
    )
    let a = mixed.all
    try sampler.step(
      0, latents: a[0], velocity: a[1], extras: StepExtras(steps: steps), noise: .given(whole.trajectory), next: a[2])
    for i in 0..<4 {
      let own = alone.sample(i)
      let noise = try whole[steps[i]]
      try sampler.step(
        steps[i], latents: own[0], velocity: own[1],
        noise: .given(
          LatentsView(noise.base + i * 130 * type.size, type: type, batch: 1, elements: 130, owner: noise.owner)),
        next: own[2])
    }
    #expect(try mixed.bits == alone.bits)
    #expect(
      error {
        try sampler.step(
          0, latents: a[0], velocity: a[1], extras: StepExtras(steps: steps), noise: .given(whole.trajectory),
          next: whole[3])
      }?.message.contains("next_latents overlaps noise") == true)
  }

  @Test("have the divergence from what each sample's step has drawn", arguments: ElementType.allCases)
  func divergenceFromSampled(type: ElementType) throws {
    let sampler = try Sampler(.shifted(steps: 9, shift: 3))
    let (mixed, alone) = (
      try Batch(4, type, batch: 4, elements: 1099, seed: 1), try Batch(4, type, batch: 4, elements: 1099, seed: 1)
    )
    for kind in Divergence.allCases {
      let a = mixed.all
      let together = try sampler.divergenceFromSampled(
        kind, 0, steps: steps, latents: a[0], velocity: a[1], noise: .library(seed: 5, sampleIDs: ids), next: a[2],
        gradient: (upstream, a[3]))
      for i in 0..<4 {
        let own = alone.sample(i)
        let one = try sampler.divergenceFromSampled(
          kind, steps[i], latents: own[0], velocity: own[1], noise: .library(seed: 5, sampleIDs: [ids[i]]),
          next: own[2], gradient: ([upstream[i]], own[3]))
        #expect(bits(one) == bits([together[i]]))
      }
      #expect(try mixed.bits == alone.bits)
    }
  }

  @Test("of trajectories begin each sample at a step of its own", arguments: ElementType.allCases)
  func trajectories(type: ElementType) throws {
    let sampler = try Sampler(.shifted(steps: 40, shift: 3), threads: 2)
    // More steps than a pass takes.
    let (n, firsts) = (20, [5, 0, 18])
    let (x, v) = (
      try Latents(type: type, steps: n + 1, batch: 3, elements: 1099),
      try Latents(type: type, steps: n, batch: 3, elements: 1099)
    )
    for k in 0...n { try normal(seed: 1, step: k, into: x[k]) }
    for k in 0..<n { try normal(seed: 2, step: k, into: v[k]) }
    let (mixed, alone) = (
      try Latents(type: type, steps: n, batch: 3, elements: 1099),
      try Latents(type: type, steps: n, batch: 3, elements: 1099)
    )
    func one(_ t: TrajectoryView, _ i: Int) -> TrajectoryView {
      TrajectoryView(
        t.base + i * t.batchStride * t.type.size, type: t.type, batch: 1, count: t.count, elements: t.elements,
        batchStride: t.batchStride, stepStride: t.stepStride, owner: t.owner)
    }
    let upstream = try normals(3 * n, seed: 4)
    let together = try sampler.logProbs(firstSteps: firsts, latents: x.trajectory, velocities: v.trajectory)
    try sampler.logProbsVJP(
      firstSteps: firsts, latents: x.trajectory, velocities: v.trajectory, gradLogProbs: upstream,
      gradVelocities: mixed.trajectory)
    for (i, first) in firsts.enumerated() {
      let own = try sampler.logProbs(firstStep: first, latents: one(x.trajectory, i), velocities: one(v.trajectory, i))
      #expect(bits(own) == bits(Array(together[i * n..<(i + 1) * n])))
      try sampler.logProbsVJP(
        firstStep: first, latents: one(x.trajectory, i), velocities: one(v.trajectory, i),
        gradLogProbs: Array(upstream[i * n..<(i + 1) * n]), gradVelocities: one(alone.trajectory, i))
    }
    #expect(try bits(mixed.values) == bits(alone.values))
    func refused(_ firsts: [Int]?, first: Int = 0) -> String {
      error {
        _ = try sampler.logProbs(
          firstStep: first, firstSteps: firsts, latents: x.trajectory, velocities: v.trajectory)
      }?.message ?? ""
    }
    #expect(refused([5, 0, 21]).contains("first_steps[2] = 21 is outside 0 … 20"))
    #expect(refused([5, -1, 2]).contains("first_steps[1] = -1 is outside 0 … 20"))
    #expect(refused([5, 0]).contains("first_steps has 2 numbers for a batch of 3"))
    #expect(refused([5, 0, 1], first: 1).contains("first_step = 1"))
  }

  @Test("name the sample and its step where a number is not finite")
  func notFinite() throws {
    let sampler = try Sampler(.shifted(steps: 9, shift: 3))
    let batch = try Batch(3, .float32, batch: 4, elements: 20, seed: 1)
    try batch.all[1].floats(2)[7] = .nan
    let message = error {
      try sampler.step(
        0, latents: batch.all[0], velocity: batch.all[1], extras: StepExtras(steps: steps), noise: .library(seed: 1),
        next: batch.all[2])
    }?.message
    #expect(message?.contains("of sample 2 at step 7") == true)
  }

  @Test("are refused with what is wrong about their numbers")
  func refusals() throws {
    let sampler = try Sampler(.shifted(steps: 9, shift: 3))
    let batch = try Batch(4, .float32, batch: 4, elements: 20, seed: 1)
    let a = batch.all
    func message(_ extras: StepExtras, step: Int = 0) -> String {
      error {
        try sampler.step(
          step, latents: a[0], velocity: a[1], extras: extras, noise: .library(seed: 1), next: a[2])
      }?.message ?? ""
    }
    #expect(message(StepExtras(steps: [0, 1, 9, 2])).contains("steps[2] = 9 is outside 0 … 8"))
    #expect(message(StepExtras(steps: [0, -1, 3, 2])).contains("steps[1] = -1 is outside 0 … 8"))
    #expect(message(StepExtras(steps: [0, 1])).contains("steps has 2 numbers for a batch of 4"))
    #expect(message(StepExtras(steps: steps), step: 3).contains("step = 3, but steps has one per sample"))
    #expect(message(StepExtras(guidances: guidances)).contains("guidances needs the unconditional velocity"))
    #expect(
      message(StepExtras(unconditional: a[3], guidance: 2, guidances: guidances)).contains(
        "guidance = 2.0 and guidances"))
    #expect(
      message(StepExtras(unconditional: a[3], guidances: [1, .nan, 1, 1])).contains("guidances[1] = nan is not finite"))
    #expect(
      message(StepExtras(unconditional: a[3], guidances: [1])).contains("guidances has 1 numbers for a batch of 4"))
  }
}
