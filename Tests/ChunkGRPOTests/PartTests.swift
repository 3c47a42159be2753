import ChunkGRPO
import Testing

/// A sampler's arrays of whole samples, and the shards that a cut makes of them.
private struct Case {
  static let (batch, elements, steps) = (2, 40_000, 4)
  let type: ElementType
  let sampler: Sampler
  let latents, velocities, next, other: Latents

  init(_ type: ElementType) throws {
    self.type = type
    sampler = try Sampler(.shifted(steps: Case.steps, shift: 3))
    func random(_ seed: UInt64) throws -> Latents {
      let latents = try Latents(type: type, batch: Case.batch, elements: Case.elements)
      try normal(seed: seed, into: latents.view)
      return latents
    }
    (latents, velocities, other) = (try random(1), try random(2), try random(3))
    next = try Latents(type: type, batch: Case.batch, elements: Case.elements)
  }

  static func shards(_ cuts: [Int]) -> [Range<Int>] { zip([0] + cuts, cuts + [elements]).map { $0..<$1 } }

  /// The elements `range` of whole samples, where they lie.
  static func shard(_ whole: Latents, _ range: Range<Int>, _ part: UnsafePointer<Part>) -> LatentsView {
    let view = whole.view
    return LatentsView(
      view.base + range.lowerBound * bytes(view.type), type: view.type, batch: batch, elements: range.count,
      batchStride: elements, owner: whole
    ).with(part)
  }

  static func bytes(_ type: ElementType) -> Int { type == .float64 ? 8 : type == .float32 ? 4 : 2 }

  /// The numbers that a call gives once it has been made for every shard, with the sums of all.
  static func numbers<R>(
    _ cuts: [Int], sums: Int, _ call: (UnsafePointer<Part>, Range<Int>) throws -> R
  ) throws -> R {
    let blocks = (elements - 1) / 1024 + 1
    var total = [Double](repeating: 0, count: sums * batch * blocks)
    for range in shards(cuts) {
      var own = [Double](repeating: .nan, count: total.count)
      try own.withUnsafeMutableBufferPointer {
        let part = Part(first: range.lowerBound, total: elements, sums: $0.baseAddress)
        _ = try withUnsafePointer(to: part) { try call($0, range) }
      }
      for i in total.indices { total[i] += own[i] }
    }
    return try total.withUnsafeMutableBufferPointer {
      let range = shards(cuts)[0]
      let part = Part(first: 0, total: elements, sums: $0.baseAddress, isReduced: true)
      return try withUnsafePointer(to: part) { try call($0, range) }
    }
  }
}

private let cuts = [
  [], [16_384], [1024], [20_480, 30_720], [1024, 2048, 39_936], [777], [5, 16_385], [13_000, 26_001, 39_999],
]

@Suite("Part")
struct PartTests {
  @Test("The noise of a shard is that of the whole, to the bit, wherever it is cut", arguments: ElementType.allCases)
  func noiseOfShards(_ type: ElementType) throws {
    let whole = try Latents(type: type, batch: Case.batch, elements: Case.elements)
    try normal(seed: 9, sampleIDs: [4, 8], step: 2, into: whole.view)
    for cuts in cuts {
      let parts = try Latents(type: type, batch: Case.batch, elements: Case.elements)
      for range in Case.shards(cuts) {
        let part = Part(first: range.lowerBound, total: Case.elements)
        try withUnsafePointer(to: part) {
          try normal(seed: 9, sampleIDs: [4, 8], step: 2, threads: 2, into: Case.shard(parts, range, $0))
        }
      }
      #expect(try parts.values == whole.values, "cut at \(cuts)")
    }
  }

