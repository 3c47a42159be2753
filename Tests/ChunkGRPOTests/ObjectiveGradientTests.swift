import ChunkGRPO
import Foundation
import Testing

/// Gradients against finite differences in f64 at random settings, and the bounds of every option.
@Suite("Objective: gradients and options")
struct ObjectiveGradientTests {
  /// A random batch and random options.
  private struct Setting {
    let batch: Int, plan: ChunkPlan
    let old, new, advantages: [Double]
    var options = ChunkLossOptions()

    init(_ seed: UInt64, _ surrogate: Surrogate) throws {
      var draws = try normals(2000, seed: seed)[...]
      func next(_ count: Int) -> [Double] {
        defer { draws = draws.dropFirst(count) }
        return Array(draws.prefix(count))
      }
      func coin() -> Bool { next(1)[0] > 0 }
      let shapes = [[2, 1, 3], [1, 1, 1, 1, 1, 1], [6], [1, 5]]
      batch = 3
      plan = try ChunkPlan(shapes[Int(seed) % 4])
      let (size, count) = (batch * 6, plan.count)
      old = next(size)
      new = zip(old, next(size)).map { $0 + 0.3 * $1 }
      advantages = next(batch)
      options.surrogate = surrogate
      if surrogate != .unclipped && surrogate != .divergenceMask { options.clip = ClipRange(low: 0.08, high: 0.05) }
      if surrogate == .clipped {
        if coin() {
          options.ratioCap = 1.02 + abs(next(1)[0]) / 10
        } else if coin() {
          options.dualClip = 1.02 + abs(next(1)[0]) / 10
        }
      }
      if surrogate == .divergenceMask {
        options.divergence = next(size).map { abs($0) }
        options.divergenceThreshold = 0.6
      }
      if coin() {
        options.kl = 0.3
        options.klEstimator = KLEstimator.allCases[Int(seed / 3) % 3]
        options.klLevel = coin() ? .chunk : .step
        if coin() { options.reference = next(size) }
      }
      options.average = [.chunk, .sample, .step][Int(seed / 2) % 3]
      if coin() { options.normaliser = 7 }
      if coin() { options.mask = next(size).map { $0 > -0.5 } }
      if coin() {
        let all = [true] + next(batch * count - 1).map { $0 > -0.5 }
        options.selection = (0..<batch).map { Array(all[$0 * count..<($0 + 1) * count]) }
      }
      if coin() { options.weights = next(coin() ? count : batch * count).map { abs($0) } }
      if surrogate != .cispo {
        if coin() { options.ratioBias = next(size).map { 0.1 * abs($0) } }
        if coin() { options.ratioScale = next(6).map { abs($0) } }
      }
      options.mask?[0...5] = [true, true, true, true, true, true]
    }

    func loss(_ new: [Double]) throws -> ChunkLoss {
      try chunkLoss(new: new, old: old, advantages: advantages, plan: plan, options: options)
    }

    /// What is differentiated: the loss, and for CISPO the loss with the clipped ratios held fast.
    func value(_ new: [Double]) throws -> Double {
      let result = try loss(new)
      if options.surrogate != .cispo { return result.loss }
      // loss − (CISPO's terms) + (those with the ratios at `self.new`); the terms are linear in the advantage.
      let fixed = try loss(self.new)
      var linear = options
      (linear.kl, linear.surrogate, linear.clip) = (0, .unclipped, .gcpo)
      // u·w of each chunk, from the gradient of the unclipped surrogate on policy, −A·u·w/n for each of its n steps.
      let shares = try chunkLoss(new: old, old: old, advantages: advantages, plan: plan, options: linear).gradLogProbs
      var kl = options
      (kl.weights) = [Double](repeating: 0, count: plan.count)
      var total = try chunkLoss(new: new, old: old, advantages: advantages, plan: plan, options: kl).loss
      for i in 0..<batch {
        for (j, range) in plan.ranges.enumerated() {
          let ratio = fixed.ratios[i * plan.count + j]
          let bounded = min(max(ratio, 1 - options.clip.low), 1 + options.clip.high)
          for t in range { total += shares[i * 6 + t] * bounded * new[i * 6 + t] }
        }
      }
      return total
    }
  }

