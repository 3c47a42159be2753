import ChunkGRPO
import Foundation
import Testing

@Suite("Schedules")
struct ScheduleTests {
  @Test("FLUX's mu is 0.5 for 256 tokens and 1.15 for 4,096")
  func fluxMu() throws {
    #expect(abs(try Schedule.fluxMu(pixels: 256 * 256) - 0.5) < 1e-15)
    #expect(abs(try Schedule.fluxMu(pixels: 1024 * 1024) - 1.15) < 1e-15)
  }

  @Test("Any schedule strictly falls from at most 1 to 0")
  func schedulesFall() throws {
    for steps in [2, 3, 17, 50, 1000] {
      for base in [ScheduleBase.linear, .diffusers] {
        for (kind, shift, mu) in [
          (ScheduleShift.static, 0.3, 0), (.static, 3, 0), (.exponential, 1, 1.15), (.linear, 1, 0.5),
        ] {
          for spacing in [ScheduleSpacing.shifted, .karras, .exponential, .beta] {
            let sigmas = try Schedule.make(
              steps: steps,
              .init { ($0.base, $0.shiftKind, $0.shift, $0.mu, $0.spacing) = (base, kind, shift, mu, spacing) }
            ).sigmas
            #expect(sigmas.count == steps + 1 && sigmas[steps] == 0 && sigmas[0] <= 1)
            #expect(zip(sigmas, sigmas.dropFirst()).allSatisfy { $0 > $1 })
          }
        }
      }
    }
  }

  @Test("Truncated timesteps are the whole numbers that GCPO feeds its model")
  func truncatedTimesteps() throws {
    let schedule = try Schedule.shifted(steps: 17, shift: 3)
    #expect(schedule.timesteps(truncated: true)[1] == 979 && abs(schedule.timesteps()[1] - 979.591836734) < 1e-6)
  }

  @Test("Schedules refuse what makes no sense, and say which argument")
  func refusals() throws {
    for (name, body) in [
      ("sigmas", { _ = try Schedule([1]) }), ("sigmas[2]", { _ = try Schedule([1, 0.5, 0.5, 0]) }),
      ("sigmas[0]", { _ = try Schedule([1.5, 0.5, 0]) }), ("sigmas[1]", { _ = try Schedule([1, .nan, 0]) }),
      ("steps", { _ = try Schedule.linear(steps: 0) }), ("steps", { _ = try Schedule.linear(steps: .max) }),
      ("shift", { _ = try Schedule.shifted(steps: 5, shift: 0) }),
      ("shift", { _ = try Schedule.shifted(steps: 5, shift: .nan) }),
      ("ratio", { _ = try Schedule.flash(steps: 10, shift: 3, kept: 8, ratio: 0.1) }),
      ("kept", { _ = try Schedule.flash(steps: 10, shift: 3, kept: 10, ratio: 0.5) }),
    ] as [(String, () throws -> Void)] {
      let thrown = error(body)
      #expect(
        thrown?.code == .invalidArgument && thrown?.message.contains(name) == true, "\(name): \(thrown?.message ?? "")")
    }
  }
}
