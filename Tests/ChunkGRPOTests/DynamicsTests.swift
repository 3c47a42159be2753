import ChunkGRPO
import Foundation
import Testing

@Suite("Dynamics")
struct DynamicsTests {
  let schedule: Schedule

  init() throws { schedule = try Schedule.shifted(steps: 17, shift: 3) }

  @Test("Flow-SDE at sigma 1 has s = eta, whatever the schedule")
  func flowSDEFirstStep() throws {
    for shift in [0.5, 1, 3, 7.3] {
      let sampler = try Sampler(Schedule.shifted(steps: 11, shift: shift), eta: 0.7)
      #expect(abs(sampler.coefficients[0].s - 0.7) < 1e-12)
    }
  }

  @Test("A schedule made in float32 gives the sampler of the exact one, whether its first sigma is rounded up or down")
  func firstSigmaOfFloat32() throws {
    var (below, above) = (0, 0)
    for hundredths in 100...2000 {
      let shift = Double(hundredths) / 100
      // shift − 1 is rounded once, as numpy does it.
      let sigmas = (0...8).map { k -> Double in
        let t = 1 - Float(k) / 8
        return Double(Float(shift) * t / (1 + Float(shift - 1) * t))
      }
      below += sigmas[0] < 1 ? 1 : 0
      above += sigmas[0] > 1 ? 1 : 0
      let exact = try Schedule.shifted(steps: 8, shift: shift)
      for dynamics in Dynamics.allCases {
        let ours = try Sampler(Schedule(sigmas), dynamics: dynamics, eta: 0.7).coefficients
        for (a, b) in zip(ours, try Sampler(exact, dynamics: dynamics, eta: 0.7).coefficients) {
          for (x, y) in [(a.a, b.a), (a.b, b.b), (a.s, b.s), (a.c, b.c)] {
            #expect(abs(x - y) < 1e-4, "shift \(shift), \(dynamics): \(x) for \(y)")
          }
        }
      }
    }
    #expect(below > 0 && above > 0)
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

  @Test("Wan's SDE is Dance-SDE whose eta falls from sigma_1 to sigma_min with sigma", arguments: [0, 0.05, 1])
  func wanFallsToSigmaMin(smallest: Double) throws {
    let wan = try Sampler(schedule, SamplerOptions { ($0.dynamics, $0.wanSigmaMin) = (.wanSDE, smallest) })
    let etas = schedule.sigmas.dropLast().map { smallest + (schedule.sigmas[1] - smallest) * $0 }
    let dance = try Sampler(schedule, SamplerOptions { ($0.dynamics, $0.etas) = (.danceSDE, Numbers(etas)) })
    #expect(wan.coefficients == dance.coefficients)
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
}
