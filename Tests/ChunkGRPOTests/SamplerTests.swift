import ChunkGRPO
import Foundation
import Testing

@Suite("Sampler")
struct SamplerTests {
  let schedule: Schedule

  init() throws { schedule = try Schedule.shifted(steps: 17, shift: 3) }

  @Test("Flow-SDE at sigma 1 has s = eta, whatever the schedule")
  func flowSDEFirstStep() throws {
    for shift in [0.5, 1, 3, 7.3] {
      let sampler = try Sampler(Schedule.shifted(steps: 11, shift: shift), eta: 0.7)
      #expect(abs(sampler.coefficients[0].s - 0.7) < 1e-12)
    }
  }

  @Test("GCPO's settings have the standard deviations that its code prints")
  func gcpoStandardDeviations() throws {
    let flow = try Sampler(schedule, eta: 0.7).coefficients.map(\.s)
    for (k, s) in [(0, 0.70000), (1, 0.72170), (2, 0.51561), (3, 0.42521), (15, 0.15828), (16, 0.12044)] {
      #expect(abs(flow[k] - s) < 5e-6)
    }
    let dance = try Sampler(schedule, dynamics: .danceSDE, eta: 0.7).coefficients.map(\.s)
    #expect(abs(dance[0] - 0.1) < 5e-6 && abs(dance[16] - 0.27815) < 5e-6)
  }

  @Test("At eta 0 every sampler is its ODE", arguments: [Dynamics.flowSDE, .danceSDE, .cps])
  func etaZeroIsODE(dynamics: Dynamics) throws {
    let ode = try Sampler(schedule, dynamics: .ode)
    for (c, o) in zip(try Sampler(schedule, dynamics: dynamics, eta: 0).coefficients, ode.coefficients) {
      #expect(abs(c.a - o.a) < 1e-15 && abs(c.b - o.b) < 1e-15 && c.s == 0)
    }
  }

  @Test("Where sigma' is 0, CPS and a deterministic last step return the predicted image x - sigma v")
  func lastStepIsPredictedImage() throws {
    let sigma = schedule.sigmas[16]
    for sampler in [
      try Sampler(schedule, dynamics: .cps, eta: 0.7), try Sampler(schedule, eta: 0.7, lastStep: .ode),
      try Sampler(schedule, dynamics: .danceSDE, eta: 0.7, lastStep: .ode),
    ] {
      let c = sampler.coefficients[16]
      #expect(c.a == 1 && c.b == -sigma && c.s == 0)
    }
  }

  @Test("CPS keeps the noise level: a x0 part and a noise part of sigma' in all")
  func cpsKeepsCoefficients() throws {
    // x' = (1 − σ')·x0 + q·x1 + s·ε with q² + s² = σ'², for x = (1−σ)x0 + σ x1 and v = x1 − x0.
    let sampler = try Sampler(schedule, dynamics: .cps, eta: 0.4)
    for (k, c) in sampler.coefficients.enumerated() {
      let (sigma, next) = (schedule.sigmas[k], schedule.sigmas[k + 1])
      let ofImage = c.a * (1 - sigma) - c.b
      let ofNoise = c.a * sigma + c.b
      #expect(abs(ofImage - (1 - next)) < 1e-14)
      #expect(abs(ofNoise * ofNoise + c.s * c.s - next * next) < 1e-14)
    }
  }