  @Test("Every surrogate's gradient is its derivative, with each option", arguments: Surrogate.allCases)
  func gradients(_ surrogate: Surrogate) throws {
    var compared = 0
    var bounded = 0.0
    for seed in 0..<120 {
      let setting = try Setting(UInt64(1000 + seed), surrogate)
      let result = try setting.loss(setting.new)
      bounded += result.stats.clipFractionHigh + result.stats.clipFractionLow
      func agrees(_ gradient: [Double], _ direction: [Double], _ value: (Double) throws -> Double) throws {
        // At a kink there is no derivative: one-sided differences tell.
        let h = 1e-5
        let (up, middle, down) = (try value(h), try value(0), try value(-h))
        let (right, left) = ((up - middle) / h, (middle - down) / h)
        let size = zip(gradient, direction).reduce(0) { $0 + abs($1.0 * $1.1) }
        if abs(right - left) > 1e-3 * max(size, 1e-3) { return }
        let exact = zip(gradient, direction).reduce(0) { $0 + $1.0 * $1.1 }
        // Richardson's extrapolation: the error of the central difference goes with h².
        let half = (try value(h / 2) - value(-h / 2)) / h
        let difference = half + (half - (up - down) / (2 * h)) / 3
        #expect(abs(exact - difference) < 1e-6 * max(size, 1e-3), "seed \(seed) \(setting.options)")
        compared += 1
      }
      let direction = try normals(18, seed: UInt64(seed))
      try agrees(result.gradLogProbs, direction) { h in
        try setting.value(zip(setting.new, direction).map { $0 + h * $1 })
      }
      if let bias = setting.options.ratioBias {
        try agrees(result.gradRatioBias, direction) { h in
          var moved = setting
          moved.options.ratioBias = zip(bias, direction).map { $0 + h * $1 }
          return try moved.loss(setting.new).loss
        }
      }
    }
    #expect(compared > 110)
    #expect(surrogate == .unclipped ? bounded == 0 : bounded > 5)
  }

  @Test("Divergences: value by definition, gradient by finite differences", arguments: Divergence.allCases)
  func divergences(_ kind: Divergence) throws {
    for (seed, dynamics) in [Dynamics.flowSDE, .danceSDE, .cps].enumerated() {
      let sampler = try Sampler(.shifted(steps: 9, shift: 3), dynamics: dynamics, eta: 0.6)
      let (batch, elements, k) = (3, 45, 2 + seed)
      let draws = try normals(5 * batch * elements, seed: UInt64(seed))
      func part(_ i: Int) -> [Double] { Array(draws[i * batch * elements..<(i + 1) * batch * elements]) }
      let x = try Latents(part(0), batch: batch)
      let other = try Latents(part(2), batch: batch)
      let next = try Latents(type: .float64, batch: batch, elements: elements)
      try sampler.step(
        k, latents: x.view, velocity: other.view, noise: .library(seed: 5, sampleIDs: [7, 8, 9]), next: next.view)
      let v = part(1)
      let upstream = [0.3, -1.2, 0.8]
      func both(_ v: [Double]) throws -> (given: [Double], sampled: [Double], gradients: [[Double]]) {
        let velocity = try Latents(v, batch: batch)
        var (given, sampled) = ([Double](repeating: 0, count: batch), [Double](repeating: 0, count: batch))
        let g = try (0..<2).map { _ in try Latents(type: .float64, batch: batch, elements: elements) }
        try upstream.withUnsafeBufferPointer { u in
          guard let u = u.baseAddress else { return }
          try sampler.divergence(
            kind, k, velocity: velocity.view, other: other.view, divergence: &given, gradient: (u, g[0].view))
          try sampler.divergenceFromSampled(
            kind, k, latents: x.view, velocity: velocity.view, noise: .library(seed: 5, sampleIDs: [7, 8, 9]),
            next: next.view, divergence: &sampled, gradient: (u, g[1].view))
        }
        return (given, sampled, g.map(\.values))
      }
      let result = try both(v)
      let c = sampler.coefficients[k]
      let delta = sampler.schedule.sigmas[k] - sampler.schedule.sigmas[k + 1]
      for i in 0..<batch {
        let squares = (0..<elements).map { pow(v[i * elements + $0] - other.values[i * elements + $0], 2) }
        let distance = mean(squares) * c.b * c.b
        let expected: Double =
          switch kind {
          case .gaussian: distance / (2 * c.s * c.s)
          case .gaussianPerTime: distance / (2 * c.s * c.s / delta)
          case .mean: distance
          case .velocity: mean(squares)
          }
        #expect(abs(result.given[i] - expected) < 1e-13 * expected)
        // The old mean, made again from the noise.
        #expect(abs(result.sampled[i] - expected) < 1e-12 * expected)
      }
      let direction = part(3)
      func total(_ h: Double) throws -> Double {
        zip(try both(zip(v, direction).map { $0 + h * $1 }).given, upstream).reduce(0) { $0 + $1.0 * $1.1 }
      }
      let difference = (try total(1e-5) - total(-1e-5)) / 2e-5
      for gradient in result.gradients {
        let exact = zip(gradient, direction).reduce(0) { $0 + $1.0 * $1.1 }
        #expect(abs(exact - difference) < 1e-7 * abs(difference))
      }
    }
  }

