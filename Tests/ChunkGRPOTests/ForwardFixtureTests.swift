import ChunkGRPO
import Foundation
import Testing

/// Tests/fixtures/forward.json, from velocities to the loss and its gradient in the velocity. The public code computes in
/// f32, the library here in f64.
@Suite("Forward process: numbers of the public code")
struct ForwardFixtureTests {
  /// What the cases share.
  private struct Tensors {
    let clean, noise, velocity, old, reference, ema: Latents
    let times: [Double]

    init() throws {
      let shared = try #require(fixtureCases("forward.json").first { $0.kind == "tensors" }).inputs
      let times = shared.numbers("t")
      func latents(_ key: String) throws -> Latents { try Latents(shared.numbers(key), batch: times.count) }
      (clean, noise, velocity) = (try latents("clean"), try latents("noise"), try latents("velocity"))
      (old, reference) = (try latents("old_velocity"), try latents("reference_velocity"))
      ema = try latents("ema_velocity")
      self.times = times
    }

    func distances(
      old: Latents, reference: Latents? = nil, beta: Double? = nil, _ gradients: ForwardGradients<[Double]>? = nil,
      into out: Latents? = nil
    ) throws -> ForwardDistances<[Double]> {
      try forwardDistance(
        clean: clean.view, velocity: velocity.view, noise: .given(noise.view),
        extras: ForwardExtras(
          oldVelocity: old.view, referenceVelocity: (reference ?? self.reference).view, nftBeta: beta),
        gradient: gradients.map { ($0, (out ?? velocity).view) })
    }

    /// ∂loss/∂velocity
    func gradient(old: Latents, beta: Double? = nil, _ gradients: ForwardGradients<[Double]>) throws -> [Double] {
      let out = try Latents(type: .float64, batch: velocity.batch, elements: velocity.elements)
      _ = try distances(old: old, beta: beta, gradients, into: out)
      return try out.values
    }
  }

  private func check(_ c: FixtureCase, _ loss: Double, _ gradient: [Double]) {
    meets(
      loss, gradient, c.expected.number("loss"), c.expected.numbers("grad_velocity"), "\(c.source) \(c.inputs)",
      tolerance: 2e-6, gradient: 2e-6)
  }

  private func cases(_ kind: String) throws -> [FixtureCase] {
    let found = try fixtureCases("forward.json").filter { $0.kind == kind }
    #expect(!found.isEmpty)
    return found
  }

  @Test("DiffusionNFT, its advantage modes, and Flow-Factory's")
  func nft() throws {
    let t = try Tensors()
    let modes: [String: NFTAdvantages] = [
      "all": .all, "positive_only": .positiveOnly, "negative_only": .negativeOnly, "one_only": .oneOnly,
      "binary": .binary,
    ]
    for c in try cases("nft") {
      let beta = c.inputs.number("beta")
      let d = try t.distances(old: t.old, beta: beta)
      let options = NFTOptions {
        ($0.beta, $0.advantageClip, $0.kl) = (beta, c.inputs.numbers("adv_clip_range")[1], c.inputs.number("kl_beta"))
        $0.mode = modes[c.inputs["adv_mode"] as? String ?? "all"] ?? .all
        $0.times = Numbers(t.times)
        ($0.positiveAbsolute, $0.negativeAbsolute) = (Numbers(d.positiveAbsolute), Numbers(d.negativeAbsolute))
        $0.referenceDivergence = Numbers(d.referenceDivergence)
      }
      let found = try nftLoss(
        positive: d.positiveDistance, negative: d.negativeDistance, advantages: c.inputs.numbers("advantages"),
        options: options)
      check(
        c, found.loss,
        try t.gradient(
          old: t.old, beta: beta,
          ForwardGradients(
            positiveDistance: found.gradDistances[0], negativeDistance: found.gradDistances[1],
            referenceDivergence: found.gradReferenceDivergence)))
    }
  }

