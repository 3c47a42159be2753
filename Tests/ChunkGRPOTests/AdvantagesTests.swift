import ChunkGRPO
import Foundation
import Testing

@Suite("Advantages")
struct AdvantagesTests {
  @Test("Advantages of a group are centred, scaled by the unbiased deviation, and clamped")
  func advantageFormula() throws {
    #expect(try advantages([1, 2, 3, 10, 10, 10], groupSize: 3, epsilon: 0) == [-1, 0, 1, 0, 0, 0])
    #expect(try advantages([4], groupSize: 1) == [0])
    #expect(try advantages([0, 0, 0, 100], clamp: 0.75, epsilon: 0) == [-0.5, -0.5, -0.5, 0.75])
    for seed in 0..<20 {
      let a = try advantages(normals(24, seed: UInt64(seed)), groupSize: 8, clamp: .infinity)
      for g in 0..<3 { #expect(abs(a[g * 8..<g * 8 + 8].reduce(0, +)) < 1e-12) }
    }
  }

  @Test("A reward that does not apply is left out of means, deviations and sums")
  func absentRewards() throws {
    // Two rewards, groups of three; each absent one is NaN.
    let rewards = [1, 10, 2, .nan, 4, 30, .nan, 7, 3, 5, 9, .nan]
    var o = AdvantageOptions()
    (o.groupSize, o.epsilon, o.clamp, o.rewardWeights) = (3, 0, .infinity, [2, 0.5])
    o.present = Flags(rewards.map { !$0.isNaN })
    func normal(_ own: [Double]) -> [Double] {
      let mean = mean(own)
      return own.map {
        ($0 - mean) / (own.reduce(0) { $0 + ($1 - mean) * ($1 - mean) } / Double(own.count - 1)).squareRoot()
      }
    }
    let sums = normal([7, 4, 23]) + normal([3.5, 8.5, 18])
    for (a, b) in zip(try advantages(rewards, o), sums) { #expect(abs(a - b) < 1e-12) }
    o.mixing = .normalisedSum
    let (first, second, third, fourth) = (normal([1, 2, 4]), normal([10, 30]), normal([3, 9]), normal([7, 5]))
    let each = [
      2 * first[0] + second[0] / 2, 2 * first[1], 2 * first[2] + second[1] / 2,
      fourth[0] / 2, 2 * third[0] + fourth[1] / 2, 2 * third[1],
    ]
    for (a, b) in zip(try advantages(rewards, o), each) { #expect(abs(a - b) < 1e-12) }
    o.present = Flags(rewards.indices.map { $0 / 2 != 4 })
    #expect(error { _ = try advantages(rewards, o) }?.message.contains("sample 4") == true)
    o.present = [true]
    #expect(error { _ = try advantages(rewards, o) }?.message.contains("present: 1 entries") == true)
  }

  @Test("Advantages refuse what makes no sense, and say which argument")
  func refusals() throws {
    for (code, name, body) in [
      (.invalidArgument, "group_size", { _ = try advantages([1, 2, 3], groupSize: 2) }),
      (.invalidArgument, "clamp", { _ = try advantages([1, 2, 3], clamp: 0) }),
      (.nonFinite, "rewards[1]", { _ = try advantages([1, .nan, 3]) }),
      (.nonFinite, "rewards", { _ = try advantages([1e308, -1e308]) }),
    ] as [(ChunkGRPOError.Code, String, () throws -> Void)] {
      let thrown = error(body)
      #expect(thrown?.code == code)
      #expect(thrown?.message.contains(name) == true)
    }
  }
}