  @Test("A step is a x + b v + s e, and its log-probability the Gaussian's, averaged", arguments: ElementType.allCases)
  func stepAndLogProb(type: ElementType) throws {
    let (batch, elements) = (3, 1057)  // neither a multiple of the vector, the turn nor the block
    let sampler = try Sampler(schedule, eta: 0.7)
    let x = try Latents(type: type, batch: batch, elements: elements)
    let v = try Latents(type: type, batch: batch, elements: elements)
    let e = try Latents(type: type, batch: batch, elements: elements)
    let next = try Latents(type: type, batch: batch, elements: elements)
    for (i, latents) in [x, v, e].enumerated() { try normal(seed: UInt64(i), into: latents.view) }
    var logProb = [Double](repeating: 0, count: batch)
    var change = logProb
    try sampler.step(
      4, latents: x.view, velocity: v.view, noise: .given(e.view), next: next.view, logProb: &logProb,
      relativeL1: &change)

    let c = sampler.coefficients[4]
    let unit: Double =
      switch type {
      case .float64: 1e-14
      case .float32: 1e-6
      case .float16: 2e-3
      case .bfloat16: 2e-2
      }
    let (xs, vs, es, ns) = (x.values, v.values, e.values, next.values)
    for i in 0..<xs.count {
      #expect(abs(ns[i] - (c.a * xs[i] + c.b * vs[i] + c.s * es[i])) < unit * 4)
    }
    for sample in 0..<batch {
      let range = sample * elements..<(sample + 1) * elements
      let squared = mean(
        range.map { i in
          let d = ns[i] - c.a * xs[i] - c.b * vs[i]
          return d * d
        })
      let expected = -squared / (2 * c.s * c.s) - log(c.s) - 0.5 * log(2 * Double.pi)
      #expect(abs(logProb[sample] - expected) < (type == .float64 ? 1e-13 : 2e-6))
      let expectedChange = mean(range.map { abs(ns[$0] - xs[$0]) }) / (mean(range.map { abs(xs[$0]) }) + 1e-8)
      #expect(abs(change[sample] - expectedChange) < (type == .float64 ? 1e-13 : 2e-6))
    }
  }

  @Test("On the policy that sampled, the log-probability is the same bits again", arguments: ElementType.allCases)
  func onPolicyIsExact(type: ElementType) throws {
    let sampler = try Sampler(schedule, eta: 0.7)
    let x = try Latents(type: type, batch: 4, elements: 4099)
    let v = try Latents(type: type, batch: 4, elements: 4099)
    let next = try Latents(type: type, batch: 4, elements: 4099)
    let gradient = try Latents(type: type, batch: 4, elements: 4099)
    try normal(seed: 1, into: x.view)
    try normal(seed: 2, into: v.view)
    for k in 0..<17 {
      var sampled = [Double](repeating: 0, count: 4)
      var again = sampled
      try sampler.step(
        k, latents: x.view, velocity: v.view, noise: .library(seed: 3), next: next.view, logProb: &sampled)
      #expect(try sampler.logProb(k, x, v, next) == sampled)
      try sampler.logProbVJP(
        k, latents: x.view, velocity: v.view, next: next.view, gradLogProb: [1, 1, 1, 1],
        gradVelocity: gradient.view, logProb: &again)
      #expect(again == sampled)
    }
  }

  @Test(
    "The vector-Jacobian product is the derivative of the log-probability",
    arguments: [LogProbForm.gaussian, .squaredError])
  func vjpMatchesFiniteDifference(form: LogProbForm) throws {
    for dynamics in [Dynamics.flowSDE, .danceSDE, .cps] {
      let sampler = try Sampler(schedule, dynamics: dynamics, eta: 0.6, logProbForm: form)
      let draws = try normals(3 * 14, seed: 5)
      let x = try Latents(Array(draws[0..<14]), batch: 2)
      let velocity = Array(draws[14..<28])
      let next = try Latents(Array(draws[28..<42]), batch: 2)
      let gradient = try Latents(type: .float64, batch: 2, elements: 7)
      let weights = [0.7, -1.3]
      try sampler.logProbVJP(
        6, latents: x.view, velocity: Latents(velocity, batch: 2).view, next: next.view, gradLogProb: weights,
        gradVelocity: gradient.view)
      for i in 0..<14 {
        func loss(_ shift: Double) throws -> Double {
          var moved = velocity
          moved[i] += shift
          return zip(try sampler.logProb(6, x, Latents(moved, batch: 2), next), weights).reduce(0) { $0 + $1.0 * $1.1 }
        }
        // The log-probability is quadratic in v: a central difference has no truncation error.
        let difference = (try loss(1e-3) - loss(-1e-3)) / 2e-3
        #expect(abs(gradient.values[i] - difference) < 1e-9 * max(1, abs(difference)))
      }
    }
  }

