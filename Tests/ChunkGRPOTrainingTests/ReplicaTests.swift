import ChunkGRPO
import ChunkGRPOTraining
import Foundation
import Testing

/// Sums over threads, in the order of the ranks.
private final class Meeting: @unchecked Sendable {
  private let ranks: Int
  private let condition = NSCondition()
  private var parts: [[Double]]
  private var (arrived, round) = (0, 0)

  init(ranks: Int) { (self.ranks, parts) = (ranks, Array(repeating: [], count: ranks)) }

  private func wait() {
    condition.lock()
    let own = round
    arrived += 1
    if arrived == ranks {
      (arrived, round) = (0, round + 1)
      condition.broadcast()
    }
    while round == own { condition.wait() }
    condition.unlock()
  }

  func sum(_ rank: Int, _ values: [Double]) -> [Double] {
    condition.withLock { parts[rank] = values }
    wait()
    let all = condition.withLock { parts }
    wait()
    return all[0].indices.map { i in all.reduce(0) { $0 + $1[i] } }
  }
}

private struct Member: AllReduce {
  let meeting: Meeting
  let rank: Int

  func sum(_ values: UnsafeMutableBufferPointer<Float>) throws {
    _ = values.update(fromContentsOf: meeting.sum(rank, values.map(Double.init)).map(Float.init))
  }

  func sum(_ values: UnsafeMutableBufferPointer<Double>) throws {
    _ = values.update(fromContentsOf: meeting.sum(rank, Array(values)))
  }
}

/// What `body` gives for each rank, each on a thread of its own.
private func onRanks<R: Sendable>(_ ranks: Int, _ body: @escaping @Sendable (Int, Member) throws -> R) throws -> [R] {
  let meeting = Meeting(ranks: ranks)
  let (results, done, lock) = (Box<R>(ranks), DispatchGroup(), NSLock())
  for rank in 0..<ranks {
    done.enter()
    Thread.detachNewThread {
      let result = Result { try body(rank, Member(meeting: meeting, rank: rank)) }
      lock.withLock { results.values[rank] = result }
      done.leave()
    }
  }
  done.wait()
  return try lock.withLock { try results.values.map { try #require($0).get() } }
}

private final class Box<R>: @unchecked Sendable {
  var values: [Result<R, any Error>?]
  init(_ count: Int) { values = Array(repeating: nil, count: count) }
}

@Suite("Trainers on several ranks")
struct ReplicaTests {
  private struct Stop: Error {}
  private static let prompts: [[Float]] = [[1, 0], [0, 1], [0, 1], [1, 0], [0, 1]]

  private static func reward(_ images: [Float], _ prompts: [Int]) -> [Double] {
    prompts.indices.map { Double(images[2 * $0 + 1]) }
  }

  private static func train(_ rank: Int, of ranks: Int, _ member: Member?) throws -> ([Float], [Double]) {
    let trainer = try ChunkGRPOTrainer(tinyOptions())
    if let member { try trainer.setReplica(rank: rank, ranks: ranks, allReduce: member) }
    var pretraining = PretrainOptions()
    (pretraining.steps, pretraining.batchSize) = (30, 2)  // on three ranks one has no row
    try trainer.pretrain(
      images: [1, 0, -1, 0, 1, 0.2, -1, 0.1], conditions: [1, 0, 0, 1, 1, 0, 0, 1], options: pretraining)
    var means: [Double] = []
    for _ in 0..<3 {
      let own = stride(from: rank, to: prompts.count, by: ranks).flatMap { prompts[$0] }
      means.append(try trainer.iterate(conditions: own, reward: reward).rewardMean)
    }
    return (try trainer.samples(), means)
  }

  @Test("They end like one trainer that has all prompts", arguments: [1, 2, 3])
  func likeOneTrainer(ranks: Int) throws {
    let (expected, means) = try Self.train(0, of: 1, nil)
    for (samples, told) in try onRanks(ranks, { try Self.train($0, of: ranks, $1) }) {
      #expect(zip(samples, expected).allSatisfy { abs($0 - $1) < 1e-5 })
      #expect(zip(told, means).allSatisfy { abs($0 - $1) < 1e-6 })
    }
  }

  @Test("An error of one is an error of all, with its sentence, and changes nothing")
  func errorsOfOthers() throws {
    let found = try onRanks(3) { rank, member in
      let trainer = try ChunkGRPOTrainer(tinyOptions())
      try trainer.setReplica(rank: rank, ranks: 3, allReduce: member)
      var sentence = ""
      do {
        _ = try trainer.iterate(conditions: [1, 0]) { _, prompts in
          if rank == 1 { throw Stop() }
          return prompts.map { _ in 1 }
        }
      } catch { sentence = "\(error)" }
      #expect(trainer.iterations == 0)
      _ = try trainer.iterate(conditions: [1, 0], reward: Self.reward)
      return sentence
    }
    #expect(found == ["rank 1 failed: Stop()", "Stop()", "rank 1 failed: Stop()"])
  }

  @Test("A trainer without a replica is alone again")
  func alone() throws {
    let means = try onRanks(2) { rank, member in
      let trainer = try ChunkGRPOTrainer(tinyOptions())
      try trainer.setReplica(rank: rank, ranks: 2, allReduce: member)
      try trainer.removeReplica()
      return try trainer.iterate(conditions: [1, 0], reward: Self.reward).rewardMean
    }
    #expect(means[0] == means[1])
  }
}
