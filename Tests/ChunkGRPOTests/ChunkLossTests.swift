import ChunkGRPO
import Foundation
import Testing

@Suite("Chunk loss")
struct ChunkLossTests {
  @Test("The gradient is the derivative of the loss, clipped or not, with and without KL")
  func lossGradient() throws {
    for seed in 0..<40 {
      let draws = try normals(300, seed: UInt64(seed))
      let (batch, plan) = (4, try ChunkPlan([[2, 1, 3], [1, 1, 1, 1, 1, 1], [6]][seed % 3]))
      let old = Array(draws[0..<24])
      let new = (0..<24).map { old[$0] + 0.1 * draws[50 + $0] }
      let advantages = Array(draws[100..<104])
      let k = plan.count
      let selection: [[Bool]]? =
        seed % 2 == 0 ? nil : (0..<batch).map { i in (0..<k).map { i + $0 == 0 || draws[150 + i * k + $0] > 0 } }
      func loss(_ new: [Double]) throws -> ChunkLoss {
        try chunkLoss(
          new: new, old: old, advantages: advantages, plan: plan, clip: ClipRange(low: 0.05, high: 0.02),
          kl: seed % 4 < 2 ? 0 : 0.3, selection: selection)
      }
      let result = try loss(new)
      for i in 0..<24 {
        var (up, down) = (new, new)
        up[i] += 1e-6
        down[i] -= 1e-6
        let difference = (try loss(up).loss - loss(down).loss) / 2e-6
        #expect(abs(result.gradLogProbs[i] - difference) < 1e-8)
      }
    }
  }

  @Test("Equal advantages of chunks or steps give the loss of the sample's, to the bit, with every surrogate and mask")
  func equalAdvantages() throws {
    var compared = 0
    for surrogate in Surrogate.allCases {
      for (seed, sizes) in [[2, 1, 3], [1, 1, 1, 1, 1, 1], [6], [1, 5]].enumerated() {
        let draws = try normals(90, seed: UInt64(seed))
        let plan = try ChunkPlan(sizes)
        let old = Array(draws[0..<24])
        let new = (0..<24).map { old[$0] + 0.1 * draws[24 + $0] }
        let own = [draws[50], -draws[50], -0.0, 1e-300]
        var o = ChunkLossOptions()
        o.surrogate = surrogate
        if surrogate == .divergenceMask { o.divergence = Numbers(draws[60..<84].map { abs($0) * 1e-5 }) }
        o.mask = Flags((0..<24).map { $0 % 6 == 0 || draws[84 + $0 % 6] > -0.3 })
        (o.kl, o.average) = (0.2, .sample)
        let whole = try chunkLoss(new: new, old: old, advantages: own, plan: plan, options: o)
        for level in [AdvantageLevel.chunk, .step] {
          o.advantageLevel = level
          let each = own.flatMap { [Double](repeating: $0, count: level.row(plan)) }
          let ours = try chunkLoss(new: new, old: old, advantages: each, plan: plan, options: o)
          #expect(ours.loss.bitPattern == whole.loss.bitPattern && ours.stats == whole.stats)
          #expect(ours.gradLogProbs.map(\.bitPattern) == whole.gradLogProbs.map(\.bitPattern))
          compared += 1
        }
      }
    }
    #expect(compared == 2 * 4 * Surrogate.allCases.count)
  }

  @Test("A chunk's advantage is its own, or the mean over its present steps; what is not trained may have any")
  func advantageLevels() throws {
    let plan = try ChunkPlan([2, 3])
    let draws = try normals(30, seed: 8)
    let (new, old) = (Array(draws[0..<10]), Array(draws[10..<20]))
    let steps = [1, -3, 2, .nan, -6, .infinity, 4, 5, 7, -1]
    let chunks = [-1, -2, 4, .nan]
    var o = ChunkLossOptions { ($0.surrogate, $0.normaliser) = (.unclipped, 1) }
    o.mask = [true, true, true, false, true, false, true, true, true, true]
    o.selection = [true, true, true, false]
    func loss(_ level: AdvantageLevel, _ advantages: [Double]) throws -> ChunkLoss {
      o.advantageLevel = level
      return try chunkLoss(new: new, old: old, advantages: advantages, plan: plan, options: o)
    }
    func ratio(_ steps: [Int]) -> Double { exp(steps.reduce(0) { $0 + new[$1] - old[$1] } / Double(steps.count)) }
    let ratios = [ratio([0, 1]), ratio([2, 4]), ratio([6])]
    // Of the steps: (1 − 3)/2, (2 − 6)/2, 4.
    let expected = ratios[0] + 2 * ratios[1] - 4 * ratios[2]
    var free = steps
    (free[7], free[8], free[9]) = (.nan, -.infinity, .nan)
    for ours in [try loss(.step, steps), try loss(.step, free), try loss(.chunk, chunks)] {
      #expect(abs(ours.loss - expected) < 1e-14)
      for (t, slope) in zip([0, 1, 2, 4, 6], [0.5, 0.5, 1, 1, -4]) {
        #expect(abs(ours.gradLogProbs[t] - slope * ratios[[0, 0, 1, 1, 1, 1, 2][t]]) < 1e-14)
      }
      #expect(ours.gradLogProbs[3] == 0 && ours.gradLogProbs[7] == 0)
    }
    for (level, advantages, words) in [
      (.step, steps.map { $0 == 7 ? .nan : $0 == 4 ? .nan : $0 }, "advantages of sample 1 at step 1 is nan"),
      (.chunk, [1, 2, -.infinity, 3], "advantages of sample 1 at chunk 0 is -inf"),
      (.step, [1.7e308, -1.7e308, 1, 1, 1, 1, 1, 1, 1, 1], "sample 0, chunk 0 are too far apart"),
      (.step, [1, 2, 3], "3 numbers are no rows of 5, one for each step"),
      (.chunk, [1, 2, 3], "3 numbers are no rows of 2, one for each chunk"), (.chunk, [], "advantages: there are none"),
    ] as [(AdvantageLevel, [Double], String)] {
      let thrown = error { _ = try loss(level, advantages) }
      #expect(thrown?.message.contains(words) == true, "\(thrown?.message ?? "")")
    }
  }