  @Test("At random settings, gradients of both velocities of guidance are finite differences")
  func vjpAtRandomSettings() throws {
    for seed in 0..<60 {
      let r = try normals(64, seed: UInt64(100 + seed)).map { abs($0) }
      var o = SamplerOptions()
      o.dynamics = [.flowSDE, .danceSDE, .cps, .wanSDE, .dpmSDE][seed % 5]
      o.eta = min(1, 0.2 + r[0] / 3)
      o.dpmOrder = 1 + seed % 2
      o.logProbForm = seed % 3 == 0 ? .squaredError : .gaussian
      let steps = 3 + seed % 7
      let sampler = try Sampler(Schedule.shifted(steps: steps, shift: 0.5 + 2 * r[1]), o)
      let k = seed % (steps - 1)
      let draws = try normals(6 * 5, seed: UInt64(seed))
      func latents(_ i: Int) throws -> Latents { try Latents(Array(draws[i * 6..<(i + 1) * 6]), batch: 2) }
      let (x, next, image) = (try latents(0), try latents(1), try latents(2))
      let (v, u) = (Array(draws[18..<24]), Array(draws[24..<30]))
      let (w, weights) = (3 * r[2], [0.8, -1.7])
      func loss(_ v: [Double], _ u: [Double]) throws -> Double {
        var result = [0.0, 0.0]
        try sampler.logProb(
          k, latents: x.view, velocity: Latents(v, batch: 2).view,
          extras: StepExtras(unconditional: try Latents(u, batch: 2).view, guidance: w, previousImage: image.view),
          next: next.view, logProb: &result)
        return weights[0] * result[0] + weights[1] * result[1]
      }
      let (dv, du) = (
        try Latents(type: .float64, batch: 2, elements: 3), try Latents(type: .float64, batch: 2, elements: 3)
      )
      try sampler.logProbVJP(
        k, latents: x.view, velocity: Latents(v, batch: 2).view,
        extras: StepExtras(unconditional: try Latents(u, batch: 2).view, guidance: w, previousImage: image.view),
        next: next.view, gradLogProb: weights, gradVelocity: dv.view, gradUnconditional: du.view)
      let scale = (dv.values + du.values).map { abs($0) }.max() ?? 0
      for i in 0..<6 {
        func moved(_ values: [Double], _ shift: Double) -> [Double] {
          var values = values
          values[i] += shift
          return values
        }
        // Quadratic in both velocities: a central difference has no truncation error.
        let h = 1e-2
        let forV = (try loss(moved(v, h), u) - loss(moved(v, -h), u)) / (2 * h)
        let forU = (try loss(v, moved(u, h)) - loss(v, moved(u, -h))) / (2 * h)
        #expect(abs(dv.values[i] - forV) < 1e-6 * scale && abs(du.values[i] - forU) < 1e-6 * scale)
      }
    }
  }

  @Test("One thread or several, and a batch split in any way, give the same bits")
  func threadsAndSplitsAgree() throws {
    let (batch, elements) = (5, 60_001)
    func run(threads: Int, parts: [Range<Int>]) throws -> ([Double], [Double], [Double]) {
      let sampler = try Sampler(schedule, eta: 0.7, threads: threads)
      let x = try Latents(batch: batch, elements: elements)
      let v = try Latents(batch: batch, elements: elements)
      try normal(seed: 1, threads: threads, into: x.view)
      try normal(seed: 2, threads: threads, into: v.view)
      var (next, logProb, change): ([Double], [Double], [Double]) = ([], [], [])
      for part in parts {
        func slice(_ l: Latents) -> LatentsView {
          LatentsView(
            l.view.base + part.lowerBound * elements * 4, type: .float32, batch: part.count, elements: elements)
        }
        let out = try Latents(batch: part.count, elements: elements)
        var l = [Double](repeating: 0, count: part.count)
        var c = l
        try sampler.step(
          3, latents: slice(x), velocity: slice(v),
          noise: .library(seed: 9, sampleIDs: part.map { UInt64($0) }), next: out.view, logProb: &l, relativeL1: &c)
        next += out.values
        logProb += l
        change += c
      }
      return (next, logProb, change)
    }
    let whole = try run(threads: 1, parts: [0..<5])
    for (threads, parts) in [(2, [0..<5]), (7, [0..<5]), (1, [0..<1, 1..<5]), (3, [0..<2, 2..<3, 3..<5])] {
      let other = try run(threads: threads, parts: parts)
      #expect(whole == other)
    }
  }