  @Test("Divergences are the same bits for any number of threads, and close in every storage type")
  func divergenceStorage() throws {
    let schedule = try Schedule.shifted(steps: 9, shift: 3)
    let (batch, elements) = (3, 100_001)
    var reference: [Double] = []
    for type in [ElementType.float64, .float32, .float16, .bfloat16] {
      var seen: [[Double]] = []
      for threads in [1, 2, 5] {
        let sampler = try Sampler(schedule, threads: threads)
        let all = try (0..<4).map { step in
          let latents = try Latents(type: type, batch: batch, elements: elements)
          try normal(seed: 3, step: step, into: latents.view)
          return latents
        }
        let next = try Latents(type: type, batch: batch, elements: elements)
        try sampler.step(2, latents: all[0].view, velocity: all[2].view, noise: .library(seed: 9), next: next.view)
        let gradient = try Latents(type: type, batch: batch, elements: elements)
        let given = try sampler.divergence(.gaussian, 2, velocity: all[1].view, other: all[2].view)
        let sampled = try sampler.divergenceFromSampled(
          .gaussian, 2, latents: all[0].view, velocity: all[1].view, noise: .library(seed: 9), next: next.view,
          gradient: ([1e4, 1e4, 1e4], gradient.view))
        seen.append(given + sampled + gradient.values.prefix(100))
      }
      #expect(seen[0] == seen[1] && seen[0] == seen[2])
      if type == .float64 { reference = seen[0] }
      let tolerance: Double = [.float64: 1e-15, .float32: 1e-5, .float16: 2e-3, .bfloat16: 2e-2][type] ?? 0
      for (a, b) in zip(seen[0].prefix(6), reference) { #expect(abs(a - b) < tolerance * b, "\(type)") }
    }
  }

  @Test("A second-order step needs the old velocity: its sampled mean has the image before it in it")
  func secondOrder() throws {
    let sampler = try Sampler(.shifted(steps: 6, shift: 3), dynamics: .dpmSDE)
    let x = try Latents(normals(10, seed: 1), batch: 2)
    #expect(try sampler.divergence(.gaussian, 2, velocity: x.view, other: x.view) == [0, 0])
    let thrown = error {
      try sampler.divergenceFromSampled(
        .gaussian, 2, latents: x.view, velocity: x.view, noise: .library(seed: 1), next: x.view)
    }
    #expect(thrown?.code == .invalidArgument && thrown?.message.contains("second order") == true)
  }

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

  @Test("What a mask leaves out is not read, and chunks without a step are skipped")
  func masks() throws {
    let plan = try ChunkPlan([2, 2])
    var o = ChunkLossOptions()
    o.mask = [true, true, true, false, true, true, false, false]
    o.clip = ClipRange(low: 0.5, high: 0.5)
    let new = [0.1, 0.2, 0.3, .nan, 0.1, 0.1, .infinity, .nan]
    let result = try chunkLoss(new: new, old: [0, 0, 0, 0, 0, 0, 0, 0], advantages: [1, 2], plan: plan, options: o)
    #expect(result.stats.selected == 3 && result.ratios[3] == 1)
    #expect(abs(result.loss + (exp(0.15) + exp(0.3) + 2 * exp(0.1)) / 3) < 1e-15)
    #expect(result.gradLogProbs[3] == 0 && result.gradLogProbs[6] == 0 && result.gradLogProbs[2] != 0)
    o.mask = Array(repeating: false, count: 8)
    #expect(
      error { _ = try chunkLoss(new: new, old: new, advantages: [1, 2], plan: plan, options: o) }?.message.contains(
        "mask") == true)
  }

