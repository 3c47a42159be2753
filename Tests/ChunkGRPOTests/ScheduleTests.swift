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

  @Test("FLUX's mu counts whole tokens: a side is rounded down to a multiple of 16")
  func fluxMuOfSizes() throws {
    for (width, height, tokens) in [(1024, 1024, 4096), (1920, 1080, 8040), (1000, 1000, 3844), (720, 1080, 3015)] {
      let mu = 0.5 + (1.15 - 0.5) * Double(tokens - 256) / (4096 - 256)
      #expect(abs(try Schedule.fluxMu(width: width, height: height) - mu) < 1e-12)
    }
    #expect(error { _ = try Schedule.fluxMu(width: 15, height: 1024) }?.message.contains("width") == true)
    #expect(
      error { _ = try Schedule.fluxMu(pixels: 1e6, baseShift: -1e308, maxShift: 1e308) }?.code == .invalidArgument)
  }

  @Test("One step goes from 1 to 0, as in diffusers, whatever spreads the points")
  func oneStep() throws {
    for base in [ScheduleBase.linear, .diffusers] {
      for spacing in [ScheduleSpacing.shifted, .karras, .exponential, .beta] {
        let options = ScheduleOptions { ($0.base, $0.spacing, $0.shift) = (base, spacing, 3) }
        #expect(try Schedule.make(steps: 1, options).sigmas == [1, 0])
      }
    }
    // diffusers divides 0 by 0 here.
    let stretched = error { _ = try Schedule.make(steps: 1, .init { $0.terminal = 0.1 }) }
    #expect(stretched?.message.contains("terminal") == true)
  }

  @Test("Beta spacing lies at the quantiles of Beta(0.6, 0.6), which SciPy gives, for few steps and for a million")
  func betaQuantiles() throws {
    let quantiles = [
      (1e-6, 1.8558824624053043e-10), (1e-3, 1.855873851745199e-05), (0.1, 0.03958440558878085),
      (0.25, 0.17568037865269498), (0.4, 0.3627009907532143), (0.5, 0.5), (0.7, 0.7659829961247643),
      (0.999, 0.9999814412614826),
    ]
    for steps in [11, 1001, 1_000_000] {
      let sigmas = try Schedule.make(steps: steps, .init { $0.spacing = .beta }).sigmas
      let (first, last) = (1.0, 1 / Double(steps))
      for (p, quantile) in quantiles {
        let k = Int(((1 - p) * Double(steps - 1)).rounded())
        guard abs(Double(k) / Double(steps - 1) - (1 - p)) < 1e-13 else { continue }
        #expect(abs(sigmas[k] - (last + quantile * (first - last))) < 1e-11, "\(p) of \(steps)")
      }
    }
  }

  @Test("A first sigma within 1e-6 of 1 is 1, and no further one")
  func firstSigma() throws {
    for sigma in [0.9999999, 1.0000001, 0.9999991, 1.0000009] { #expect(try Schedule([sigma, 0.5, 0]).sigmas[0] == 1) }
    #expect(try Schedule([0.999998, 0.5]).sigmas[0] == 0.999998)
    #expect(error { _ = try Schedule([1.000002, 0.5]) }?.code == .invalidArgument)
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
