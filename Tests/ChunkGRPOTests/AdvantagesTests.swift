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
