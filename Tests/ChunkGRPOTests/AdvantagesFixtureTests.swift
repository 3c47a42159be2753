import ChunkGRPO
import Foundation
import Testing

/// Every advantage of Tests/fixtures/advantages.json: numbers that the public code printed.
@Suite("Advantages of the public code")
struct AdvantagesFixtureTests {
  private func meets(_ c: FixtureCase, _ rewards: [Double], _ options: AdvantageOptions, tolerance: Double = 1e-12)
    throws
  {
    let expected = c.expected["advantages"] as? [Double]
    let ours = try advantages(rewards, options)
    #expect(expected?.count == ours.count, "\(c.source) \(c.kind)")
    for (a, b) in zip(ours, expected ?? []) {
      #expect(abs(a - b) < tolerance * max(1, abs(b)), "\(c.source) \(c.kind): \(ours)")
    }
  }

  @Test("GCPO, DanceGRPO, MixGRPO: group, global, ungrouped, half-half, trimmed, one reward")
  func groupsOfNeighbours() throws {
    var count = 0
    for source in ["xingzhejun/GCPO", "XueZeyue/DanceGRPO fastvideo/train_grpo_flux.py", "Tencent-Hunyuan/MixGRPO"] {
      for c in try advantageCases(source) {
        // NaN in the source: one reward is left; ours refuses or gives zeros.
        guard let rewards = c.numbers("rewards"), c.expected["advantages"] is [Double],
          c.inputs["trimmed_ratio"] as? Double ?? 0 < 0.99
        else { continue }
        var o = AdvantageOptions()
        o.groupSize = c.inputs["group_size"] as? Int ?? rewards.count
        o.clamp = .infinity
        o.trim = c.inputs["trimmed_ratio"] as? Double ?? 0
        o.subtractsMedian = c.flag("use_half_half_adv")
        if c.flag("use_global_std") { o.scale = .batch }
        if c.inputs["use_group"] as? Bool == false { (o.baseline, o.scale) = (.batch, .batch) }
        try meets(c, rewards, o)
        count += 1
      }
    }
    #expect(count == 19)
  }

  @Test("MixGRPO: several rewards, each normalised, then summed by weight")
  func mixGRPOSeveralRewards() throws {
    var count = 0
    for c in try advantageCases("Tencent-Hunyuan/MixGRPO") where c.kind.hasPrefix("multi_reward") {
      guard let table = c.inputs["rewards"] as? [String: [Double]], let w = c.inputs["weights"] as? [String: Double]
      else {
        continue
      }
      let names = table.keys.sorted()
      var o = AdvantageOptions()
      o.groupSize = c.inputs["group_size"] as? Int ?? 1
      o.clamp = .infinity
      o.trim = c.inputs["trimmed_ratio"] as? Double ?? 0
      o.mixing = .normalisedSum
      o.rewardWeights = Numbers(names.map { w[$0] ?? .nan })
      try meets(c, interleaved(names.map { table[$0] ?? [] }), o)
      count += 1
    }
    #expect(count >= 2)
  }

  @Test("Flow-GRPO: per prompt with its own or the global deviation, of the population, + 1e-4; ungrouped")
  func flowGRPO() throws {
    var count = 0
    for c in try advantageCases("yifan123/flow_grpo") {
      guard let rewards = c.numbers("rewards"),
        ["per_prompt:group_std", "per_prompt:global_std", "ungrouped"].contains(c.kind)
      else { continue }
      var o = AdvantageOptions()
      o.deviation = .population
      o.epsilon = 1e-4
      o.clamp = .infinity
      if let ids = c.ids("prompts") { o.groupIDs = Numbers(ids) }
      if c.kind != "per_prompt:group_std" { o.scale = .batch }
      try meets(c, rewards, o)
      count += 1
    }
    #expect(count == 5)  // the others have a reward for every step
  }