  @Test("A deterministic step has log-probability 0 when taken, and is refused when asked for its density")
  func deterministicSteps() throws {
    let sampler = try Sampler(schedule, dynamics: .ode)
    let x = try Latents([0.5, -1.0, 2.0, 0.25], batch: 2)
    let next = try Latents(type: .float64, batch: 2, elements: 2)
    var logProb = [1.0, 1.0]
    try sampler.step(0, latents: x.view, velocity: x.view, noise: nil, next: next.view, logProb: &logProb)
    #expect(logProb == [0, 0])
    let refused = error { _ = try sampler.logProb(0, x, x, next) }
    #expect(refused?.code == .invalidArgument && refused?.message.contains("deterministic") == true)
  }

  @Test("NaN and infinity in any input are named by sample and step", arguments: ElementType.allCases)
  func nonFiniteIsNamed(type: ElementType) throws {
    let sampler = try Sampler(schedule, eta: 0.7)
    for bad in [Double.nan, .infinity, -.infinity] {
      for which in 0..<3 {
        let inputs = try (0..<3).map { _ in try Latents(type: type, batch: 3, elements: 37) }
        for (i, latents) in inputs.enumerated() { try normal(seed: UInt64(i), into: latents.view) }
        // Element 36 of sample 1 lies in the padded rest.
        for element in [0, 36] {
          let p = inputs[which].view.base + (37 + element) * type.size
          switch type {
          case .float64: p.storeBytes(of: bad, as: Double.self)
          case .float32: p.storeBytes(of: Float(bad), as: Float.self)
          case .float16: p.storeBytes(of: Float16(bad), as: Float16.self)
          case .bfloat16: p.storeBytes(of: UInt16(Float(bad).bitPattern >> 16), as: UInt16.self)
          }
        }
        let next = try Latents(type: type, batch: 3, elements: 37)
        let thrown = error {
          try sampler.step(
            5, latents: inputs[0].view, velocity: inputs[1].view, noise: .given(inputs[2].view), next: next.view)
        }
        #expect(thrown?.code == .nonFinite)
        #expect(thrown?.message.contains("sample 1 at step 5") == true)
      }
    }
  }

  @Test("Schedules and samplers refuse what makes no sense, and say which argument")
  func refusals() throws {
    for (name, body) in [
      ("sigmas", { _ = try Schedule([1]) }), ("sigmas[2]", { _ = try Schedule([1, 0.5, 0.5, 0]) }),
      ("sigmas[0]", { _ = try Schedule([1.5, 0.5, 0]) }), ("sigmas[1]", { _ = try Schedule([1, .nan, 0]) }),
      ("steps", { _ = try Schedule.linear(steps: 0) }), ("steps", { _ = try Schedule.linear(steps: .max) }),
      ("shift", { _ = try Schedule.shifted(steps: 5, shift: 0) }),
      ("shift", { _ = try Schedule.shifted(steps: 5, shift: .nan) }),
      ("eta", { _ = try Sampler(Schedule.linear(steps: 5), eta: -0.1) }),
      ("eta", { _ = try Sampler(Schedule.linear(steps: 5), eta: .nan) }),
      ("eta", { _ = try Sampler(Schedule.linear(steps: 5), dynamics: .cps, eta: 1.01) }),
      ("eta", { _ = try Sampler(Schedule.linear(steps: 5), eta: 1e300) }),
      ("threads", { _ = try Sampler(Schedule.linear(steps: 5), threads: 257) }),
      ("threads", { _ = try Sampler(Schedule.linear(steps: 5), threads: -1) }),
    ] as [(String, () throws -> Void)] {
      let thrown = error(body)
      #expect(thrown?.code == .invalidArgument)
      #expect(thrown?.message.contains(name) == true)
    }
  }
}
