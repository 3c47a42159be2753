import ChunkGRPO
import Foundation
import Testing

@Suite("Named samplers")
struct NamedSamplerTests {
  private static let names: [String: Dynamics] = [
    "precise": .precise, "precise_dance": .preciseDance, "sage": .sage, "flash_sde": .flashSDE, "edm_churn": .edmChurn,
    "consistency": .consistency,
  ]

  @Test("a, b and s of each are those of its published code: Tests/fixtures/samplers_named.json")
  func published() throws {
    var kinds: [String: Int] = [:]
    for c in try samplerCases("samplers_named.json", { _ in true }) {
      let dynamics = try #require(Self.names[c.kind])
      let eta = try #require(c.inputs["eta"] as? Double)
      let sampler = try Sampler(Schedule(flat(c.inputs["sigmas"])), dynamics: dynamics, eta: eta)
      let s = flat(c.expected["s"])
      let ours = sampler.coefficients.prefix(s.count)
      expectClose(ours.map(\.a), flat(c.expected["a"]), "a of \(c.kind), eta \(eta)")
      expectClose(ours.map(\.b), flat(c.expected["b"]), "b of \(c.kind), eta \(eta)")
      expectClose(ours.map(\.s), s, "s of \(c.kind), eta \(eta)")
      kinds[c.kind, default: 0] += 1
    }
    #expect(
      kinds == ["precise": 16, "precise_dance": 16, "sage": 16, "flash_sde": 4, "edm_churn": 16, "consistency": 4])
  }

  @Test("All of them are two: CPS or Dance-SDE with an eta for each step")
  func families() throws {
    let schedule = try Schedule.shifted(steps: 12, shift: 3)
    let etas: [Dynamics: (Dynamics, (Double, Double) -> Double)] = [
      .precise: (.cps, { 2 / .pi * acos(pow((1 - $0) * $1 / ($0 * (1 - $1)), 0.245)) }),
      .preciseDance: (.cps, { 2 / .pi * acos(exp(-0.245 * (1 / $1 - 1 / $0))) }),
      .edmChurn: (.cps, { _, _ in 2 / .pi * acos(1 / 1.7) }),
      .consistency: (.cps, { _, _ in 1 }),
      .sage: (.danceSDE, { 0.7 * ((log((1 - $1) / (1 - min($0, 0.997))) - $0 + $1) / ($0 - $1)).squareRoot() }),
      .flashSDE: (.danceSDE, { sigma, _ in 0.7 * schedule.sigmas[1] * sigma }),
    ]
    for (named, (family, eta)) in etas {
      let each = zip(schedule.sigmas, schedule.sigmas.dropFirst()).map { eta($0, $1) }
      let plain = try Sampler(schedule, SamplerOptions { ($0.dynamics, $0.etas) = (family, Numbers(each)) })
      for (a, b) in zip(try Sampler(schedule, dynamics: named, eta: 0.7).coefficients, plain.coefficients) {
        #expect(max(abs(a.a - b.a), abs(a.b - b.b), abs(a.s - b.s)) < 1e-12, "\(named)")
      }
    }
  }

  @Test("Precise with eta sqrt(2) is first-order DPM-Solver++ with noise")
  func preciseIsDPM() throws {
    let schedule = try Schedule.shifted(steps: 9, shift: 3)
    let dpm = try Sampler(schedule, SamplerOptions { ($0.dynamics, $0.dpmOrder) = (.dpmSDE, 1) })
    for (a, b) in zip(try Sampler(schedule, dynamics: .precise, eta: 2.0.squareRoot()).coefficients, dpm.coefficients) {
      #expect(max(abs(a.a - b.a), abs(a.b - b.b), abs(a.s - b.s)) < 1e-12)
    }
  }

  @Test(
    "At eta 0 each is the Euler step without noise",
    arguments: [Dynamics.precise, .preciseDance, .sage, .flashSDE, .edmChurn])
  func etaZero(dynamics: Dynamics) throws {
    let schedule = try Schedule.shifted(steps: 9, shift: 3)
    let ode = try Sampler(schedule, dynamics: .ode).coefficients
    for (a, b) in zip(try Sampler(schedule, dynamics: dynamics, eta: 0).coefficients, ode) {
      #expect(abs(a.a - b.a) < 1e-15 && abs(a.b - b.b) < 1e-15 && a.s == 0)
    }
  }

  @Test("SAGE refuses a step that ends so near to 1 that its variance is negative, where its own code gives NaN")
  func sageNearOne() throws {
    let schedule = try Schedule([1, 0.998, 0.5, 0])
    #expect(throws: ChunkGRPOError.self) { try Sampler(schedule, dynamics: .sage, eta: 0.7) }
    #expect(throws: Never.self) { try Sampler(schedule, dynamics: .flowSDE, eta: 0.7) }
    #expect(try Sampler(schedule, dynamics: .sage, eta: 0).coefficients[0].s == 0)
  }
}
