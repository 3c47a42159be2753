import ChunkGRPO
import Foundation
import Testing

@Suite("Options of the chunk loss")
struct ChunkLossOptionsTests {
  @Test("Each option out of bounds, and each contradiction, has its own sentence")
  func refusals() throws {
    let plan = try ChunkPlan([1, 1])
    let changes: [(String, (inout ChunkLossOptions) -> Void)] = [
      ("clip_low", { ($0.surrogate, $0.clip) = (.cispo, ClipRange(low: 1.1, high: 0)) }),
      ("clip_high", { ($0.surrogate, $0.clip) = (.logClipped, ClipRange(low: 2, high: -1)) }),
      ("clip_low", { ($0.surrogate, $0.clip) = (.logClipped, ClipRange(low: -1, high: 1)) }),
      ("does not clip", { ($0.surrogate, $0.clip) = (.unclipped, ClipRange(low: 0.1, high: 0.1)) }),
      ("ratio_cap = 0.9", { $0.ratioCap = 0.9 }),
      ("dual_clip = 1.0", { $0.dualClip = 1 }),
      ("ratio_cap = nan", { $0.ratioCap = .nan }),
      ("exclude each other", { ($0.ratioCap, $0.dualClip) = (2, 3) }),
      ("ratio_cap = 2.0 is for the clipped", { ($0.surrogate, $0.ratioCap) = (.cispo, 2) }),
      ("dual_clip = 2.0 is for the clipped", { ($0.surrogate, $0.dualClip) = (.unclipped, 2) }),
      ("kl", { $0.kl = .infinity }),
      ("normaliser", { $0.normaliser = 0 }),
      ("normaliser", { $0.normaliser = .nan }),
      ("CISPO", { ($0.surrogate, $0.ratioScale) = (.cispo, [1, 1]) }),
      ("divergence: the", { $0.surrogate = .divergenceMask }),
      ("divergence is for", { $0.divergence = [0, 0] }),
      ("divergence_threshold = 1.0 is for", { $0.divergenceThreshold = 1 }),
      (
        "divergence_threshold = -1.0 must",
        {
          ($0.surrogate, $0.divergence, $0.divergenceThreshold) = (.divergenceMask, [0, 0], -1)
        }
      ),
      ("divergence of sample 0 at step 1", { ($0.surrogate, $0.divergence) = (.divergenceMask, [0, -1]) }),
      ("divergence of sample 0 at step 1 is nan", { ($0.surrogate, $0.divergence) = (.divergenceMask, [0, .nan]) }),
      ("mask has 1", { $0.mask = [true] }),
      ("mask: no selected", { ($0.mask, $0.selection) = ([true, false], [false, true]) }),
      ("reference_log_probs has 1", { $0.reference = [1] }),
      ("reference_log_probs of sample 0 at step 1", { $0.reference = [1, .nan] }),
      ("weights has 3", { $0.weights = [1, 1, 1] }),
      ("weights[1]", { $0.weights = [1, -1] }),
      ("ratio_bias has 1", { $0.ratioBias = [1] }),
      ("ratio_bias of sample 0 at step 0", { $0.ratioBias = [.infinity, 0] }),
      ("ratio_scale has 3", { $0.ratioScale = [1, 1, 1] }),
      ("ratio_scale[0]", { $0.ratioScale = [-1, 1] }),
    ]
    for (words, change) in changes {
      var o = ChunkLossOptions()
      change(&o)
      let thrown = error { _ = try chunkLoss(new: [1, 1], old: [1, 1], advantages: [1], plan: plan, options: o) }
      #expect(thrown?.message.contains(words) == true, "\(words): \(thrown?.message ?? "accepted")")
    }
  }
}