  @Test("Flow-Factory: weighted sum and GDPO, population deviation of at least 1e-6")
  func flowFactory() throws {
    var count = 0
    for c in try advantageCases("X-GenGroup/Flow-Factory") {
      guard let table = c.inputs["rewards"] as? [String: [Double]], let w = c.inputs["weights"] as? [String: Double],
        let ids = c.ids("group_ids"), c.expected["advantages"] is [Double]
      else { continue }
      let names = table.keys.sorted()
      var o = AdvantageOptions()
      o.groupIDs = Numbers(ids)
      o.deviation = .population
      (o.epsilon, o.floor) = (0, 1e-6)
      o.clamp = .infinity
      o.scale = c.flag("global_std") && !c.kind.hasPrefix("gdpo") ? .batch : .group
      o.mixing = c.kind.hasPrefix("gdpo") ? .gdpo : .sum
      o.rewardWeights = Numbers(names.map { w[$0] ?? .nan })
      // The source sends rewards through f32.
      try meets(c, interleaved(names.map { table[$0] ?? [] }), o, tolerance: 1e-6)
      count += 1
    }
    #expect(count >= 15)
  }

  @Test("verl-omni and verl: group, global, Dr. GRPO, RLOO, GDPO over unequal groups")
  func verl() throws {
    var count = 0
    for c in try advantageCases("verl-project/") {
      guard let ids = c.ids("group_ids"), c.expected["advantages"] is [Double] else { continue }
      var o = AdvantageOptions()
      o.groupIDs = Numbers(ids)
      o.epsilon = c.inputs["epsilon"] as? Double ?? 0
      o.clamp = .infinity
      if c.kind == "dr_grpo" { o.scale = .none }
      if c.kind == "global_std" { o.scale = .batch }
      if c.kind == "rloo" { (o.baseline, o.scale) = (.leaveOneOut, .none) }
      if c.kind == "gdpo" { continue }  // its groups of one keep the raw reward, which moves all others
      guard let rewards = c.numbers("rewards"), let expected = c.expected["advantages"] as? [Double] else { continue }
      let ours = try advantages(rewards, o)
      for i in ours.indices {
        if ids.count(where: { $0 == ids[i] }) == 1 {
          #expect(ours[i] == 0)  // verl keeps the raw reward
        } else {
          #expect(abs(ours[i] - expected[i]) < 1e-12, "\(c.source) \(c.kind)")
        }
      }
      count += 1
    }
    #expect(count >= 9)
  }

  @Test("TRL: sums normalised, normalised sums (GDPO), RLOO")
  func trl() throws {
    var count = 0
    for c in try advantageCases("huggingface/trl") {
      var o = AdvantageOptions()
      o.groupSize = c.inputs["group_size"] as? Int ?? 1
      o.clamp = .infinity
      o.epsilon = 1e-4
      let rewards: [Double]
      if c.kind.hasPrefix("rloo") {
        (o.baseline, o.scale) = (.leaveOneOut, .none)
        // TRL can whiten RLOO's advantages over the batch: GDPO of one reward.
        if c.kind.hasSuffix("normalised") { o.mixing = .gdpo }
        rewards = c.numbers("rewards") ?? []
      } else {
        // Rows with a missing reward are TRL's own; ours refuses NaN.
        guard let rows = c.inputs["rewards"] as? [[Double]], let w = c.numbers("weights") else { continue }
        rewards = rows.flatMap { $0 }
        o.rewardWeights = Numbers(w)
        if c.kind.hasSuffix(":batch") { o.scale = .batch }
        if c.kind.hasSuffix(":none") { o.scale = .none }
        o.mixing = c.kind.contains("normalize_then_sum") ? .gdpo : .sum
      }
      // TRL's deviation of the batch holds its count in f32.
      try meets(c, rewards, o, tolerance: o.scale == .batch || o.mixing == .gdpo ? 1e-7 : 1e-12)
      count += 1
    }
    #expect(count >= 14)
  }

  private func interleaved(_ columns: [[Double]]) -> [Double] {
    (0..<columns[0].count).flatMap { i in columns.map { $0[i] } }
  }
}
