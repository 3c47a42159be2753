import ChunkGRPO
import Foundation
import Testing

@Suite("Best of n of the public code")
struct BestOfNFixtureTests {
  @Test("DanceGRPO: the best and the worst of a batch")
  func bestAndWorst() throws {
    var count = 0
    for c in try advantageCases("XueZeyue/DanceGRPO fastvideo/train_grpo_hunyuan.py") {
      guard let scores = c.expected["total_scores"] as? [Double], let keep = c.inputs["bestofn"] as? Int,
        let selected = c.expected["selected_before_shuffle"] as? [Int]
      else { continue }
      if selected.count != keep { continue }  // the source skips the selection
      let ours = try bestOfN(scores, keep: keep)
      #expect(Set(ours.indices.filter { ours[$0] }) == Set(selected))
      count += 1
    }
    #expect(count >= 2)
  }
}
