import ChunkGRPO
import Foundation
import Testing

@Suite("SDE windows")
struct SDEWindowTests {
  @Test("Every strategy's windows hold steps within the bounds, for any iteration")
  func windowProperties() throws {
    let strategies: [(inout SDEWindowOptions) -> Void] = [
      { $0.strategy = .fixed }, { ($0.strategy, $0.seed) = (.random, 3) },
      { ($0.strategy, $0.size, $0.seed) = (.subset, 3, 4) }, { $0.iterations = 2 },
      { ($0.strategy, $0.iterations, $0.least) = (.linearDecay, 9, 2) },
      { ($0.strategy, $0.iterations, $0.threshold, $0.decay) = (.exponentialDecay, 7, 4, 0.3) },
    ]
    for strategy in strategies {
      for stride in 1...5 {
        let options = SDEWindowOptions { ($0.first, $0.end, $0.stride) = (2, 14, stride) }.with(strategy)
        let window = try SDEWindow(options)
        var seen: Set<[Int]> = []
        for iteration in 0..<300 {
          let steps = try window.steps(iteration: iteration)
          #expect(!steps.isEmpty && steps == steps.sorted() && Set(steps).count == steps.count)
          #expect(steps.allSatisfy { (2..<14).contains($0) })
          seen.insert(steps)
        }
        #expect(options.strategy == .fixed ? seen.count == 1 : seen.count > 2)
      }
    }
    let stops = try SDEWindow(.init { ($0.end, $0.iterations, $0.atEnd) = (8, 2, .stop) })
    #expect(try stops.steps(iteration: 3) == [4, 5, 6, 7])
    #expect(throws: ChunkGRPOError.self) { try stops.steps(iteration: 4) }
    let stays = try SDEWindow(.init { ($0.end, $0.iterations, $0.atEnd) = (8, 2, .stay) })
    #expect(try stays.steps(iteration: 400) == [4, 5, 6, 7])
  }

  @Test("A subset holds the steps with the smallest draws")
  func subsets() throws {
    for (size, end) in [(1, 9), (3, 14), (16, 40), (500, 1000), (7, 7)] {
      let window = try SDEWindow(
        .init { ($0.strategy, $0.size, $0.first, $0.end, $0.seed) = (.subset, size, 2, end + 2, 5) })
      for iteration in 0..<20 {
        let draws = uniforms(
          seed: 5, sampleID: UInt64(iteration), step: ReservedStep.sdeWindow.rawValue, count: end)
        let smallest = draws.indices.sorted { draws[$0] < draws[$1] }.prefix(size).map { $0 + 2 }.sorted()
        #expect(try window.steps(iteration: iteration) == smallest)
      }
    }
  }

  @Test("Windows that make no sense are refused by name")
  func refusals() throws {
    for (name, body) in [
      ("size", { _ = try SDEWindow(.init { ($0.size, $0.end) = (5, 4) }) }),
      ("stride", { _ = try SDEWindow(.init { ($0.size, $0.end, $0.stride) = (2, 4, 0) }) }),
    ] as [(String, () throws -> Void)] {
      let thrown = error(body)
      #expect(
        thrown?.code == .invalidArgument && thrown?.message.contains(name) == true, "\(name): \(thrown?.message ?? "")")
    }
  }
}