  @Test(
    "A step in shards gives the next latents to the bit, and its numbers to the bit at whole blocks",
    arguments: ElementType.allCases)
  func stepOfShards(_ type: ElementType) throws {
    let c = try Case(type)
    let noise = Noise.library(seed: 5)
    let whole = try c.sampler.step(
      1, latents: c.latents.view, velocity: c.velocities.view, noise: noise, next: c.next.view, relativeL1: true)
    for cuts in cuts {
      let next = try Latents(type: type, batch: Case.batch, elements: Case.elements)
      let result = try Case.numbers(cuts, sums: 3) { part, range in
        try c.sampler.step(
          1, latents: Case.shard(c.latents, range, part), velocity: Case.shard(c.velocities, range, part), noise: noise,
          next: Case.shard(next, range, part), relativeL1: true)
      }
      #expect(try next.values == c.next.values, "cut at \(cuts)")
      if cuts.allSatisfy({ $0 % 1024 == 0 }) {
        #expect(result == whole, "cut at \(cuts)")
      } else {
        for (a, b) in zip(result.logProb + result.relativeL1, whole.logProb + whole.relativeL1) {
          #expect(abs(a - b) < (type == .float64 ? 1e-12 : 2e-8), "cut at \(cuts)")
        }
      }
    }
  }

