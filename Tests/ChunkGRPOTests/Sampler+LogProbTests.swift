import ChunkGRPO
import Foundation
import Testing

@Suite("Log-probabilities")
struct SamplerLogProbTests {
  let schedule: Schedule

  init() throws { schedule = try Schedule.shifted(steps: 17, shift: 3) }

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
        #expect(try abs(gradient.values[i] - difference) < 1e-9 * max(1, abs(difference)))
      }
    }
  }

  @Test("At random settings, gradients of both velocities of guidance are finite differences")
  func vjpAtRandomSettings() throws {
    let stochastic = try Dynamics.allCases.filter { try Sampler(schedule, dynamics: $0).coefficients[1].s > 0 }
    for seed in 0..<60 {
      let r = try normals(64, seed: UInt64(100 + seed)).map { abs($0) }
      var o = SamplerOptions()
      o.dynamics = stochastic[seed % stochastic.count]
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
      let scale = try (dv.values + du.values).map { abs($0) }.max() ?? 0
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
        #expect(try abs(dv.values[i] - forV) < 1e-6 * scale && abs(du.values[i] - forU) < 1e-6 * scale)
      }
    }
  }
}
