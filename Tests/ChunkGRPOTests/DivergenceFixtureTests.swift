import ChunkGRPO
import Foundation
import Testing

/// Every objective of Tests/fixtures/objectives_flow_grpo.json and objectives_frameworks.json: from velocities to the
/// loss and its gradient in log-probability and velocity. All of them are matched.
@Suite("Objectives of the public code, from velocities")
struct DivergenceFixtureTests {
  /// One step of one case: what a trainer has in its hands.
  private struct Step {
    let sampler: Sampler
    let k, batch: Int
    let x, next, velocity: Latents
    let old, reference: Latents?
    let inputs: [String: Any]
    let newLogProbs, oldLogProbs: [Double]

    init(_ c: FixtureCase, _ dynamics: Dynamics, eta: Double) throws {
      let samples = c.inputs.numbers("old_log_probs").count
      func latents(_ key: String) throws -> Latents { try Latents(c.inputs.numbers(key), batch: samples) }
      inputs = c.inputs
      k = c.inputs["index"] as? Int ?? 0
      oldLogProbs = c.inputs.numbers("old_log_probs")
      batch = samples
      sampler = try Sampler(
        Schedule(c.inputs.numbers("sigmas")), dynamics: dynamics, eta: eta,
        logProbForm: dynamics == .cps ? .squaredError : .gaussian)
      x = try latents("x")
      next = try latents("x_next")
      velocity = try latents("velocity")
      old = c.inputs["velocity_old"] == nil ? nil : try latents("velocity_old")
      reference = c.inputs["velocity_ref"] == nil ? nil : try latents("velocity_ref")
      newLogProbs = try sampler.logProb(k, x, velocity, next)
    }

    var s: Double { sampler.coefficients[k].s }
    var delta: Double { sampler.schedule.sigmas[k] - sampler.schedule.sigmas[k + 1] }

    /// Divergence from another policy, and `upstream` times its gradient.
    func divergence(_ kind: Divergence, from other: Latents?, upstream: [Double]? = nil) throws -> ([Double], [Double])
    {
      let other = try #require(other)
      var values = [Double](repeating: .nan, count: batch)
      let gradient = try Latents(type: .float64, batch: batch, elements: x.elements)
      try (upstream ?? values).withUnsafeBufferPointer { u in
        try sampler.divergence(
          kind, k, velocity: velocity.view, other: other.view, divergence: &values,
          gradient: upstream == nil ? nil : u.baseAddress.map { ($0, gradient.view) })
      }
      return try (values, gradient.values)
    }

    func loss(_ options: ChunkLossOptions, clamp: Bool = true) throws -> ChunkLoss {
      let bound = clamp ? inputs["adv_clip_max"] as? Double ?? inputs.numbers("adv_clip_range")[1] : .infinity
      return try chunkLoss(
        new: newLogProbs, old: oldLogProbs, advantages: inputs.numbers("advantages", clamped: bound),
        plan: ChunkPlan([1]), options: options)
    }

    /// ∂loss/∂velocity through the log-probability.
    func throughLogProb(_ gradient: [Double]) throws -> [Double] {
      let result = try Latents(type: .float64, batch: batch, elements: x.elements)
      try sampler.logProbVJP(
        k, latents: x.view, velocity: velocity.view, next: next.view, gradLogProb: gradient, gradVelocity: result.view)
      return try result.values
    }

    /// GRPO-Guard: scale s and the Gaussian divergence from the old policy as bias; weight 1/Δ but for Flow-Factory.
    /// `batchBias`: Flow-GRPO's script has one bias for the whole batch.
    func guarded(clip: ClipRange, overTime: Bool, batchBias: Bool = false) throws -> (ChunkLoss, gradient: [Double]) {
      var o = ChunkLossOptions()
      o.clip = clip
      o.ratioScale = [s]
      let bias = try divergence(.gaussian, from: old).0
      o.ratioBias = Numbers(batchBias ? bias.map { _ in mean(bias) } : bias)
      if overTime { o.weights = [1 / delta] }
      let result = try loss(o)
      let upstream = batchBias ? bias.map { _ in mean(result.gradRatioBias) } : result.gradRatioBias
      return (
        result, sum(try throughLogProb(result.gradLogProbs), try divergence(.gaussian, from: old, upstream: upstream).1)
      )
    }
  }

  private func symmetric(_ value: Double) -> ClipRange { ClipRange(low: value, high: value) }

