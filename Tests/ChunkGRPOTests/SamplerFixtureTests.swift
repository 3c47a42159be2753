import ChunkGRPO
import Foundation
import Testing

/// Steps, trajectories and windows of the public code: Tests/fixtures/samplers*.json, windows.json.
@Suite("Samplers of the public code")
struct SamplerFixtureTests {
  typealias Object = [String: Any]

  private func cases(_ file: String, _ kind: (String) -> Bool) throws -> [(
    kind: String, inputs: Object, expected: Object
  )] {
    let json = try JSONSerialization.jsonObject(with: fixture(file)) as? [Object] ?? []
    return json.compactMap {
      guard let k = $0["kind"] as? String, kind(k), let i = $0["inputs"] as? Object, let e = $0["expected"] as? Object
      else { return nil }
      return (k, i, e)
    }
  }

  private func flat(_ value: Any?) -> [Double] {
    if let number = value as? Double { return [number] }
    return (value as? [Any])?.flatMap { flat($0) } ?? []
  }

  private func batch(_ value: Any?) -> Int { (value as? [Any])?.count ?? 1 }

  private func close(_ a: [Double], _ b: [Double], _ what: String, tolerance: Double = 1e-12) {
    #expect(a.count == b.count, "\(what)")
    for (x, y) in zip(a, b) { #expect(abs(x - y) < tolerance * max(1, abs(y)), "\(what)") }
  }

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
    return (next.values, logProb)
  }

  @Test("Single steps of Flow-GRPO (SDE, CPS, Wan), Flow-Factory and verl-omni")
  func singleSteps() throws {
    var count = 0
    for c in try cases("samplers.json", { $0.hasPrefix("step:") && !$0.contains("bf16") }) {
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
      close(next, flat(c.expected["x_next"]), "\(c.kind) \(k)")
      let expected = flat(c.expected["log_prob"])
      // At s = 0 the sources print NaN, infinity or 0; here such a step has log-probability 0.
      if sampler.coefficients[k].s > 0 && expected.count == b && expected.allSatisfy({ $0.isFinite }) {
        close(logProb, expected, "\(c.kind) \(k) log-prob")
      }
      count += 1
    }
    #expect(count >= 30)
  }

