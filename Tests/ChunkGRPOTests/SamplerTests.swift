import ChunkGRPO
import Foundation
import Testing

@Suite("Samplers")
struct SamplerTests {
  @Test("Samplers refuse what makes no sense, and say which argument")
  func refusals() throws {
    for (name, body) in [
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

  @Test("Windows and guidance that make no sense are refused by name")
  func refusedOptions() throws {
    let schedule = try Schedule.shifted(steps: 8, shift: 3)
    func sampler(_ change: (inout SamplerOptions) -> Void) throws -> Sampler {
      var o = SamplerOptions()
      change(&o)
      return try Sampler(schedule, o)
    }
    let x = try Latents([0.1, 0.2], batch: 1)
    for (name, body) in [
      ("window", { _ = try sampler { $0.window = [] } }), ("window[1]", { _ = try sampler { $0.window = [3, 3] } }),
      ("window", { _ = try sampler { $0.window = [7] } }),
      ("window", { _ = try sampler { ($0.window, $0.lastStep) = ([7], .ode) } }),
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
    ] as [(String, () throws -> Void)] {
      let thrown = error(body)
      #expect(
        thrown?.code == .invalidArgument && thrown?.message.contains(name) == true, "\(name): \(thrown?.message ?? "")")
    }
  }
}
