import ChunkGRPO
import Foundation
import Testing

/// Steps, trajectories and windows of the public code: Tests/fixtures/samplers*.json, windows.json.
@Suite("Samplers of the public code")
struct SamplerFixtureTests {
  private func step(
    _ sampler: Sampler, _ k: Int, _ x: [Double], _ v: [Double], previous: [Double]? = nil, noise: [Double]? = nil,
    batch: Int
  ) throws -> (next: [Double], logProb: [Double]) {
    let next = try Latents(type: .float64, batch: batch, elements: x.count / batch)
    var logProb = [Double](repeating: 0, count: batch)
    try sampler.step(
      k, latents: Latents(x, batch: batch).view, velocity: Latents(v, batch: batch).view,
      extras: StepExtras(previousImage: previous.map { try Latents($0, batch: batch).view }),
      noise: noise.map { .given(try Latents($0, batch: batch).view) }, next: next.view, logProb: &logProb)
    return try (next.values, logProb)
  }

  @Test("Single steps of Flow-GRPO (SDE, CPS, Wan), Flow-Factory and verl-omni")
  func singleSteps() throws {
    var count = 0
    for c in try samplerCases("samplers.json", { $0.hasPrefix("step:") && !$0.contains("bf16") }) {
      let eta = c.inputs["eta"] as? Double ?? 0
      var o = SamplerOptions()
      switch c.kind.lowercased() {
      case "step:sde", "step:flow-sde", "step:flow_sde": o.dynamics = .flowSDE
      case "step:dance-sde", "step:dance_sde": o.dynamics = .danceSDE
      case "step:cps": o.dynamics = .cps
      case "step:wan_sde": o.dynamics = .wanSDE
      case "step:ode": o.dynamics = .ode
      default:
        Issue.record("\(c.kind) is not known")
        continue
      }
      o.eta = eta
      if o.dynamics == .cps { o.logProbForm = .squaredError }
      let sampler = try Sampler(Schedule(flat(c.inputs["sigmas"])), o)
      let k = try #require(c.inputs["index"] as? Int)
      let x = flat(c.inputs["x"])
      let b = batch(c.inputs["x"])
      let (next, logProb) = try step(
        sampler, k, x, flat(c.inputs["velocity"]), noise: flat(c.inputs["noise"]), batch: b)
      expectClose(next, flat(c.expected["x_next"]), "\(c.kind) \(k)")
      let expected = flat(c.expected["log_prob"])
      // At s = 0 the sources print NaN, infinity or 0; here such a step has log-probability 0.
      if sampler.coefficients[k].s > 0 && expected.count == b && expected.allSatisfy({ $0.isFinite }) {
        expectClose(logProb, expected, "\(c.kind) \(k) log-prob")
      }
      count += 1
    }
    #expect(count >= 30)
  }

