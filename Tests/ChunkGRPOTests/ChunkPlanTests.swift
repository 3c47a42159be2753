import ChunkGRPO
import Foundation
import Testing

@Suite("Chunk plans")
struct ChunkPlanTests {
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

  @Test("Plans refuse what makes no sense, and say which argument")
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
    ] as [(String, () throws -> Void)] {
      let thrown = error(body)
      #expect(thrown?.code == .invalidArgument)
      #expect(thrown?.message.contains(name) == true)
    }
  }
}