  @Test(
    "Log-probabilities, divergences and distances of shards have the bits of the whole's",
    arguments: ElementType.allCases)
  func numbersOfShards(_ type: ElementType) throws {
    let c = try Case(type)
    let noise = Noise.library(seed: 5)
    try c.sampler.step(1, latents: c.latents.view, velocity: c.velocities.view, noise: noise, next: c.next.view)
    for cuts in cuts.prefix(5) {
      func whole(_ latents: Latents) -> LatentsView { latents.view }
      let logProb = try Case.numbers(cuts, sums: 1) { part, range in
        try c.sampler.logProb(
          1, latents: Case.shard(c.latents, range, part), velocity: Case.shard(c.other, range, part),
          next: Case.shard(c.next, range, part))
      }
      #expect(
        try logProb == c.sampler.logProb(1, latents: c.latents.view, velocity: c.other.view, next: c.next.view))
      let divergence = try Case.numbers(cuts, sums: 1) { part, range in
        try c.sampler.divergence(
          .gaussian, 1, velocity: Case.shard(c.velocities, range, part), other: Case.shard(c.other, range, part))
      }
      #expect(try divergence == c.sampler.divergence(.gaussian, 1, velocity: c.velocities.view, other: c.other.view))
      let sampled = try Case.numbers(cuts, sums: 1) { part, range in
        try c.sampler.divergenceFromSampled(
          .gaussian, 1, latents: Case.shard(c.latents, range, part), velocity: Case.shard(c.other, range, part),
          noise: noise, next: Case.shard(c.next, range, part))
      }
      #expect(
        try sampled
          == c.sampler.divergenceFromSampled(
            .gaussian, 1, latents: c.latents.view, velocity: c.other.view, noise: noise, next: c.next.view))
      let distances = try Case.numbers(cuts, sums: 11) { part, range in
        try forwardDistance(
          clean: Case.shard(c.latents, range, part), velocity: Case.shard(c.velocities, range, part), noise: noise,
          extras: ForwardExtras(
            oldVelocity: Case.shard(c.other, range, part), referenceVelocity: Case.shard(c.next, range, part),
            nftBeta: 0.7))
      }
      #expect(
        try distances
          == forwardDistance(
            clean: c.latents.view, velocity: c.velocities.view, noise: noise,
            extras: ForwardExtras(oldVelocity: c.other.view, referenceVelocity: c.next.view, nftBeta: 0.7)))
    }
  }

  @Test("A trajectory's log-probabilities and relative L1 are those of its shards")
  func trajectoryOfShards() throws {
    let (n, elements) = (3, Case.elements)
    let sampler = try Sampler(.shifted(steps: Case.steps, shift: 3))
    let latents = try Latents(steps: n + 1, batch: Case.batch, elements: elements)
    let velocities = try Latents(steps: n, batch: Case.batch, elements: elements)
    for t in 0...n { try normal(seed: 1, step: t, into: latents[t]) }
    for t in 0..<n { try normal(seed: 2, step: t, into: velocities[t]) }
    func shard(_ whole: Latents, _ range: Range<Int>, _ part: UnsafePointer<Part>) -> TrajectoryView {
      let view = whole.trajectory
      return TrajectoryView(
        view.base + 4 * range.lowerBound, type: view.type, batch: view.batch, count: view.count, elements: range.count,
        batchStride: view.batchStride, stepStride: view.stepStride, owner: whole
      ).with(part)
    }
    let logProbs = try sampler.logProbs(latents: latents.trajectory, velocities: velocities.trajectory)
    let curve = try relativeL1(latents.trajectory)
    for cuts in cuts.prefix(5) {
      #expect(
        try logProbs
          == Case.numbers(cuts, sums: n) { part, range in
            try sampler.logProbs(latents: shard(latents, range, part), velocities: shard(velocities, range, part))
          })
      #expect(
        try curve == Case.numbers(cuts, sums: 2 * n) { try relativeL1(shard(latents, $1, $0)) })
    }
  }

  @Test("The gradients of shards are those of the whole, to the bit, and need no sums", arguments: ElementType.allCases)
  func gradientsOfShards(_ type: ElementType) throws {
    let c = try Case(type)
    let noise = Noise.library(seed: 5)
    try c.sampler.step(1, latents: c.latents.view, velocity: c.velocities.view, noise: noise, next: c.next.view)
    let extras = ForwardExtras(oldVelocity: c.other.view, referenceVelocity: c.next.view, nftBeta: 0.7)
    let upstream = ForwardGradients(distance: [3, 1], positiveDistance: [1, -2], referenceDivergence: [0.5, 1])
    func gradients(_ view: (Latents) -> LatentsView) throws -> [[Double]] {
      let out = try (0..<4).map { _ in try Latents(type: type, batch: Case.batch, elements: Case.elements) }
      try gradients(into: out, view)
      return try out.map { try $0.values }
    }
    func gradients(into out: [Latents], _ view: (Latents) -> LatentsView) throws {
      try c.sampler.logProbVJP(
        1, latents: view(c.latents), velocity: view(c.other), next: view(c.next), gradLogProb: [7, -300],
        gradVelocity: view(out[0]))
      try c.sampler.divergence(
        .mean, 1, velocity: view(c.velocities), other: view(c.other), gradient: ([2, -5], view(out[1])))
      var extras = extras
      extras.oldVelocity = view(c.other)
      extras.referenceVelocity = view(c.next)
      try forwardDistance(
        clean: view(c.latents), velocity: view(c.velocities), noise: noise, extras: extras,
        gradient: (upstream, view(out[2])))
      try forwardDistance(
        clean: view(c.latents), velocity: view(c.velocities), noise: noise,
        gradient: (ForwardGradients(distance: [3, 1]), view(out[3])))
    }
    let whole = try gradients { $0.view }
    for cuts in cuts {
      let out = try (0..<4).map { _ in try Latents(type: type, batch: Case.batch, elements: Case.elements) }
      for range in Case.shards(cuts) {
        let part = Part(first: range.lowerBound, total: Case.elements)
        try withUnsafePointer(to: part) { part in try gradients(into: out) { Case.shard($0, range, part) } }
      }
      #expect(try out.map { try $0.values } == whole, "cut at \(cuts)")
    }
  }

  @Test(
    "A ragged batch equals its samples one by one, cut to their length; beyond it nothing is read or drawn",
    arguments: ElementType.allCases)
  func raggedBatch(_ type: ElementType) throws {
    let c = try Case(type)
    let lengths = [17_001, 1500]
    // What does not count is not a number; the latents there stay.
    for (velocity, length) in [(c.velocities, lengths), (c.other, lengths)] {
      for sample in 0..<Case.batch { poison(velocity, sample, from: length[sample]) }
    }
    let noise = Noise.library(seed: 5, sampleIDs: [3, 9])
    try lengths.withUnsafeBufferPointer {
      let part = Part(lengths: $0.baseAddress)
      try withUnsafePointer(to: part) { part in
        let gradient = try Latents(type: type, batch: Case.batch, elements: Case.elements)
        let noised = try Latents(type: type, batch: Case.batch, elements: Case.elements)
        let step = try c.sampler.step(
          1, latents: c.latents.view.with(part), velocity: c.velocities.view.with(part), noise: noise,
          next: c.next.view.with(part), relativeL1: true)
        let logProb = try c.sampler.logProbVJP(
          1, latents: c.latents.view.with(part), velocity: c.other.view.with(part), next: c.next.view.with(part),
          gradLogProb: [2, 3], gradVelocity: gradient.view.with(part))
        let distance = try forwardDistance(
          clean: c.latents.view.with(part), velocity: c.other.view.with(part), noise: noise)
        try forwardNoised(
          clean: c.latents.view.with(part), times: [0.3, 0.6], noise: noise, into: noised.view.with(part))
        for sample in 0..<Case.batch {
          let own = Noise.library(seed: 5, sampleIDs: [[3, 9][sample]])
          func cut(_ latents: Latents) -> LatentsView {
            let view = latents.view
            return LatentsView(
              view.base + sample * Case.elements * Case.bytes(type), type: type, batch: 1, elements: lengths[sample],
              owner: latents)
          }
          let next = try Latents(type: type, batch: 1, elements: lengths[sample])
          let alone = try c.sampler.step(
            1, latents: cut(c.latents), velocity: cut(c.velocities), noise: own, next: next.view, relativeL1: true)
          #expect(alone.logProb[0] == step.logProb[sample] && alone.relativeL1[0] == step.relativeL1[sample])
          #expect(try values(c.next, sample) == next.values + values(c.latents, sample)[lengths[sample]...])
          let grad = try Latents(type: type, batch: 1, elements: lengths[sample])
          let aloneLogProb = try c.sampler.logProbVJP(
            1, latents: cut(c.latents), velocity: cut(c.other), next: next.view, gradLogProb: [[2, 3][sample]],
            gradVelocity: grad.view)
          #expect(aloneLogProb[0] == logProb[sample])
          #expect(
            try values(gradient, sample)
              == grad.values + [Double](repeating: 0, count: Case.elements - lengths[sample]))
          #expect(
            try forwardDistance(clean: cut(c.latents), velocity: cut(c.other), noise: own).distance[0]
              == distance.distance[sample])
          try forwardNoised(clean: cut(c.latents), times: [[0.3, 0.6][sample]], noise: own, into: next.view)
          #expect(try values(noised, sample) == next.values + values(c.latents, sample)[lengths[sample]...])
        }
        try normal(noise, into: noised.view.with(part))
        for sample in 0..<Case.batch {
          #expect(try values(noised, sample)[lengths[sample]...].allSatisfy { $0 == 0 })
        }
      }
    }
  }

  @Test("Lengths and shards go together")
  func raggedShards() throws {
    let c = try Case(.float32)
    let lengths = [17_001, 1500]
    let noise = Noise.library(seed: 5)
    try lengths.withUnsafeBufferPointer { lengths in
      func step(_ part: Part, _ range: Range<Int>, into next: Latents) throws -> [Double] {
        try withUnsafePointer(to: part) {
          try c.sampler.step(
            1, latents: Case.shard(c.latents, range, $0), velocity: Case.shard(c.velocities, range, $0), noise: noise,
            next: Case.shard(next, range, $0)
          ).logProb
        }
      }
      let whole = try step(Part(lengths: lengths.baseAddress), 0..<Case.elements, into: c.next)
      let next = try Latents(batch: Case.batch, elements: Case.elements)
      let result = try Case.numbers([1024, 20_480], sums: 3) { part, range in
        var part = part.pointee
        part.lengths = lengths.baseAddress
        return try step(part, range, into: next)
      }
      #expect(result == whole)
      #expect(try next.values == c.next.values)
    }
  }

  @Test("A number that is not finite in one shard is refused where the sums of all are read")
  func notFinite() throws {
    let c = try Case(.float32)
    poison(c.velocities, 1, from: 30_000)
    let thrown = error {
      _ = try Case.numbers([1024], sums: 3) { part, range in
        try c.sampler.step(
          1, latents: Case.shard(c.latents, range, part), velocity: Case.shard(c.velocities, range, part),
          noise: .library(seed: 5), next: Case.shard(c.next, range, part))
      }
    }
    #expect(thrown?.code == .nonFinite && thrown?.message.contains("sample 1 at step 1") == true)
  }

  private func values(_ latents: Latents, _ sample: Int) throws -> [Double] {
    try Array(latents.values[sample * latents.elements..<(sample + 1) * latents.elements])
  }

  /// NaN from an element on.
  private func poison(_ latents: Latents, _ sample: Int, from first: Int) {
    let size = Case.bytes(latents.type)
    let row = latents.view.base + sample * latents.elements * size
    (row + first * size).initializeMemory(as: UInt8.self, repeating: 0xff, count: (latents.elements - first) * size)
  }
}