  @Test("Chunks of one step are step-level GRPO")
  func stepLevel() throws {
    let draws = try normals(40, seed: 3)
    let old = Array(draws[0..<12])
    let new = zip(old, draws[12..<24]).map { $0 + 0.01 * $1 }
    let a = Array(draws[24..<27])
    let result = try chunkLoss(
      new: new, old: old, advantages: a, plan: .fixed(steps: 4, size: 1), clip: ClipRange(low: 0.005, high: 0.005))
    let expected = mean(
      (0..<12).map { i in
        let ratio = exp(new[i] - old[i])
        return max(-a[i / 4] * ratio, -a[i / 4] * min(max(ratio, 0.995), 1.005))
      })
    #expect(abs(result.loss - expected) < 1e-15)
  }

  @Test("A chunk's ratio is the geometric mean of its step ratios; on policy it is exactly 1")
  func ratios() throws {
    let new = [0.1, 0.3, -0.2, 0.5]
    let plan = try ChunkPlan([3, 1])
    let result = try chunkLoss(new: new, old: [0, 0, 0, 0], advantages: [1], plan: plan, clip: .gcpo)
    #expect(abs(result.ratios[0] - pow(exp(0.1) * exp(0.3) * exp(-0.2), 1.0 / 3)) < 1e-15)
    let onPolicy = try chunkLoss(new: new, old: new, advantages: [1], plan: plan, kl: 1)
    #expect(onPolicy.ratios == [1, 1] && onPolicy.loss == -1 && onPolicy.stats.effectiveSampleSize == 1)
    // −A/(K·|C|) for each step: the plan is a weighting.
    let expected: [Double] = [-1.0 / 6, -1.0 / 6, -1.0 / 6, -0.5]
    #expect(onPolicy.gradLogProbs == expected)
  }

  @Test("Statistics say what was clipped, and on which side")
  func statistics() throws {
    let plan = try ChunkPlan([1, 1])
    let stats = try chunkLoss(
      new: [0.1, 0, -0.1, 0.1], old: [0, 0, 0, 0], advantages: [1, -1], plan: plan,
      clip: ClipRange(low: 0.05, high: 0.05)
    ).stats
    #expect(stats.selected == 4 && stats.clipFractionHigh == 0.25 && stats.clipFractionLow == 0.25)
    #expect(stats.ratioMax == exp(0.1) && stats.ratioMin == exp(-0.1))
    let r = [exp(0.1), 1, exp(-0.1), exp(0.1)]
    #expect(abs(stats.effectiveSampleSize - pow(r.reduce(0, +), 2) / (4 * r.reduce(0) { $0 + $1 * $1 })) < 1e-15)
    #expect(abs(stats.approximateKL - mean([0.1, 0, -0.1, 0.1].map { exp(-$0) - 1 + $0 })) < 1e-15)
  }

  @Test("The loss refuses what makes no sense, and says which argument")
  func refusals() throws {
    let plan = try ChunkPlan([1, 1])
    for (code, name, body) in [
      (.invalidArgument, "new_log_probs", { _ = try chunkLoss(new: [1], old: [1, 1], advantages: [1], plan: plan) }),
      (
        .nonFinite, "old_log_probs of sample 0 at step 1",
        {
          _ = try chunkLoss(new: [1, 1], old: [1, .nan], advantages: [1], plan: plan)
        }
      ),
      (.nonFinite, "advantages[0]", { _ = try chunkLoss(new: [1, 1], old: [1, 1], advantages: [.nan], plan: plan) }),
      (
        .nonFinite, "sample 0, chunk 1",
        { _ = try chunkLoss(new: [1, 900], old: [1, 1], advantages: [-1], plan: plan) }
      ),
      (
        .invalidArgument, "clip_low",
        {
          _ = try chunkLoss(new: [1, 1], old: [1, 1], advantages: [1], plan: plan, clip: ClipRange(low: -1, high: 0))
        }
      ),
      (.invalidArgument, "kl", { _ = try chunkLoss(new: [1, 1], old: [1, 1], advantages: [1], plan: plan, kl: -1) }),
      (
        .invalidArgument, "selection",
        {
          _ = try chunkLoss(new: [1, 1], old: [1, 1], advantages: [1], plan: plan, selection: [[false, false]])
        }
      ),
    ] as [(ChunkGRPOError.Code, String, () throws -> Void)] {
      let thrown = error(body)
      #expect(thrown?.code == code)
      #expect(thrown?.message.contains(name) == true)
    }
  }

