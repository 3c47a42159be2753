import ChunkGRPO
import Foundation
import Testing

@Suite("Schedules")
struct ScheduleTests {
  private struct Case: Decodable {
    struct Config: Decodable {
      let shift, shift_terminal: Double?
      let use_dynamic_shifting, use_karras_sigmas, use_exponential_sigmas, use_beta_sigmas: Bool?
      let time_shift_type: String?
    }
    let name: String
    let config: Config
    let steps: Int
    let mu: Double?
    let input_sigmas: [Double]?
    let sigmas, timesteps: [Double]
  }

  @Test("Every schedule of diffusers' flow scheduler is met, the double shift included")
  func diffusersSchedules() throws {
    let cases = try JSONDecoder().decode([Case].self, from: fixture("schedules.json"))
    #expect(cases.count == 30)
    for c in cases {
      let shiftKind: ScheduleShift =
        c.config.use_dynamic_shifting != true
        ? .static : c.config.time_shift_type == "linear" ? .linear : .exponential
      let spacing: ScheduleSpacing =
        c.config.use_karras_sigmas == true
        ? .karras
        : c.config.use_exponential_sigmas == true ? .exponential : c.config.use_beta_sigmas == true ? .beta : .shifted
      let schedule = try Schedule.make(
        steps: c.steps,
        ScheduleOptions {
          $0.base = c.input_sigmas == nil ? .diffusers : .linear
          ($0.shiftKind, $0.shift, $0.mu) = (shiftKind, c.config.shift ?? 1, c.mu ?? .nan)
          ($0.terminal, $0.spacing) = (c.config.shift_terminal, spacing)
        })
      for (ours, theirs) in zip(schedule.sigmas, c.sigmas) {
        #expect(abs(ours - theirs) < 1e-6, "\(c.name), \(c.steps) steps")
      }
      for (ours, theirs) in zip(schedule.timesteps(), c.timesteps) { #expect(abs(ours - theirs) < 1e-3) }
    }
  }

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
}
