import ChunkGRPO
import Foundation
import Testing

@Suite("Chunk selection")
struct ChunkSelectionTests {
  @Test("Weighted selection draws without replacement with the probabilities of a sequential draw")
  func weightedSelection() throws {
    let plan = try ChunkPlan([2, 3, 4, 7])
    let w = [0.1, 0.2, 0.3, 0.4]
    let n = 40_000
    let chosen = try plan.select(
      batch: n, .init { ($0.fraction, $0.weights, $0.seed) = (0.5, Numbers((0..<n).flatMap { _ in w }), 1) })
    for j in 0..<4 {
      // P(j first) + Σ_i P(i first)·P(j second | i)
      let p = w[j] + (0..<4).filter { $0 != j }.reduce(0) { $0 + w[$1] * w[j] / (1 - w[$1]) }
      let share = Double((0..<n).count { chosen[$0][j] }) / Double(n)
      #expect(abs(share - p) < 4.5 * (p * (1 - p) / Double(n)).squareRoot())
    }
    #expect((0..<n).allSatisfy { i in chosen[i].count { $0 } == 2 })
  }

  @Test(
    "Of many chunks the smallest exponentials are chosen, of equal weights too; a draw of all but one leaves the largest"
  )
  func manyChunks() throws {
    let k = 1000
    let weights = (0..<k).map { Double(1 + $0 % 7) }
    var draws = [Double](repeating: 0, count: k)
    draws.withUnsafeMutableBufferPointer {
      uniforms(seed: 5, sampleID: 3, step: ReservedStep.chunkSelection.rawValue, into: $0)
    }
    for chosen in [1, 2, 63, 500, 937, 999] {
      let found = try selectChunks(
        batch: 1, count: k,
        .init { ($0.fraction, $0.weights, $0.seed, $0.sampleIDs) = (Double(chosen) / 1000, Numbers(weights), 5, [3]) })
      let order = (0..<k).sorted { -log(draws[$0]) / weights[$0] < -log(draws[$1]) / weights[$1] }
      #expect(found[0].indices.filter { found[0][$0] } == order[..<chosen].sorted())
    }
  }

  @Test("Softmax weights are the normalised weights of their exponentials")
  func softmaxSelection() throws {
    let plan = try ChunkPlan([1, 1, 1, 1, 1])
    let w = try normals(5 * 200, seed: 8)
    let soft = try plan.select(
      batch: 200, .init { ($0.fraction, $0.weights, $0.weighting, $0.seed) = (0.4, Numbers(w), .softmax, 3) })
    let hard = try plan.select(
      batch: 200, .init { ($0.fraction, $0.weights, $0.seed) = (0.4, Numbers(w.map { exp($0) }), 3) })
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

  @Test("Selections refuse what makes no sense, and say which argument")
  func refusals() throws {
    let plan = try ChunkPlan([2, 3, 4, 7])
    for (name, body) in [
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
