import ChunkGRPO
import Foundation
import Testing

/// Every objective of Tests/fixtures/objectives.json: numbers that the public code printed.
@Suite("Objectives of the public code")
struct ChunkLossFixtureTests {
  /// What no option of ours says, and why; TRL's by `loss_type`.
  static let leftOut = [
    "kl_estimator:abs": "not an estimate of a KL divergence",
    "kl_estimator:k1+": "the value of one estimate with the gradient of another",
    "kl_estimator:k3+": "the same",
    "tempflow_step_weight": "GCPO's √(t/(1001−t)) is not normalised; any numbers can be given as weights",
    "use_bias_correction_kl": "the KL estimate times the ratio",
  ]
  /// Compared below, by the beginning of their kind. `tempflow_chunk_weight_at_step_0` divides by zero there; ours is refused.
  static let compared = [
    "kl_estimator:k1", "kl_estimator:k2", "kl_estimator:k3", "kl_k3_mean", "clipped_step_objective", "chunk_objective",
    "tempflow_chunk_weight_at_step_0", "trl_token_losses", "verl_vanilla", "verl_gspo", "verl_geo_mean", "verl_cispo",
  ]

  @Test("Every case is compared or left out for a reason")
  func everyCase() throws {
    let kinds = try fixtureCases("objectives.json").map(\.kind)
    #expect(kinds.count == 20)
    for kind in kinds {
      #expect(Self.leftOut[kind] != nil || Self.compared.contains { kind.hasPrefix($0) }, "\(kind)")
    }
  }

  private func cases(_ source: String, _ kind: String = "") throws -> [FixtureCase] {
    try fixtureCases("objectives.json").filter { $0.source.hasPrefix(source) && $0.kind.hasPrefix(kind) }
  }

  @Test("verl: KL estimators k1, k2, k3 and their gradients")
  func estimators() throws {
    var compared = 0
    for (name, estimator) in [("k1", KLEstimator.k1), ("k2", .k2), ("k3", .k3)] {
      let c = try #require(try cases("verl-project/verl ", "kl_estimator:\(name)").first { $0.kind.hasSuffix(name) })
      let (new, reference) = (c.inputs.numbers("log_prob"), c.inputs.numbers("ref_log_prob"))
      for i in new.indices {
        let delta = reference[i] - new[i]
        // Two elements: verl clamps δ to ±20 and this estimate to ±10, with no gradient there.
        if name == "k3" && (abs(delta) > 20 || exp(delta) - 1 - delta > 10) { continue }
        var o = ChunkLossOptions()
        (o.kl, o.klEstimator, o.reference) = (1, estimator, [reference[i]])
        let ours = try chunkLoss(new: [new[i]], old: [0], advantages: [0], plan: ChunkPlan([1]), options: o)
        #expect(close(ours.loss, c.expected.numbers("kl")[i], 1e-12))
        #expect(close(ours.gradLogProbs[0], c.expected.numbers("grad_of_sum_wrt_log_prob")[i], 1e-12))
        compared += 1
      }
    }
    #expect(compared == 3 * 18 - 2)
  }

  @Test("GCPO: k3 against the behaviour policy")
  func gcpoKL() throws {
    let c = try #require(try cases("xingzhejun/GCPO", "kl_k3_mean").first)
    let new = c.inputs.numbers("new_log_prob")
    let ours = try chunkLoss(
      new: new, old: c.inputs.numbers("old_log_prob"), advantages: new.map { _ in 0 }, plan: ChunkPlan([1]), kl: 1)
    meets(ours.loss, ours.gradLogProbs, c.expected.number("kl"), c.expected.numbers("grad_wrt_new"), c.kind)
  }

