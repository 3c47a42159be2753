import ChunkGRPO
import Foundation
import Testing

@Suite("Chunks")
struct ChunkTests {
  @Test("A fixed plan covers every step once, with a remainder at the end")
  func fixedPlans() throws {
    #expect(try ChunkPlan.fixed(steps: 16, size: 5).sizes == [5, 5, 5, 1])
    for steps in 1...40 {
      for size in 1...steps {
        let plan = try ChunkPlan.fixed(steps: steps, size: size)
        #expect(plan.ranges.flatMap { Array($0) } == Array(0..<steps))
      }
    }
  }

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

  @Test("Weighted selection draws without replacement with the probabilities of a sequential draw")
  func weightedSelection() throws {
    let plan = try ChunkPlan([2, 3, 4, 7])
    let w = [0.1, 0.2, 0.3, 0.4]
    let n = 40_000
    let chosen = try plan.select(
      batch: n, .init { ($0.fraction, $0.weights, $0.seed) = (0.5, (0..<n).flatMap { _ in w }, 1) })
    for j in 0..<4 {
      // P(j first) + Σ_i P(i first)·P(j second | i)
      let p = w[j] + (0..<4).filter { $0 != j }.reduce(0) { $0 + w[$1] * w[j] / (1 - w[$1]) }
      let share = Double((0..<n).count { chosen[$0][j] }) / Double(n)
      #expect(abs(share - p) < 4.5 * (p * (1 - p) / Double(n)).squareRoot())
    }
    #expect((0..<n).allSatisfy { i in chosen[i].count { $0 } == 2 })
  }

  @Test("Softmax weights are the normalised weights of their exponentials")
  func softmaxSelection() throws {
    let plan = try ChunkPlan([1, 1, 1, 1, 1])
    let w = try normals(5 * 200, seed: 8)
    let soft = try plan.select(
      batch: 200, .init { ($0.fraction, $0.weights, $0.weighting, $0.seed) = (0.4, w, .softmax, 3) })
    let hard = try plan.select(batch: 200, .init { ($0.fraction, $0.weights, $0.seed) = (0.4, w.map { exp($0) }, 3) })
    #expect(soft == hard)
  }

  @Test("A sample's selection depends on seed and id alone")
  func selectionIsPerSample() throws {
    let plan = try ChunkPlan([4, 4, 4, 4])
    let all = try plan.select(batch: 50, .init { ($0.fraction, $0.seed) = (0.5, 9) })
    let some = try plan.select(batch: 2, .init { ($0.fraction, $0.seed, $0.sampleIDs) = (0.5, 9, [31, 7]) })
    #expect(some[0] == all[31] && some[1] == all[7])
    #expect(try plan.select(batch: 50, .init { ($0.fraction, $0.seed) = (0.5, 10) }) != all)
  }

  @Test("Plans and selections refuse what makes no sense, and say which argument")
  func refusals() throws {
    let plan = try ChunkPlan([2, 3, 4, 7])
    for (name, body) in [
      ("sizes", { _ = try ChunkPlan([]) }), ("sizes[1]", { _ = try ChunkPlan([2, 0]) }),
      ("sizes[1]", { _ = try ChunkPlan([2, .max]) }), ("size", { _ = try ChunkPlan.fixed(steps: 4, size: 5) }),
      (
        "min_size",
        { _ = try ChunkPlan.adaptive(relativeL1: [1, 2], steps: 2, .init { ($0.maxSize, $0.minSize) = (3, 3) }) }
      ),
      ("relative_l1", { _ = try plan.weights(relativeL1: [1, 2, 3]) }),
      ("fraction", { _ = try plan.select(batch: 2, .init { $0.fraction = 0 }) }),
      ("fraction", { _ = try plan.select(batch: 2, .init { $0.fraction = 0.2 }) }),
      ("fraction", { _ = try plan.select(batch: 2, .init { $0.fraction = .nan }) }),
      ("weights", { _ = try plan.select(batch: 2, .init { ($0.fraction, $0.weights) = (0.5, [1, 2]) }) }),
      ("weights", { _ = try plan.select(batch: 1, .init { ($0.fraction, $0.weights) = (0.5, [1, 0, 0, 0]) }) }),
      ("weights", { _ = try plan.select(batch: 1, .init { ($0.fraction, $0.weights) = (0.5, [1, -1, 1, 1]) }) }),
      ("batch", { _ = try plan.select(batch: .max, .init()) }),
      ("sample_ids", { _ = try plan.select(batch: 2, .init { $0.sampleIDs = [1] }) }),
      ("chunks", { _ = try plan.select(batch: 2, .init { $0.fixed = [4] }) }),
      ("chunks", { _ = try plan.select(batch: 2, .init { $0.fixed = [1, 1] }) }),
    ] as [(String, () throws -> Void)] {
      let thrown = error(body)
      #expect(thrown?.code == .invalidArgument)
      #expect(thrown?.message.contains(name) == true)
    }
  }
}
