import ChunkGRPO
import Foundation
import Testing

/// Gradients against finite differences in f64 at random settings, and the bounds of every option.
@Suite("Surrogates")
struct SurrogateTests {
  /// A random batch and random options.
  private struct Setting {
    let batch: Int, plan: ChunkPlan
    let old, new: [Double]
    var advantages: [Double]
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
      if ![.unclipped, .divergenceMask, .sapo, .vespo].contains(surrogate) {
        options.clip = ClipRange(low: 0.08, high: 0.05)
      }
      if surrogate == .clipped {
        if coin() {
          options.ratioCap = 1.02 + abs(next(1)[0]) / 10
        } else if coin() {
          options.dualClip = 1.02 + abs(next(1)[0]) / 10
        }
      }
      if surrogate == .divergenceMask {
        options.divergence = Numbers(next(size).map { abs($0) })
        options.divergenceThreshold = 0.6
      }
      if coin() {
        options.kl = 0.3
        options.klEstimator = KLEstimator.allCases[Int(seed / 3) % 3]
        options.klLevel = coin() ? .chunk : .step
        if coin() { options.reference = Numbers(next(size)) }
      }
      options.average = [.chunk, .sample, .step][Int(seed / 2) % 3]
      if coin() { options.normaliser = 7 }
      if coin() {
        options.mask = Flags([true, true, true, true, true, true] + next(size).dropFirst(6).map { $0 > -0.5 })
      }
      if coin() {
        let all = [true] + next(batch * count - 1).map { $0 > -0.5 }
        options.selection = Flags(all)
      }
      if coin() { options.weights = Numbers(next(coin() ? count : batch * count).map { abs($0) }) }
      if surrogate != .cispo && surrogate != .vespo {
        if coin() { options.ratioBias = Numbers(next(size).map { 0.1 * abs($0) }) }
        if coin() { options.ratioScale = Numbers(next(6).map { abs($0) }) }
      }
      if coin() {
        options.advantageLevel = coin() ? .chunk : .step
        advantages = next(batch * options.advantageLevel.row(plan))
      }
      if coin() && options.kl > 0 { options.klWeights = Numbers(next(batch).map { abs($0) }) }
      if surrogate == .sapo && coin() { (options.sapo.positive, options.sapo.negative) = (2.5, 0.4) }
      if surrogate == .vespo && coin() { (options.vespo.k, options.vespo.lambda) = (0.7, 1.6) }
    }

    func loss(_ new: [Double]) throws -> ChunkLoss {
      try chunkLoss(new: new, old: old, advantages: advantages, plan: plan, options: options)
    }

    /// What the gradient does not go through: CISPO's clipped ratio, VESPO's φ of the product of the ratios.
    private func held(_ ratio: Double, steps: Int, isPositive: Bool) -> Double {
      if options.surrogate == .cispo { return min(max(ratio, 1 - options.clip.low), 1 + options.clip.high) }
      let (w, shape) = (pow(ratio, Double(steps)), options.vespo)
      let (k, lambda) = isPositive ? (shape.k, shape.lambda) : (shape.kNegative, shape.lambdaNegative)
      return exp(lambda) * pow(w, k) * exp(-lambda * w)
    }

    /// What is differentiated: the loss, and for CISPO and VESPO the loss with that held fast.
    func value(_ new: [Double]) throws -> Double {
      let result = try loss(new)
      if options.surrogate != .cispo && options.surrogate != .vespo { return result.loss }
      // loss − (the terms) + (those with the ratios at `self.new`); the terms are linear in the advantage.
      let fixed = try loss(self.new)
      var linear = options
      (linear.kl, linear.surrogate, linear.clip, linear.vespo) = (0, .unclipped, .gcpo, VESPOShape())
      linear.klWeights = nil
      // u·w of each chunk, from the gradient of the unclipped surrogate on policy, −A·u·w/n for each of its n steps.
      let shares = try chunkLoss(new: old, old: old, advantages: advantages, plan: plan, options: linear).gradLogProbs
      var kl = options
      kl.weights = Numbers([Double](repeating: 0, count: plan.count))
      var total = try chunkLoss(new: new, old: old, advantages: advantages, plan: plan, options: kl).loss
      for i in 0..<batch {
        for (j, range) in plan.ranges.enumerated() {
          let ratio = fixed.ratios[i * plan.count + j]
          let steps = range.count { options.mask?[i * 6 + $0] ?? true }
          let held = held(ratio, steps: steps, isPositive: range.contains { shares[i * 6 + $0] < 0 })
          for t in range { total += shares[i * 6 + t] * held * new[i * 6 + t] }
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
          moved.options.ratioBias = Numbers(zip(bias, direction).map { $0 + h * $1 })
          return try moved.loss(setting.new).loss
        }
      }
    }
    #expect(compared > 110)
    #expect([.unclipped, .sapo, .vespo].contains(surrogate) ? bounded == 0 : bounded > 5)
  }

  @Test(
    "SAPO's gate has the positive temperature where the advantage is positive, the negative one where it is negative")
  func sapoTemperatures() throws {
    var options = ChunkLossOptions()
    (options.surrogate, options.sapo.positive, options.sapo.negative) = (.sapo, 2.5, 0.4)
    let plan = try ChunkPlan([1])
    for (advantage, temperature) in [(1.5, 2.5), (-1.5, 0.4)] {
      for moved in [-0.3, 0.2] {
        let found = try chunkLoss(new: [moved - 1], old: [-1], advantages: [advantage], plan: plan, options: options)
        let gate = 1 / (1 + exp(-temperature * (exp(moved) - 1)))
        #expect(abs(found.loss + advantage * 4 / temperature * gate) < 1e-14)
      }
    }
  }
}
