import ChunkGRPO
import Foundation
import Testing

@Suite("Optimal chunks")
struct OptimalChunksTests {
  @Test("An optimal plan is the best of all plans of its size, by enumeration")
  func optimalByEnumeration() throws {
    for seed in 0..<30 {
      let steps = 9
      let curve = try normals(steps, seed: UInt64(seed)).map { exp(0.5 * $0) }
      func cost(_ sizes: [Int]) -> Double {
        var start = 0
        return sizes.reduce(0) { sum, size in
          let part = curve[start..<start + size].map { log($0 + 1e-8) }
          start += size
          return sum + part.reduce(0) { $0 + ($1 - mean(part)) * ($1 - mean(part)) }
        }
      }
      let all = (0..<1 << (steps - 1)).map { cuts in
        (1..<steps).reduce(into: [1]) { sizes, t in
          if cuts >> (t - 1) & 1 == 1 { sizes.append(1) } else { sizes[sizes.count - 1] += 1 }
        }
      }
      for count in 1...steps {
        let least = all.filter { $0.count == count }.map(cost).min() ?? .nan
        let plan = try ChunkPlan.optimal(relativeL1: curve, steps: steps, .init { $0.count = count }).plan
        #expect(plan.count == count && cost(plan.sizes) < least + 1e-12)
      }
    }
  }

  @Test("The number of chunks is found, and small noise does not move a plan")
  func optimalFindsAndIsStable() throws {
    let levels = [1.0, 0.4, 0.1, 0.35]
    let curve = zip(levels, [2, 3, 4, 7]).flatMap { Array(repeating: $0, count: $1) }
    for seed in 0..<20 {
      let noisy = zip(curve, try normals(16, seed: UInt64(seed))).map { $0 * exp(0.03 * $1) }
      let fit = try ChunkPlan.optimal(relativeL1: noisy, steps: 16, .init { $0.explained = 0.97 })
      #expect(fit.plan.sizes == [2, 3, 4, 7] && fit.explained > 0.97)
    }
    #expect(try ChunkPlan.optimal(relativeL1: Array(repeating: 0.3, count: 12), steps: 12).plan.sizes == [12])
    #expect(
      try ChunkPlan.optimal(relativeL1: curve, steps: 16, .init { $0.count = 4 }).description
        == "4 chunks over 16 steps: 0-1 | 2-4 | 5-8 | 9-15; 100.0 % of the curve's variance explained")
  }

  @Test("The longest curves are cut within a second, whatever the curve and the number of chunks")
  func longCurves() throws {
    let noisy = try normals(2000, seed: 4).map { exp($0) }
    let curves = [noisy, (0..<2000).map { $0 < 1000 ? 0.3 : 0.30001 }, (0..<2000).map { 0.3 + 1e-15 * Double($0 % 3) }]
    for (curve, count) in zip([0, 0, 0, 1, 1, 2, 2], [nil, 700, 2000, nil, 700, 700, 1300] as [Int?]) {
      let start = processorTime()
      let fit = try ChunkPlan.optimal(relativeL1: curves[curve], steps: 2000, .init { $0.count = count })
      #expect(fit.plan.steps == 2000 && fit.plan.count == count ?? fit.plan.count)
      // Three for instrumented builds.
      #expect(processorTime() - start < 3, "curve \(curve), \(count ?? 0) chunks")
    }
  }

  /// Seconds of this thread's: other tests run beside this one.
  private func processorTime() -> Double {
    var time = timespec()
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time)
    return Double(time.tv_sec) + 1e-9 * Double(time.tv_nsec)
  }

  @Test("A plan carried to another schedule keeps its boundaries' noise levels, and comes back")
  func carriedPlans() throws {
    let short = try Schedule.shifted(steps: 17, shift: 3)
    let long = try Schedule.shifted(steps: 50, shift: 3)
    let plan = try ChunkPlan([2, 3, 4, 7])
    let carried = try plan.carried(from: short, to: long)
    #expect(carried.steps == 49 && carried.count == 4)
    for (a, b) in zip(plan.ranges, carried.ranges) {
      #expect(abs(short.sigmas[a.lowerBound] - long.sigmas[b.lowerBound]) < 0.02)
    }
    #expect(try carried.carried(from: long, to: short) == plan)
    #expect(try plan.carried(from: short, to: Schedule.shifted(steps: 5, shift: 3)).sizes == [1, 1, 1, 1])
  }
}
