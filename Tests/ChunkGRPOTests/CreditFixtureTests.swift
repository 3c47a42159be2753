import ChunkGRPO
import Foundation
import Testing

/// Every case of Tests/fixtures/credit.json: numbers that the public code printed.
@Suite("Credit of the public code")
struct CreditFixtureTests {
  private func cases(_ kind: String) throws -> [FixtureCase] {
    try fixtureCases("credit.json").filter { $0.kind == kind }
  }

  @Test("Liger-Kernel: SAPO and VESPO, with its and other shapes")
  func softGates() throws {
    let c = try #require(try cases("soft_gates").first)
    let (new, old, a) = (
      c.inputs.numbers("new_log_probs"), c.inputs.numbers("old_log_probs"), c.inputs.numbers("advantages")
    )
    let (mask, steps) = (c.inputs.numbers("mask"), new.count / a.count)
    var count = 0
    for v in try #require(c.expected["variants"] as? [[String: Any]]) {
      var o = ChunkLossOptions()
      o.mask = Flags(mask.map { $0 != 0 })
      let isSAPO = v["loss_type"] as? String == "sapo"
      if isSAPO {
        (o.surrogate, o.average) = (.sapo, .sample)
        o.sapo.positive = v["sapo_temperature_pos"] as? Double ?? o.sapo.positive
        o.sapo.negative = v["sapo_temperature_neg"] as? Double ?? o.sapo.negative
      } else {
        (o.surrogate, o.average) = (.vespo, .step)
        o.vespo.k = v["vespo_k_pos"] as? Double ?? o.vespo.k
        o.vespo.lambda = v["vespo_lambda_pos"] as? Double ?? o.vespo.lambda
        o.vespo.kNegative = v["vespo_k_neg"] as? Double ?? o.vespo.kNegative
        o.vespo.lambdaNegative = v["vespo_lambda_neg"] as? Double ?? o.vespo.lambdaNegative
      }
      let ours = try chunkLoss(
        new: new, old: old, advantages: a, plan: .fixed(steps: steps, size: isSAPO ? 1 : steps), options: o)
      meets(ours.loss, ours.gradLogProbs, v.number("loss"), v.numbers("grad_wrt_new"), "\(v)")
      count += 1
    }
    #expect(count == 4)
  }

  @Test("TRL: truncated and masked importance weights of tokens and sequences")
  func importance() throws {
    let c = try #require(try cases("importance_weights").first)
    let (logProbs, behaviour) = (c.inputs.numbers("log_probs"), c.inputs.numbers("behaviour_log_probs"))
    let mask = c.inputs.numbers("mask")
    var count = 0
    for v in try #require(c.expected["variants"] as? [[String: Any]]) {
      let mode = try #require(v["mode"] as? String)
      var o = ImportanceOptions()
      o.level = mode.hasPrefix("token") ? .step : .sample
      o.mode = mode.hasSuffix("truncate") ? .truncate : .mask
      (o.low, o.high, o.mask) = (v["low"] as? Double ?? 0, v.number("high"), Flags(mask.map { $0 != 0 }))
      let ours = try importanceWeights(
        logProbs, behaviour: behaviour, plan: .fixed(steps: 7, size: o.level == .step ? 1 : 7), o)
      let expected = v.numbers("weights")
      #expect(ours.count == expected.count)
      for (i, (w, expected)) in zip(ours, expected).enumerated() where o.level == .sample || mask[i] != 0 {
        #expect(close(w, expected, 1e-13), "\(mode) \(i)")
      }
      o.mode = .reject
      let kept = try importanceWeights(
        logProbs, behaviour: behaviour, plan: .fixed(steps: 7, size: o.level == .step ? 1 : 7), o)
      if mode.hasSuffix("mask") { #expect(zip(kept, ours).allSatisfy { $0 == ($1 == 0 ? 0 : 1) }) }
      count += 1
    }
    #expect(count == 8)
  }

  @Test("verl: what rejection by k2 and k3 keeps, of tokens, sums and means")
  func rejection() throws {
    let c = try #require(try cases("rejection_masks").first)
    let (logProbs, behaviour) = (c.inputs.numbers("log_probs"), c.inputs.numbers("behaviour_log_probs"))
    let mask = c.inputs.numbers("mask")
    var kept: Set<String> = []
    for v in try #require(c.expected["variants"] as? [[String: Any]]) {
      let mode = try #require(v["mode"] as? String)
      let isToken = mode.hasPrefix("token")
      let o = ImportanceOptions {
        ($0.level, $0.mode) = (isToken ? .step : .sample, mode.hasSuffix("k2") ? .rejectK2 : .rejectK3)
        ($0.high, $0.isGeometric, $0.mask) = (v.number("high"), mode.hasPrefix("seq_mean"), Flags(mask.map { $0 != 0 }))
      }
      let ours = try importanceWeights(logProbs, behaviour: behaviour, plan: .fixed(steps: 7, size: 1), o)
      let expected = v.numbers("mask")
      for i in expected.indices where mask[i] != 0 {
        #expect(ours[i] == expected[i], "\(mode) \(i)")
        kept.insert("\(mode) \(expected[i])")
      }
    }
    #expect(kept.count == 12)
  }

  @Test("TP-GRPO: gains, and those of turning points")
  func turningPoints() throws {
    let c = try #require(try cases("turning_points").first)
    let rewards = c.inputs.numbers("rewards")
    let (gains, turned) = (c.expected.numbers("gains"), c.expected.numbers("process_rewards"))
    for (ours, expected) in [
      (try stepGains(rewards, steps: 5), gains), (try stepGains(rewards, steps: 5, .turningPoint), turned),
    ] {
      #expect(ours.count == expected.count && zip(ours, expected).allSatisfy { close($0, $1, 1e-14) })
    }
    #expect(zip(gains, turned).count { $0 != $1 } > 5)
  }

  @Test("BranchGRPO: advantages of the nodes of a tree, by the mean of the leaves and fused by probability")
  func trees() throws {
    var count = 0
    for c in try cases("tree_advantages") {
      let (rewards, nodes) = (c.inputs.numbers("rewards"), c.inputs.numbers("nodes").map { Int($0) })
      let o = AdvantageOptions { $0.clamp = .infinity }
      for (kind, logProbs, tolerance) in [("mean", nil, 1e-12), ("fused", c.inputs.numbers("log_probs"), 2e-6)] {
        let ours = try treeAdvantages(rewards, nodes: nodes, logProbs: logProbs, o)
        let expected = c.expected.numbers(kind)
        #expect(ours.count == expected.count && zip(ours, expected).allSatisfy { close($0, $1, tolerance) })
        count += 1
      }
    }
    #expect(count == 4)
  }

  @Test("SAGE-GRPO: factors that balance the gradients of the steps")
  func gradientWeights() throws {
    let c = try #require(try cases("gradient_weights").first)
    let schedule = try Schedule(c.inputs.numbers("sigmas"))
    var count = 0
    for v in try #require(c.expected["variants"] as? [[String: Any]]) {
      let dynamics: Dynamics =
        switch v["sde_type"] as? String {
        case "dance_grpo": .danceSDE
        case "flow_grpo": .flowSDE
        default: .cps
        }
      let sampler = try Sampler(
        schedule,
        SamplerOptions {
          $0.dynamics = dynamics
          $0.eta = v.number("eta")
        })
      let plan = try ChunkPlan.fixed(steps: 7, size: 1)
      let (sage, flash) = (try plan.gradientWeights(.sage, sampler), try plan.gradientWeights(.flash, sampler))
      let expected = v.numbers("factors")
      #expect(sage.count == expected.count && zip(sage, expected).allSatisfy { close($0, $1, 2e-6) })
      // The same but for their unit.
      #expect(zip(flash, sage).allSatisfy { close($0 / flash[0], $1 / sage[0], 1e-14) })
      #expect(close(mean(flash), 1, 1e-14))
      for (k, w) in try plan.gradientWeights(.precise, sampler).enumerated() {
        #expect(close(w * abs(sampler.coefficients[k].b), 1, 1e-14))
      }
      count += 1
    }
    #expect(count == 3)
  }
}