  @Test("Each option out of bounds, and each contradiction, has its own sentence")
  func refusals() throws {
    let plan = try ChunkPlan([1, 1])
    let changes: [(String, (inout ChunkLossOptions) -> Void)] = [
      ("clip_low", { ($0.surrogate, $0.clip) = (.cispo, ClipRange(low: 1.1, high: 0)) }),
      ("clip_high", { ($0.surrogate, $0.clip) = (.logClipped, ClipRange(low: 2, high: -1)) }),
      ("clip_low", { ($0.surrogate, $0.clip) = (.logClipped, ClipRange(low: -1, high: 1)) }),
      ("does not clip", { ($0.surrogate, $0.clip) = (.unclipped, ClipRange(low: 0.1, high: 0.1)) }),
      ("ratio_cap = 0.9", { $0.ratioCap = 0.9 }),
      ("dual_clip = 1.0", { $0.dualClip = 1 }),
      ("ratio_cap = nan", { $0.ratioCap = .nan }),
      ("exclude each other", { ($0.ratioCap, $0.dualClip) = (2, 3) }),
      ("ratio_cap = 2.0 is for the clipped", { ($0.surrogate, $0.ratioCap) = (.cispo, 2) }),
      ("dual_clip = 2.0 is for the clipped", { ($0.surrogate, $0.dualClip) = (.unclipped, 2) }),
      ("kl", { $0.kl = .infinity }),
      ("normaliser", { $0.normaliser = 0 }),
      ("normaliser", { $0.normaliser = .nan }),
      ("CISPO", { ($0.surrogate, $0.ratioScale) = (.cispo, [1, 1]) }),
      ("divergence: the", { $0.surrogate = .divergenceMask }),
      ("divergence is for", { $0.divergence = [0, 0] }),
      ("divergence_threshold = 1.0 is for", { $0.divergenceThreshold = 1 }),
      (
        "divergence_threshold = -1.0 must",
        {
          ($0.surrogate, $0.divergence, $0.divergenceThreshold) = (.divergenceMask, [0, 0], -1)
        }
      ),
      ("divergence of sample 0 at step 1", { ($0.surrogate, $0.divergence) = (.divergenceMask, [0, -1]) }),
      ("divergence of sample 0 at step 1 is nan", { ($0.surrogate, $0.divergence) = (.divergenceMask, [0, .nan]) }),
      ("mask has 1", { $0.mask = [true] }),
      ("mask: no selected", { ($0.mask, $0.selection) = ([true, false], [[false, true]]) }),
      ("reference_log_probs has 1", { $0.reference = [1] }),
      ("reference_log_probs of sample 0 at step 1", { $0.reference = [1, .nan] }),
      ("weights has 3", { $0.weights = [1, 1, 1] }),
      ("weights[1]", { $0.weights = [1, -1] }),
      ("ratio_bias has 1", { $0.ratioBias = [1] }),
      ("ratio_bias of sample 0 at step 0", { $0.ratioBias = [.infinity, 0] }),
      ("ratio_scale has 3", { $0.ratioScale = [1, 1, 1] }),
      ("ratio_scale[0]", { $0.ratioScale = [-1, 1] }),
    ]
    for (words, change) in changes {
      var o = ChunkLossOptions()
      change(&o)
      let thrown = error { _ = try chunkLoss(new: [1, 1], old: [1, 1], advantages: [1], plan: plan, options: o) }
      #expect(thrown?.message.contains(words) == true, "\(words): \(thrown?.message ?? "accepted")")
    }
  }
}