  @Test("AWM is the chunk loss on its weighted log-probabilities, with divergences from reference and average")
  func awm() throws {
    let t = try Tensors()
    let weightings: [String: MatchingWeighting] = [
      "Uniform": .uniform, "t": .time, "t**2": .timeSquared, "huber": .huber, "ghuber": .generalisedHuber,
    ]
    for c in try cases("awm") {
      let weighting = try #require(weightings[c.inputs["weighting"] as? String ?? ""])
      let power = c.inputs.number("ghuber_power")
      let (d, ofEMA) = (try t.distances(old: t.old), try t.distances(old: t.ema))
      let new = try matchingLogProbs(d.distance, times: t.times, weighting: weighting, power: power)
      let old = try matchingLogProbs(d.oldDistance, times: t.times, weighting: weighting, power: power)
      let clip = c.inputs.numbers("clip_range")
      let bound = c.inputs.numbers("adv_clip_range")[1]
      let found = try chunkLoss(
        new: new.logProbs, old: old.logProbs, advantages: c.inputs.numbers("advantages", clamped: bound),
        plan: ChunkPlan([1]), options: ChunkLossOptions { $0.clip = ClipRange(low: -clip[0], high: clip[1]) })
      let (kl, klOfEMA) = (c.inputs.number("kl_beta"), c.inputs.number("ema_kl_beta"))
      let count = Double(t.times.count)
      let loss = found.loss + kl * mean(d.referenceDivergence) + klOfEMA * mean(ofEMA.oldDivergence)
      let gradient = try t.gradient(
        old: t.ema,
        ForwardGradients(
          distance: zip(found.gradLogProbs, new.slopes).map { $0 * $1 },
          oldDivergence: t.times.map { _ in klOfEMA / count }, referenceDivergence: t.times.map { _ in kl / count }))
      check(c, loss, gradient)
    }
  }

  @Test("DGPO, its own and Flow-Factory's, clipped in distance, in KL and in both")
  func dgpo() throws {
    let t = try Tensors()
    for c in try cases("dgpo") {
      let d = try t.distances(old: t.old)
      let clip = c.inputs.numbers("clip_range")
      let options = DGPOOptions {
        ($0.beta, $0.kl) = (c.inputs.number("beta"), c.inputs.number("kl_beta"))
        $0.groupIDs = c.ids("groups").map { Numbers($0) }
        ($0.clipsDistance, $0.clipsKL) = (c.flag("clip_dsm"), c.flag("clip_kl"))
        if $0.clipsDistance || $0.clipsKL { $0.oldDistance = Numbers(d.oldDistance) }
        if clip.count == 2 { $0.clip = ClipRange(low: -clip[0], high: clip[1]) }
        $0.referenceDivergence = Numbers(d.referenceDivergence)
      }
      let found = try dgpoLoss(
        distance: d.distance, reference: c.flag("use_ema_ref") ? d.oldDistance : d.referenceDistance,
        advantages: c.inputs.numbers("advantages"), options: options)
      check(
        c, found.loss,
        try t.gradient(
          old: t.old,
          ForwardGradients(
            distance: found.gradDistances[0], referenceDivergence: found.gradReferenceDivergence)))
    }
  }

  @Test("CRD: both regressions, one centre and two, adaptive, with a KL that follows the reward")
  func crd() throws {
    let t = try Tensors()
    for c in try cases("crd") {
      let d = try t.distances(old: t.old)
      let temperature = c.inputs.number("weight_temp")
      let options = CRDOptions {
        ($0.beta, $0.advantageClip, $0.kl) = (
          c.inputs.number("beta"), c.inputs.numbers("adv_clip_range")[1], c.inputs.number("kl_beta")
        )
        $0.regression = c.inputs["loss_type"] as? String == "bce" ? .crossEntropy : .meanSquare
        $0.temperature = temperature < 0 ? .infinity : temperature
        if c.flag("adaptive_logp") {
          ($0.absolute, $0.oldAbsolute) = (Numbers(d.absolute), Numbers(d.oldAbsolute))
        }
        if c.flag("reward_adaptive_kl") { $0.leastKL = 1e-4 }
        $0.referenceDivergence = Numbers(d.referenceDivergence)
      }
      let found = try crdLoss(
        distance: d.distance, old: d.oldDistance, advantages: c.inputs.numbers("advantages"), options: options)
      check(
        c, found.loss,
        try t.gradient(
          old: t.old,
          ForwardGradients(
            distance: found.gradDistances[0], referenceDivergence: found.gradReferenceDivergence)))
    }
  }

  @Test("Pairs are Flow-Factory's, but for a group of equal scores, which it pairs with itself")
  func pairs() throws {
    for c in try cases("pairs") {
      let expected = (c.expected["pairs"] as? [[Int]] ?? []).filter { $0[0] != $0[1] }
      let found = try preferencePairs(c.inputs.numbers("advantages"), groupIDs: c.ids("groups"))
      #expect(Set(found.map { [$0.chosen, $0.rejected] }) == Set(expected))
    }
  }
}