  @Test("DPM-Solver++ of first and second order, with noise and without, as MixGRPO runs it")
  func dpmSteps() throws {
    var count = 0
    for c in try samplerCases("samplers_dpm.json", { $0 == "dpm_step:dpmsolver++" }) {
      let k = try #require(c.inputs["index"] as? Int)
      let schedule = try Schedule(flat(c.inputs["sigmas"]))
      for (order, noisy) in [(1, true), (1, false), (2, true), (2, false)] {
        guard let expected = c.expected["order\(order):midpoint:\(noisy ? "sde" : "ode")"] as? Object else { continue }
        // The last step in second order is infinite in the source, which never takes it; ours is of first order.
        if order == 2 && k == schedule.steps - 1 { continue }
        if order == 2 && k == 0 { continue }
        var o = SamplerOptions()
        o.dynamics = noisy ? .dpmSDE : .dpmODE
        o.dpmOrder = order
        let sampler = try Sampler(schedule, o)
        let b = batch(c.inputs["x"])
        let next = try step(
          sampler, k, flat(c.inputs["x"]), flat(c.inputs["velocity"]), previous: flat(c.inputs["x0_previous"]),
          noise: noisy ? flat(c.inputs["noise"]) : nil, batch: b
        ).next
        expectClose(next, flat(expected["x_next"]), "order \(order), noisy \(noisy), step \(k)")
        if noisy { #expect(abs(sampler.coefficients[k].s - (expected["std"] as? Double ?? .nan)) < 1e-12) }
        count += 1
      }
    }
    #expect(count >= 12)
  }

  /// Runs a trajectory with given velocities and noise; returns x after each step and the log-probabilities.
  private func run(
    _ sampler: Sampler, _ initial: [Double], velocities: [[Double]], noise: [[Double]?], batch b: Int
  ) throws -> (x: [[Double]], logProbs: [[Double]]) {
    let d = initial.count / b
    let trajectory = try Latents(type: .float64, steps: sampler.steps + 1, batch: b, elements: d)
    let given = try Latents(type: .float64, steps: sampler.steps, batch: b, elements: d)
    for (e, value) in initial.enumerated() { try trajectory.view.doubles(e / d)[e % d] = value }
    for (k, values) in noise.enumerated() {
      for (e, value) in (values ?? []).enumerated() { try given[k].doubles(e / d)[e % d] = value }
    }
    var logProbs = [Double](repeating: 0, count: b * sampler.trainedSteps)
    try logProbs.withUnsafeMutableBufferPointer { logProbs in
      let buffers = TrajectoryBuffers(
        latents: trajectory.trajectory, logProbs: logProbs.baseAddress, relativeL1: nil)
      try sampler.rollout(buffers, range: 0..<sampler.steps, noise: .given(given.trajectory)) { k, _, _, v in
        for (e, value) in velocities[k].enumerated() { try v.doubles(e / d)[e % d] = value }
      }
    }
    let values = try trajectory.values
    return (
      (1...sampler.steps).map { Array(values[$0 * b * d..<($0 + 1) * b * d]) },
      (0..<sampler.trainedSteps).map { k in (0..<b).map { logProbs[$0 * sampler.trainedSteps + k] } }
    )
  }

  @Test("Whole DPM-Solver++ trajectories, with their history")
  func dpmTrajectories() throws {
    var count = 0
    for c in try samplerCases("samplers_dpm.json", { $0 == "dpm_trajectory" }) {
      let order = try #require(c.inputs["order"] as? Int)
      if order == 3 { continue }  // no public recipe trains with it
      let noisy = c.inputs["sde"] as? Bool ?? false
      var o = SamplerOptions()
      o.dynamics = noisy ? .dpmSDE : .dpmODE
      o.dpmOrder = order
      let sampler = try Sampler(Schedule(flat(c.inputs["sigmas"])), o)
      let velocities = try #require(c.inputs["velocities"] as? [Any]).map { flat($0) }
      let noise = (c.inputs["noise"] as? [Any])?.map { flat($0) } ?? Array(repeating: [], count: sampler.steps)
      let b = batch(c.inputs["x_init"])
      let (x, logProbs) = try run(sampler, flat(c.inputs["x_init"]), velocities: velocities, noise: noise, batch: b)
      let expected = try #require(c.expected["x"] as? [Any]).map { flat($0) }
      for k in 0..<sampler.steps { expectClose(x[k], expected[k], "order \(order), noisy \(noisy), step \(k)") }
      if noisy {
        let printed = try #require(c.expected["log_prob"] as? [Any]).map { flat($0) }
        for k in 0..<sampler.trainedSteps { expectClose(logProbs[k], printed[k], "log-prob of step \(k)") }
      }
      count += 1
    }
    #expect(count == 3)
  }

  @Test("Whole trajectories of MixGRPO and MixGRPO-Flash: an SDE window, then ODE or fewer DPM-Solver++ steps")
  func mixedTrajectories() throws {
    var count = 0
    for c in try samplerCases("samplers_dpm.json", { $0.hasPrefix("trajectory:") }) {
      let window = try #require(c.inputs["sde_window"] as? [Int])
      let flash = c.kind == "trajectory:flash"
      let post = c.inputs["dpm_apply_strategy"] as? String == "post"
      let flowGRPO = c.inputs["flow_grpo_sampling"] as? Bool ?? true
      let steps = try #require(c.inputs["num_steps"] as? Int)
      let shift = try #require(c.inputs["shift"] as? Double)
      // With the Dance-SDE, MixGRPO keeps no history in the window: the first step after it is then of first order.
      if flash && post && !flowGRPO { continue }
      // One step is left of three there, and the source ends with noise in the image.
      if flash && post && window[window.count - 1] == 7 { continue }
      let schedule =
        flash && post
        ? try Schedule.flash(
          steps: steps, shift: shift, kept: window[window.count - 1] + 1,
          ratio: #require(c.inputs["dpm_post_compress_ratio"] as? Double))
        : try Schedule.shifted(steps: steps, shift: shift)
      #expect(schedule.steps == c.expected["steps"] as? Int)
      var o = SamplerOptions()
      o.dynamics = flash && !post ? .dpmSDE : flowGRPO ? .flowSDE : .danceSDE
      o.eta = try #require(c.inputs["eta"] as? Double)
      o.window = Numbers(window)
      o.outside = flash && !post ? .dpmODE : .ode
      o.after = flash ? .dpmODE : .ode
      let sampler = try Sampler(schedule, o)
      // The source draws noise at every Flow-GRPO step, also where it throws it away.
      var queue = try #require(c.inputs["noise_queue"] as? [Any]).map { flat($0) }
      let drawsAlways = flowGRPO && !(flash && !post)
      let noise = (0..<sampler.steps).map { k -> [Double]? in
        let draws = drawsAlways ? !flash || k <= window[window.count - 1] : window.contains(k)
        return draws && !queue.isEmpty ? queue.removeFirst() : nil
      }
      let velocities = try #require(c.inputs["velocities"] as? [Any]).map { flat($0) }
      let (x, logProbs) = try run(sampler, flat(c.inputs["x_init"]), velocities: velocities, noise: noise, batch: 1)
      let expected = try #require((c.expected["x"] as? [Any])?.first as? [Any]).map { flat($0) }
      // Their schedule is f32; ours is f64.
      for k in 0..<sampler.steps { expectClose(x[k], expected[k], "\(c.kind), step \(k)", tolerance: 1e-6) }
      let printed = flat(c.expected["log_prob"])
      for k in window where k < sampler.trainedSteps && flowGRPO {
        expectClose(logProbs[k], [printed[k]], "\(c.kind), log-prob of step \(k)", tolerance: 1e-5)
      }
      count += 1
    }
    #expect(count == 6)
  }

  @Test("Guidance in the step is guidance before it, and its gradients are the chain rule's")
  func guidance() throws {
    let c = try #require(try samplerCases("samplers.json", { $0 == "cfg:plain" }).first)
    let (u, v) = (flat(c.inputs["uncond"]), flat(c.inputs["cond"]))
    let w = try #require(c.inputs["scale"] as? Double)
    let guided = flat(c.expected["velocity"])
    let b = batch(c.inputs["cond"])
    let sampler = try Sampler(Schedule.shifted(steps: 8, shift: 3))
    let x = try Latents(normals(v.count, seed: 1), batch: b)
    let next = try Latents(normals(v.count, seed: 2), batch: b)
    let extras = StepExtras(unconditional: try Latents(u, batch: b).view, guidance: w)
    var fused = [Double](repeating: 0, count: b)
    var before = fused
    try sampler.logProb(
      3, latents: x.view, velocity: Latents(v, batch: b).view, extras: extras, next: next.view, logProb: &fused)
    try sampler.logProb(3, latents: x.view, velocity: Latents(guided, batch: b).view, next: next.view, logProb: &before)
    expectClose(fused, before, "log-prob")

    let (dv, du, whole) = (
      try Latents(type: .float64, batch: b, elements: x.elements),
      try Latents(type: .float64, batch: b, elements: x.elements),
      try Latents(type: .float64, batch: b, elements: x.elements)
    )
    try sampler.logProbVJP(
      3, latents: x.view, velocity: Latents(v, batch: b).view, extras: extras, next: next.view, gradLogProb: [1, -2],
      gradVelocity: dv.view, gradUnconditional: du.view)
    try sampler.logProbVJP(
      3, latents: x.view, velocity: Latents(guided, batch: b).view, next: next.view, gradLogProb: [1, -2],
      gradVelocity: whole.view)
    // As the fixture's own gradients relate to what came from above.
    let upstream = flat(c.inputs["upstream_gradient"])
    expectClose(flat(c.expected["grad_cond"]), upstream.map { w * $0 }, "fixture")
    expectClose(flat(c.expected["grad_uncond"]), upstream.map { (1 - w) * $0 }, "fixture")
    try expectClose(dv.values, whole.values.map { w * $0 }, "conditional")
    try expectClose(du.values, whole.values.map { (1 - w) * $0 }, "unconditional")
  }

}