  @Test("DPM-Solver++ of first and second order, with noise and without, as MixGRPO runs it")
  func dpmSteps() throws {
    var count = 0
    for c in try cases("samplers_dpm.json", { $0 == "dpm_step:dpmsolver++" }) {
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
        close(next, flat(expected["x_next"]), "order \(order), noisy \(noisy), step \(k)")
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
    let values = trajectory.values
    return (
      (1...sampler.steps).map { Array(values[$0 * b * d..<($0 + 1) * b * d]) },
      (0..<sampler.trainedSteps).map { k in (0..<b).map { logProbs[$0 * sampler.trainedSteps + k] } }
    )
  }

  @Test("Whole DPM-Solver++ trajectories, with their history")
  func dpmTrajectories() throws {
    var count = 0
    for c in try cases("samplers_dpm.json", { $0 == "dpm_trajectory" }) {
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
      for k in 0..<sampler.steps { close(x[k], expected[k], "order \(order), noisy \(noisy), step \(k)") }
      if noisy {
        let printed = try #require(c.expected["log_prob"] as? [Any]).map { flat($0) }
        for k in 0..<sampler.trainedSteps { close(logProbs[k], printed[k], "log-prob of step \(k)") }
      }
      count += 1
    }
    #expect(count == 3)
  }

  @Test("Whole trajectories of MixGRPO and MixGRPO-Flash: an SDE window, then ODE or fewer DPM-Solver++ steps")
  func mixedTrajectories() throws {
    var count = 0
    for c in try cases("samplers_dpm.json", { $0.hasPrefix("trajectory:") }) {
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
      o.window = window
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
      for k in 0..<sampler.steps { close(x[k], expected[k], "\(c.kind), step \(k)", tolerance: 1e-6) }
      let printed = flat(c.expected["log_prob"])
      for k in window where k < sampler.trainedSteps && flowGRPO {
        close(logProbs[k], [printed[k]], "\(c.kind), log-prob of step \(k)", tolerance: 1e-5)
      }
      count += 1
    }
    #expect(count == 6)
  }

  @Test("Flash's schedules have the points of MixGRPO's, where those reach 0")
  func flashSchedules() throws {
    let c = try #require(try cases("windows.json", { $0 == "flash_post_schedule" }).first)
    var count = 0
    for row in try #require(c.expected["rows"] as? [Object]) {
      let sigmas = flat(row["sigmas"])
      count += 1
      // Without a window the source raises a TypeError; here there is nothing to keep.
      guard let last = (row["sde_window"] as? [Int])?.last else { continue }
      let make = {
        try Schedule.flash(
          steps: #require(row["num_steps"] as? Int), shift: #require(row["shift"] as? Double),
          kept: last + 1, ratio: #require(row["dpm_post_compress_ratio"] as? Double))
      }
      if row["num_post_points"] as? Int == 1 {
        #expect(throws: ChunkGRPOError.self) { try make() }
      } else {
        close(try make().sigmas, sigmas, "flash", tolerance: 1e-6)
      }
    }
    #expect(count == 8)
  }

  @Test("Guidance in the step is guidance before it, and its gradients are the chain rule's")
  func guidance() throws {
    let c = try #require(try cases("samplers.json", { $0 == "cfg:plain" }).first)
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
    close(fused, before, "log-prob")

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
    close(flat(c.expected["grad_cond"]), upstream.map { w * $0 }, "fixture")
    close(flat(c.expected["grad_uncond"]), upstream.map { (1 - w) * $0 }, "fixture")
    close(dv.values, whole.values.map { w * $0 }, "conditional")
    close(du.values, whole.values.map { (1 - w) * $0 }, "unconditional")
  }

  @Test("MixGRPO's windows, but for those that hold no step")
  func windows() throws {
    var count = 0
    for c in try cases("windows.json", { $0.hasPrefix("window:") }) {
      guard let runs = c.expected["runs"] as? [Object], let size = c.inputs["group_size"] as? Int,
        let end = c.inputs["max_timesteps"] as? Int
      else { continue }
      let overlap = c.inputs["prog_overlap"] as? Bool == true ? c.inputs["prog_overlap_step"] as? Int : nil
      if overlap == 0 { continue }  // never moves: `fixed`
      let iterations = c.inputs["iters_per_group"] as? Int ?? 1
      let window = try SDEWindow(
        SDEWindowOptions {
          ($0.size, $0.end, $0.stride, $0.iterations) = (size, end, overlap, iterations)
          $0.first = c.inputs["cur_timestep"] as? Int ?? 0
          switch c.inputs["sample_strategy"] as? String {
          case "decay":
            $0.strategy = .linearDecay
            $0.iterations = c.inputs["max_iters_per_group"] as? Int ?? iterations
            $0.least = c.inputs["min_iters_per_group"] as? Int ?? max(1, iterations / 4)
          case "exp_decay":
            $0.strategy = .exponentialDecay
            $0.threshold = c.inputs["exp_decay_thre_timestep"] as? Int ?? 13
            $0.decay = c.inputs["exp_decay_k"] as? Double ?? 0.1
          default: break
          }
        })
      var iteration = 0
      for run in runs {
        let expected = run["window"] as? [Int] ?? []
        let lasting = run["iterations"] as? Int ?? 0
        if expected.isEmpty {
          if c.inputs["roll_back"] as? Bool != true { break }
          continue
        }
        for _ in 0..<lasting {
          #expect(try window.steps(iteration: iteration) == expected, "\(c.kind), iteration \(iteration)")
          iteration += 1
        }
      }
      count += 1
    }
    #expect(count >= 9)
  }

  @Test("verl-omni's progressive windows, and the starts of its random ones and of Flow-GRPO-Fast's")
  func verlWindows() throws {
    for c in try cases("windows.json", { $0.hasPrefix("window:verl_omni") }) {
      let size = try #require(c.inputs["sde_window_size"] as? Int)
      let range = try #require(c.inputs["sde_window_range"] as? [Int])
      let windows = try #require(c.expected["windows"] as? [[Int]])
      if c.kind.hasSuffix("progressive") {
        let iterations = try #require(c.inputs["iters_per_group"] as? Int)
        let ours = try SDEWindow(
          .init { ($0.size, $0.first, $0.end, $0.iterations, $0.atEnd) = (size, range[0], range[1], iterations, .stay) }
        )
        for (i, expected) in windows.enumerated() {
          #expect(try ours.steps(iteration: i) == Array(expected[0]..<expected[1]))
        }
      } else {
        // Their draws are Python's; the windows that can be drawn are the same.
        let ours = try SDEWindow(
          .init { ($0.size, $0.first, $0.end, $0.strategy, $0.seed) = (size, range[0], range[1], .random, 1) })
        let drawn = Set(try (0..<400).map { try ours.steps(iteration: $0) })
        #expect(drawn.count == range[1] - range[0] - size + 1)
        for expected in windows { #expect(drawn.contains(Array(expected[0]..<expected[1]))) }
      }
    }
  }

  @Test("Every strategy's windows hold steps within the bounds, for any iteration")
  func windowProperties() throws {
    let strategies: [(inout SDEWindowOptions) -> Void] = [
      { $0.strategy = .fixed }, { ($0.strategy, $0.seed) = (.random, 3) },
      { ($0.strategy, $0.size, $0.seed) = (.subset, 3, 4) }, { $0.iterations = 2 },
      { ($0.strategy, $0.iterations, $0.least) = (.linearDecay, 9, 2) },
      { ($0.strategy, $0.iterations, $0.threshold, $0.decay) = (.exponentialDecay, 7, 4, 0.3) },
    ]
    for strategy in strategies {
      for stride in 1...5 {
        let options = SDEWindowOptions { ($0.first, $0.end, $0.stride) = (2, 14, stride) }.with(strategy)
        let window = try SDEWindow(options)
        var seen: Set<[Int]> = []
        for iteration in 0..<300 {
          let steps = try window.steps(iteration: iteration)
          #expect(!steps.isEmpty && steps == steps.sorted() && Set(steps).count == steps.count)
          #expect(steps.allSatisfy { (2..<14).contains($0) })
          seen.insert(steps)
        }
        #expect(options.strategy == .fixed ? seen.count == 1 : seen.count > 2)
      }
    }
    let stops = try SDEWindow(.init { ($0.end, $0.iterations, $0.atEnd) = (8, 2, .stop) })
    #expect(try stops.steps(iteration: 3) == [4, 5, 6, 7])
    #expect(throws: ChunkGRPOError.self) { try stops.steps(iteration: 4) }
    let stays = try SDEWindow(.init { ($0.end, $0.iterations, $0.atEnd) = (8, 2, .stay) })
    #expect(try stays.steps(iteration: 400) == [4, 5, 6, 7])
  }

  @Test("Windows, guidance and histories that make no sense are refused by name")
  func refusals() throws {
    let schedule = try Schedule.shifted(steps: 8, shift: 3)
    func sampler(_ change: (inout SamplerOptions) -> Void) throws -> Sampler {
      var o = SamplerOptions()
      change(&o)
      return try Sampler(schedule, o)
    }
    let x = try Latents([0.1, 0.2], batch: 1)
    for (name, body) in [
      ("window", { _ = try sampler { $0.window = [] } }), ("window[1]", { _ = try sampler { $0.window = [3, 3] } }),
      ("window[0]", { _ = try sampler { $0.window = [8] } }), ("etas", { _ = try sampler { $0.etas = [1] } }),
      ("etas[2]", { _ = try sampler { $0.etas = [1, 1, -1, 1, 1, 1, 1, 1] } }),
      ("dpm_order", { _ = try sampler { $0.dpmOrder = 3 } }),
      ("outside", { _ = try sampler { $0.outside = .flowSDE } }),
      ("after", { _ = try sampler { $0.after = .cps } }),
      (
        "previous_image",
        {
          try sampler { $0.dynamics = .dpmODE }.step(3, latents: x.view, velocity: x.view, noise: nil, next: x.view)
        }
      ),
      (
        "guidance",
        {
          try sampler { _ in }.step(
            3, latents: x.view, velocity: x.view, extras: StepExtras(guidance: 2), noise: .library(seed: 1),
            next: x.view)
        }
      ),
      ("ratio", { _ = try Schedule.flash(steps: 10, shift: 3, kept: 8, ratio: 0.1) }),
      ("kept", { _ = try Schedule.flash(steps: 10, shift: 3, kept: 10, ratio: 0.5) }),
      ("size", { _ = try SDEWindow(.init { ($0.size, $0.end) = (5, 4) }) }),
      ("stride", { _ = try SDEWindow(.init { ($0.size, $0.end, $0.stride) = (2, 4, 0) }) }),
    ] as [(String, () throws -> Void)] {
      let thrown = error(body)
      #expect(
        thrown?.code == .invalidArgument && thrown?.message.contains(name) == true, "\(name): \(thrown?.message ?? "")")
    }
  }
}