  @Test("MixGRPO with k2, DanceGRPO: clipped objective of single steps")
  func steps() throws {
    var count = 0
    for c in try cases("", "clipped_step_objective") {
      let a = c.inputs.numbers("advantages", clamped: c.inputs.number("adv_clip_max"))
      let old = c.inputs.numbers("old_log_probs")
      var o = ChunkLossOptions()
      o.clip = ClipRange(low: c.inputs.number("clip_range"), high: c.inputs.number("clip_range"))
      (o.kl, o.klEstimator) = (c.inputs["kl_coeff"] as? Double ?? 0, .k2)
      // Each sample is a micro-batch of its own there.
      o.average = .chunk
      o.normaliser = Double(old.count / a.count) * c.inputs.number("gradient_accumulation_steps")
      let ours = try chunkLoss(
        new: c.inputs.numbers("new_log_probs"), old: old, advantages: a,
        plan: .fixed(steps: old.count / a.count, size: 1), options: o)
      meets(
        ours.loss, ours.gradLogProbs, c.expected.number("loss_sum_over_samples"), c.expected.numbers("grad_wrt_new"),
        c.source)
      count += 1
    }
    #expect(count == 3)
  }

  @Test("GCPO: chunk objective with asymmetric clip, k3 and chunk weights")
  func gcpoChunks() throws {
    var count = 0
    for c in try cases("xingzhejun/GCPO", "chunk_objective") {
      let a = c.inputs.numbers("advantages", clamped: c.inputs.number("adv_clip_max"))
      let sizes = c.inputs["chunk_sizes"] as? [Int] ?? []
      let weights = try ChunkPlan(sizes).gcpoWeights()
      var o = ChunkLossOptions()
      o.clip = ClipRange(low: c.inputs.number("clip_low"), high: c.inputs.number("clip_high"))
      o.kl = c.inputs.number("kl_coeff")
      o.normaliser = c.inputs.number("train_chunks") * c.inputs.number("gradient_accumulation_steps")
      if c.inputs["reweight"] as? Bool == true {
        o.weights = Numbers(weights)
        for (w, expected) in zip(weights, c.expected.numbers("reweight_factor_per_chunk")) {
          #expect(close(w, expected, 1e-14))
        }
      }
      // Their log-probabilities are already the means of the chunks.
      let ours = try chunkLoss(
        new: c.inputs.numbers("new_chunk_log_probs"), old: c.inputs.numbers("old_chunk_log_probs"), advantages: a,
        plan: .fixed(steps: sizes.count, size: 1), options: o)
      meets(
        ours.loss, ours.gradLogProbs, c.expected.number("loss_sum_over_samples"), c.expected.numbers("grad_wrt_new"),
        c.kind)
      count += 1
    }
    #expect(count == 3)
    #expect(try cases("xingzhejun/GCPO", "tempflow_chunk_weight_at_step_0").count == 1)
    #expect(error { _ = try ChunkPlan([1, 16]).gcpoWeights() }?.message.contains("step 0") == true)
  }

