import ChunkGRPO
import Foundation
import Testing

@Suite("Schedules of the public code")
struct ScheduleFixtureTests {
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

  @Test("Flash's schedules have the points of MixGRPO's, where those reach 0")
  func flashSchedules() throws {
    let c = try #require(try samplerCases("windows.json", { $0 == "flash_post_schedule" }).first)
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
        expectClose(Array(try make().sigmas), sigmas, "flash", tolerance: 1e-6)
      }
    }
    #expect(count == 8)
  }
}
