import ChunkGRPO
import Foundation
import Testing

@Suite("Adaptive chunks")
struct AdaptiveChunksTests {
  @Test("Adaptive boundaries lie at the turning points of the curve")
  func adaptiveTurningPoints() throws {
    // Falls over steps 0-5, rises over 6-9, falls over 10-15: a turning point closes its run.
    let curve: [Double] = [9, 8, 7, 6, 5, 4, 4.5, 5, 6, 7, 6, 5, 4, 3, 2, 1]
    #expect(try ChunkPlan.adaptive(relativeL1: curve, steps: 16, .init { $0.maxSize = 0 }).sizes == [6, 4, 6])
    #expect(try ChunkPlan.adaptive(relativeL1: curve, steps: 16, .init { $0.maxSize = 4 }).sizes == [3, 3, 4, 3, 3])
    // The mean over the batch decides, not a single sample.
    let noisy = curve.map { $0 + 0.01 } + curve.map { $0 - 0.01 }
    #expect(try ChunkPlan.adaptive(relativeL1: noisy, steps: 16, .init { $0.maxSize = 0 }).sizes == [6, 4, 6])
  }

  @Test(
    "A run that is too short joins its shorter neighbour, of equal ones the left",
    arguments: [
      ([1, 2, 3, 4, 3, 5, 4, 3, 2], [4, 5]),  // runs of 4, 2 and 3 steps
      ([1, 2, 3, 2, 5, 4, 3, 2, 1], [5, 4]),  // 3, 2, 4
      ([1, 2, 3, 2, 5, 4, 3, 2], [5, 3]),  // 3, 2, 3
      ([1, 2, 1, 2, 3, 4, 3, 2, 1, 0], [2 + 4, 4]),  // 2, 4, 4: the first has no left neighbour
    ] as [([Double], [Int])])
  func shortRuns(curve: [Double], sizes: [Int]) throws {
    let plan = try ChunkPlan.adaptive(
      relativeL1: curve, steps: curve.count, .init { ($0.maxSize, $0.minSize) = (0, 3) })
    #expect(plan.sizes == sizes)
  }

  @Test("Any curve gives a plan that covers every step once, within the bounds on chunk sizes")
  func adaptiveProperties() throws {
    for seed in 0..<300 {
      let steps = 1 + seed % 37
      let curve = try normals(steps, seed: UInt64(seed)).map { abs($0) }
      let maxSize = [0, 3, 5, 7][seed % 4]
      let minSize = 1 + seed % 2
      let plan = try ChunkPlan.adaptive(
        relativeL1: curve, steps: steps, .init { ($0.maxSize, $0.minSize) = (maxSize, minSize) })
      #expect(plan.steps == steps)
      #expect(maxSize == 0 || plan.sizes.allSatisfy { $0 <= maxSize })
      #expect(steps < minSize || plan.sizes.allSatisfy { $0 >= minSize })
    }
  }
}