  private func checkLogProb(_ step: Step, _ c: FixtureCase) {
    for (a, b) in zip(step.newLogProbs, c.expected.numbers("log_prob")) { #expect(close(a, b, 1e-12), "\(c.kind)") }
  }

  @Test("Flow-GRPO: SDE, CPS, GRPO-Guard with the bias of the batch; Wan with the exact KL")
  func flowGRPO() throws {
    var count = 0
    for c in try fixtureCases("objectives_flow_grpo.json") where c.source.hasPrefix("yifan123/flow_grpo") {
      let wan = c.kind.hasPrefix("flow_grpo_wan")
      let cps = c.kind.hasSuffix(":cps")
      // Its Wan sampler is Dance-SDE with g = σ_1·σ.
      let sigmas = c.inputs.numbers("sigmas")
      let eta = wan ? sigmas[1] * sigmas[c.inputs["index"] as? Int ?? 0] : c.inputs.number("eta")
      let step = try Step(c, wan ? .danceSDE : cps ? .cps : .flowSDE, eta: eta)
      checkLogProb(step, c)
      let beta = c.inputs.number("beta")
      let clip = symmetric(c.inputs.number("clip_range"))

      let policy: ChunkLoss
      var gradient: [Double]
      if c.kind.hasPrefix("grpo_guard") {
        (policy, gradient) = try step.guarded(clip: clip, overTime: true, batchBias: true)
      } else {
        var o = ChunkLossOptions()
        o.clip = clip
        policy = try step.loss(o)
        gradient = try step.throughLogProb(policy.gradLogProbs)
      }
      meets(
        policy.loss, policy.gradLogProbs, c.expected.number("policy_loss"), c.expected.numbers("grad_wrt_log_prob"),
        c.kind)
      var loss = policy.loss
      if beta > 0 {
        let kind = wan || cps ? Divergence.gaussian : .gaussianPerTime
        let share = [Double](repeating: beta / Double(step.batch), count: step.batch)
        let (kl, klGradient) = try step.divergence(kind, from: step.reference, upstream: share)
        #expect(abs(mean(kl) - c.expected.number("kl")) < 1e-11 * mean(kl), "\(c.kind)")
        loss += beta * mean(kl)
        gradient = sum(gradient, klGradient)
      }
      meets(loss, gradient, c.expected.number("loss"), c.expected.numbers("grad_wrt_velocity"), c.kind)
      count += 1
    }
    #expect(count == 8)
  }

  @Test("Pref-GRPO: GRPO-Guard with a bias a sample, exact Gaussian KL")
  func prefGRPO() throws {
    var count = 0
    for c in try fixtureCases("objectives_flow_grpo.json") where c.source.hasPrefix("CodeGoat24/Pref-GRPO") {
      let step = try Step(c, .flowSDE, eta: c.inputs.number("eta"))
      checkLogProb(step, c)
      let clip = symmetric(c.inputs.number("clip_range"))
      let result: ChunkLoss
      let gradient: [Double]
      if c.inputs["rationorm"] as? Bool == true {
        (result, gradient) = try step.guarded(clip: clip, overTime: true)
        for (a, b) in zip(try step.divergence(.gaussian, from: step.old).0, c.expected.numbers("ratio_mean_bias")) {
          #expect(abs(a - b) < 1e-11 * b)
        }
      } else {
        var o = ChunkLossOptions()
        o.clip = clip
        result = try step.loss(o)
        gradient = try step.throughLogProb(result.gradLogProbs)
      }
      meets(
        result.loss, result.gradLogProbs, c.expected.number("loss"), c.expected.numbers("grad_wrt_log_prob"), c.kind)
      meets(result.loss, gradient, c.expected.number("loss"), c.expected.numbers("grad_wrt_velocity"), c.kind)
      let share = [Double](repeating: 1 / Double(step.batch), count: step.batch)
      let (kl, klGradient) = try step.divergence(.gaussian, from: step.reference, upstream: share)
      #expect(abs(mean(kl) - c.expected.number("kl")) < 1e-11 * mean(kl))
      meets(mean(kl), klGradient, c.expected.number("kl"), c.expected.numbers("kl_grad_wrt_velocity"), c.kind)
      count += 1
    }
    #expect(count == 3)
  }

  @Test("verl-omni: Flow-GRPO, Flow-DPPO, GRPO-Guard, KL without Δ")
  func verlOmni() throws {
    var count = 0
    for c in try fixtureCases("objectives_frameworks.json") where c.source.hasPrefix("verl-project/verl-omni") {
      let step = try Step(c, .flowSDE, eta: c.inputs.number("eta"))
      checkLogProb(step, c)
      func check(_ key: String, _ loss: Double, logProb: [Double]?, velocity: [Double]) throws {
        let expected = try #require(c.expected[key] as? [String: Any])
        if let logProb { meets(loss, logProb, expected.number("loss"), expected.numbers("grad_wrt_log_prob"), key) }
        meets(loss, velocity, expected.number("loss"), expected.numbers("grad_wrt_velocity"), key)
        count += 1
      }
      let clip = symmetric(c.inputs.number("clip_ratio"))
      var o = ChunkLossOptions()
      o.clip = clip
      let grpo = try step.loss(o)
      try check(
        "flow_grpo", grpo.loss, logProb: grpo.gradLogProbs, velocity: step.throughLogProb(grpo.gradLogProbs))

      var mask = ChunkLossOptions()
      mask.surrogate = .divergenceMask
      mask.divergenceThreshold = c.inputs.number("kl_mask_threshold")
      // Without `add_kl_coefficient` it is half the squared distance of the means.
      mask.divergence = Numbers(
        c.inputs["add_kl_coefficient"] as? Bool == true
          ? try step.divergence(.gaussian, from: step.old).0
          : try step.divergence(.mean, from: step.old).0.map { $0 / 2 })
      let dppo = try step.loss(mask, clamp: false)
      try check(
        "flow_dppo", dppo.loss, logProb: dppo.gradLogProbs, velocity: step.throughLogProb(dppo.gradLogProbs))
      let metrics = try #require((c.expected["flow_dppo"] as? [String: Any])?["metrics"] as? [String: Any])
      #expect(dppo.stats.clipFractionHigh == metrics.number("actor/pos_rm_fraction"))
      #expect(dppo.stats.clipFractionLow == metrics.number("actor/neg_rm_fraction"))

      let (guarded, gradient) = try step.guarded(clip: clip, overTime: true)
      try check("grpo_guard", guarded.loss, logProb: guarded.gradLogProbs, velocity: gradient)

      let share = [Double](repeating: 1 / Double(step.batch), count: step.batch)
      let (kl, klGradient) = try step.divergence(.gaussianPerTime, from: step.reference, upstream: share)
      try check("kl", mean(kl), logProb: nil, velocity: klGradient)
    }
    #expect(count == 16)
  }

  @Test("Flow-Factory: GRPO and GRPO-Guard, KL of velocities and of means; Flow-SDE, Dance-SDE, CPS")
  func flowFactory() throws {
    var count = 0
    for c in try fixtureCases("objectives_frameworks.json") where c.source.hasPrefix("X-GenGroup/Flow-Factory") {
      let dynamics: [String: Dynamics] = ["Flow-SDE": .flowSDE, "Dance-SDE": .danceSDE, "CPS": .cps]
      let step = try Step(
        c, #require(dynamics[c.inputs["dynamics"] as? String ?? ""]), eta: c.inputs.number("eta"))
      checkLogProb(step, c)
      let range = c.inputs.numbers("clip_range")
      let clip = ClipRange(low: -range[0], high: range[1])
      let policy: ChunkLoss
      let policyGradient: [Double]
      if c.kind.hasPrefix("grpo_guard") {
        (policy, policyGradient) = try step.guarded(clip: clip, overTime: false)
      } else {
        var o = ChunkLossOptions()
        o.clip = clip
        policy = try step.loss(o)
        policyGradient = try step.throughLogProb(policy.gradLogProbs)
      }
      meets(
        policy.loss, policy.gradLogProbs, c.expected.number("policy_loss"),
        c.expected.numbers("policy_grad_wrt_log_prob"), c.kind)
      meets(
        policy.loss, policyGradient, c.expected.number("policy_loss"), c.expected.numbers("policy_grad_wrt_velocity"),
        c.kind)
      let beta = c.inputs.number("kl_beta")
      let share = [Double](repeating: beta / Double(step.batch), count: step.batch)
      let (kl, klGradient) = try step.divergence(
        c.kind.hasSuffix("v-based") ? .velocity : .mean, from: step.reference, upstream: share)
      #expect(abs(mean(kl) - c.expected.number("kl")) < 1e-11 * mean(kl), "\(c.kind)")
      meets(
        policy.loss + beta * mean(kl), sum(policyGradient, klGradient), c.expected.number("loss"),
        c.expected.numbers("grad_wrt_velocity"), c.kind)
      count += 1
    }
    #expect(count == 6)
  }
}

private func sum(_ a: [Double], _ b: [Double]) -> [Double] { zip(a, b).map { $0 + $1 } }