  @Test("TRL: token and sequence losses with a mask")
  func trl() throws {
    let c = try #require(try cases("huggingface/trl").first)
    let (new, mask, a) = (c.inputs.numbers("new_log_probs"), c.inputs.numbers("mask"), c.inputs.numbers("advantages"))
    let (old, batch, steps) = (c.inputs.numbers("old_log_probs"), a.count, new.count / a.count)
    let variants = try #require(c.expected["variants"] as? [[String: Any]])
    var count = 0
    for v in variants {
      let kind = v["loss_type"] as? String ?? ""
      if Self.leftOut[kind] != nil || v["use_bias_correction_kl"] as? Bool == true { continue }
      let sequence = v["importance_sampling_level"] as? String == "sequence" || kind == "vespo"
      let plan = try ChunkPlan.fixed(steps: steps, size: sequence ? steps : 1)
      var o = ChunkLossOptions()
      o.mask = Flags(mask.map { $0 != 0 })
      o.clip = ClipRange(low: v.number("epsilon_low"), high: v.number("epsilon_high"))
      o.ratioCap = v["delta"] as? Double ?? .infinity
      (o.kl, o.klLevel, o.reference) = (v.number("beta"), .step, Numbers(c.inputs.numbers("ref_log_probs")))
      switch kind {
      case "grpo": o.average = .sample
      case "sapo":
        (o.average, o.surrogate, o.clip) = (.sample, .sapo, .gcpo)
        // torch.where makes a tensor of f32 of its 1.05.
        o.sapo.negative = Double(Float(o.sapo.negative))
      case "vespo":
        (o.average, o.surrogate, o.clip) = (.step, .vespo, .gcpo)
        o.normaliser = c.inputs.number("num_items_in_batch")
      case "bnpo": o.average = .chunk
      case "dr_grpo": (o.average, o.normaliser) = (.step, Double(batch) * c.inputs.number("max_completion_length"))
      case "dapo": (o.average, o.normaliser) = (.step, c.inputs.number("num_items_in_batch"))
      case "luspo": (o.average, o.normaliser) = (.step, Double(batch))
      case "cispo":
        o.surrogate = .cispo
        o.clip = ClipRange(low: 1, high: v.number("epsilon_high") - 1)
        (o.average, o.normaliser) = (.step, c.inputs.number("num_items_in_batch"))
      default: Issue.record("loss type \(kind)")
      }
      if let threshold = v["off_policy_mask_threshold"] as? Double {
        // Sequences with A < 0 that have drifted too far are dropped: weights of 0.
        let sampled = c.inputs.numbers("sampling_log_probs")
        let weights = (0..<batch).flatMap { i in
          let present = (0..<steps).map { i * steps + $0 }.filter { mask[$0] != 0 }
          let drift = present.reduce(0) { $0 + sampled[$1] - new[$1] } / Double(present.count)
          return [Double](repeating: a[i] < 0 && drift > threshold ? 0 : 1, count: plan.count)
        }
        o.weights = Numbers(weights)
      }
      let onPolicy = v["old_log_probs_given"] as? Bool == false
      let ours = try chunkLoss(new: new, old: onPolicy ? new : old, advantages: a, plan: plan, options: o)
      meets(ours.loss, ours.gradLogProbs, v.number("loss"), v.numbers("grad_wrt_new"), "TRL \(v)")
      count += 1
    }
    #expect(variants.count == 23 && count == 22)
  }

  @Test("verl: dual clip with each aggregation, GSPO, GMPO, CISPO")
  func verl() throws {
    var count = 0
    for c in try cases("verl-project/verl ", "verl_") {
      let (new, mask, a) = (c.inputs.numbers("new_log_probs"), c.inputs.numbers("mask"), c.inputs.numbers("advantages"))
      let (batch, steps) = (a.count, new.count / a.count)
      for v in c.expected["variants"] as? [[String: Any]] ?? [] {
        let sequence = ["verl_gspo", "verl_geo_mean"].contains(c.kind)
        var o = ChunkLossOptions()
        o.mask = Flags(mask.map { $0 != 0 })
        o.clip = ClipRange(
          low: v["clip_ratio_low"] as? Double ?? v.number("clip_ratio"),
          high: v["clip_ratio_high"] as? Double ?? v.number("clip_ratio"))
        o.dualClip = v["clip_ratio_c"] as? Double ?? .infinity
        if c.kind == "verl_geo_mean" { o.surrogate = .logClipped }
        if c.kind == "verl_cispo" { o.surrogate = .cispo }
        let mode = sequence ? "seq-mean-token-mean" : v["loss_agg_mode"] as? String
        switch mode {
        case "token-mean": o.average = .chunk
        case "seq-mean-token-mean": o.average = .sample
        case "seq-mean-token-sum": (o.average, o.normaliser) = (.step, Double(batch))
        case "seq-mean-token-sum-norm": (o.average, o.normaliser) = (.step, Double(batch * steps))
        default: Issue.record("mode \(mode ?? "")")
        }
        let ours = try chunkLoss(
          new: new, old: c.inputs.numbers("old_log_probs"), advantages: a,
          plan: .fixed(steps: steps, size: sequence ? steps : 1), options: o)
        // verl adds 1e-8 to the number of tokens of a sequence (here as small as 1), GMPO twice.
        let tolerance = mode == "seq-mean-token-mean" ? 2.5e-8 : 1e-12
        meets(
          ours.loss, ours.gradLogProbs, v.number("loss"), v.numbers("grad_wrt_new"), "\(c.kind) \(v)",
          tolerance: tolerance, gradient: max(tolerance, 1e-10))
        count += 1
      }
    }
    #expect(count == 14)
  }
}