  @Test("A log ratio beyond any number is bounded where the loss is, and every statistic is finite")
  func farRatios() throws {
    let one = try ChunkPlan([1])
    func loss(_ moved: Double, _ a: Double, _ change: (inout ChunkLossOptions) -> Void = { _ in }) throws -> ChunkLoss {
      var o = ChunkLossOptions()
      o.clip = ClipRange(low: 0.2, high: 0.3)
      change(&o)
      return try chunkLoss(new: [moved], old: [0], advantages: [a], plan: one, options: o)
    }
    let cases: [(moved: Double, advantage: Double, loss: Double, change: (inout ChunkLossOptions) -> Void)] = [
      (-1000, 2, 0, { _ in }), (-1000, -2, 1.6, { _ in }), (1000, 2, -2.6, { _ in }), (1000, 0, 0, { _ in }),
      (1000, -2, 6, { $0.dualClip = 3 }), (1000, -2, 10, { $0.ratioCap = 5 }),
      (1000, 2, -2 * exp(0.3), { $0.surrogate = .logClipped }), (1000, 2, -2600, { $0.surrogate = .cispo }),
      (1000, 2, 0, { ($0.surrogate, $0.clip, $0.divergence) = (.divergenceMask, .gcpo, [1]) }),
    ]
    for (moved, advantage, expected, change) in cases {
      let result = try loss(moved, advantage, change)
      #expect(abs(result.loss - expected) < 1e-12 * (1 + abs(expected)), "\(moved) \(advantage)")
      #expect(result.gradLogProbs[0] == (expected == -2600 ? -2.6 : 0))
      #expect(result.ratios == [moved > 0 ? .greatestFiniteMagnitude : 0])
      let s = result.stats
      for number in [s.ratioMean, s.ratioStd, s.ratioMin, s.ratioMax, s.approximateKL, s.effectiveSampleSize] {
        #expect(number.isFinite)
      }
    }
    for change in [{ $0.kl = 0 }, { ($0.surrogate, $0.clip) = (.unclipped, .gcpo) }]
      as [(inout ChunkLossOptions) -> Void]
    {
      #expect(error { _ = try loss(1000, -2, change) }?.message.contains("ratio of sample 0, chunk 0") == true)
    }
    #expect(error { _ = try loss(-1000, 2) { $0.kl = 0.1 } }?.message.contains("KL estimate") == true)
  }

  @Test("The deviation of ratios of 1e300 is theirs")
  func hugeRatioStatistics() throws {
    let stats = try chunkLoss(
      new: [690, 0], old: [0, 0], advantages: [1], plan: ChunkPlan([1, 1]), clip: ClipRange(low: 0.2, high: 0.2)
    ).stats
    #expect(abs(stats.ratioStd / (exp(690) / 2) - 1) < 1e-12 && abs(stats.effectiveSampleSize - 0.5) < 1e-12)
  }

  @Test("Steps of chunks that are not selected are not read")
  func unselected() throws {
    let plan = try ChunkPlan([1, 2])
    var o = ChunkLossOptions()
    o.selection = [true, false, false, true]
    (o.reference, o.kl) = ([0.1, .nan, .nan, .infinity, 0.2, 0.3], 0.5)
    o.ratioBias = [0, .nan, 0, .nan, 0, 0]
    let new = [0.1, .nan, 0.2, .infinity, 0.1, 0.3]
    let result = try chunkLoss(new: new, old: [0, 0, .nan, 0, 0, 0], advantages: [1, -1], plan: plan, options: o)
    (o.reference, o.ratioBias) = ([0.1, 0, 0, 0, 0.2, 0.3], [0, 0, 0, 0, 0, 0])
    let clean = try chunkLoss(
      new: [0.1, 0, 0.2, 0, 0.1, 0.3], old: [0, 0, 0, 0, 0, 0], advantages: [1, -1], plan: plan, options: o)
    #expect(result.loss == clean.loss && result.gradLogProbs == clean.gradLogProbs && result.stats == clean.stats)
    #expect(result.ratios[1] == 1 && result.ratios[2] == 1 && result.ratios.allSatisfy { $0.isFinite })
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
    o.mask = Flags(Array(repeating: false, count: 8))
    #expect(
      error { _ = try chunkLoss(new: new, old: new, advantages: [1, 2], plan: plan, options: o) }?.message.contains(
        "mask") == true)
  }
}
