import ChunkGRPO
import Foundation
import Testing

@Suite("Windows of the public code")
struct SDEWindowFixtureTests {
  @Test("MixGRPO's windows, but for those that hold no step")
  func windows() throws {
    var count = 0
    for c in try samplerCases("windows.json", { $0.hasPrefix("window:") }) {
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
    for c in try samplerCases("windows.json", { $0.hasPrefix("window:verl_omni") }) {
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
}
