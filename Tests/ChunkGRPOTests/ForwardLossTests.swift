import ChunkGRPO
import Foundation
import Testing

/// The values by their formulas are in Tests/c/forward_objectives.c.
@Suite("Forward process: objectives")
struct ForwardLossTests {
  let batch = 4, times = 3
  let advantages = [1.2, -0.7, 0.1, -2.0]

  func distances(_ seed: UInt64) throws -> [Double] {
    try normals(batch * times, seed: seed).map { 0.5 + 0.1 * $0 * $0 }
  }

  /// Gradients of the loss against central differences in each argument of distances.
  func checkGradients(_ arguments: [[Double]], _ loss: ([[Double]]) throws -> ForwardLoss, _ what: String) throws {
    let found = try loss(arguments)
    for (k, gradient) in found.gradDistances.enumerated() {
      for i in 0..<batch * times {
        func value(_ h: Double) throws -> Double {
          var moved = arguments
          moved[k][i] += h
          return try loss(moved).loss
        }
        let expected = (try value(1e-6) - value(-1e-6)) / 2e-6
        #expect(abs(gradient[i] - expected) < 1e-7, "\(what), argument \(k), number \(i)")
      }
    }
  }

  @Test("NFT's gradients are finite differences", arguments: NFTWeighting.allCases)
  func nft(_ weighting: NFTWeighting) throws {
    let options = try NFTOptions {
      $0.weighting = weighting
      $0.times = Numbers([Double](repeating: 0.4, count: batch * times))
      ($0.positiveAbsolute, $0.negativeAbsolute) = (Numbers(try distances(7)), Numbers(try distances(8)))
      ($0.kl, $0.referenceDivergence) = (0.3, Numbers(try distances(9)))
    }
    try checkGradients(
      [distances(1), distances(2)],
      { try nftLoss(positive: $0[0], negative: $0[1], advantages: advantages, options: options) }, "NFT")
    let found = try nftLoss(
      positive: distances(1), negative: distances(2), advantages: advantages, options: options)
    #expect(found.gradReferenceDivergence == [Double](repeating: 0.3 / 12, count: 12))
    #expect(abs(found.stats.policyLoss + 0.3 * found.stats.kl - found.loss) < 1e-14)
  }

  @Test("CRD's gradients are finite differences where its centre does not move", arguments: CRDRegression.allCases)
  func crd(_ regression: CRDRegression) throws {
    // The centre has no gradient: with all but one sample of weight zero it does not move when another does.
    let options = CRDOptions {
      $0.regression = regression
      $0.temperature = 1e-3
    }
    let (d, old) = (try distances(1), try distances(2))
    let found = try crdLoss(distance: d, old: old, advantages: advantages, options: options)
    for i in times..<3 * times {
      func value(_ h: Double) throws -> Double {
        var moved = d
        moved[i] += h
        return try crdLoss(distance: moved, old: old, advantages: advantages, options: options).loss
      }
      let expected = (try value(1e-6) - value(-1e-6)) / 2e-6
      #expect(abs(found.gradDistances[0][i] - expected) < 1e-7)
    }
  }

  @Test("On the old policy CRD's mean square is the variance of the rewards, and its gradient follows the advantage")
  func crdOnPolicy() throws {
    let d = try distances(1)
    let found = try crdLoss(distance: d, old: d, advantages: advantages)
    let scaled = advantages.map { $0 / 10 + 0.5 }
    let variance = mean(scaled.map { pow($0 - mean(scaled), 2) })
    #expect(abs(found.loss - 5 * variance) < 1e-14)
    for i in 0..<batch * times {
      #expect((found.gradDistances[0][i] > 0) == (scaled[i / times] > mean(scaled)))
    }
  }

  @Test("DGPO's groups do not see one another")
  func dgpo() throws {
    let (d, reference) = (try distances(1), try distances(2))
    let together = try dgpoLoss(
      distance: d, reference: reference, advantages: advantages, options: DGPOOptions { $0.groupSize = 2 })
    let apart = try [0, 1].map { group in
      let rows = group * 6..<group * 6 + 6
      return try dgpoLoss(
        distance: Array(d[rows]), reference: Array(reference[rows]),
        advantages: Array(advantages[group * 2..<group * 2 + 2]))
    }
    #expect(abs(together.loss - mean(apart.map(\.loss))) < 1e-15)
    for i in 0..<12 { #expect(abs(together.gradDistances[0][i] - apart[i / 6].gradDistances[0][i % 6] / 2) < 1e-16) }
    let ids = try dgpoLoss(
      distance: d, reference: reference, advantages: advantages,
      options: DGPOOptions { $0.groupIDs = [7, 7, 3, 3] })
    #expect(ids.gradDistances == together.gradDistances)
  }

  @Test("DPO's gradients are finite differences; equal images have a loss of ln 2")
  func dpo() throws {
    let (w, l) = (try distances(3), try distances(4))
    try checkGradients(
      [distances(1), distances(2)],
      {
        try dpoLoss(
          chosen: $0[0], rejected: $0[1], chosenReference: w, rejectedReference: l, options: DPOOptions { $0.beta = 2 })
      }, "DPO")
    #expect(abs(try dpoLoss(chosen: w, rejected: w, chosenReference: l, rejectedReference: l).loss - log(2)) < 1e-15)
  }

  @Test("A chunk of times has one ratio, the geometric mean of theirs")
  func chunks() throws {
    let (new, old) = (try matchingLogProbs(distances(1)), try matchingLogProbs(distances(2)))
    let loss = try chunkLoss(
      new: new.logProbs, old: old.logProbs, advantages: advantages, plan: ChunkPlan([3]),
      options: ChunkLossOptions { $0.surrogate = .unclipped })
    for i in 0..<batch {
      let single = (0..<3).map { exp(old.logProbs[3 * i + $0] - new.logProbs[3 * i + $0]) }
      #expect(abs(loss.ratios[i] * pow(single.reduce(1, *), 1.0 / 3) - 1) < 1e-14)
    }
    #expect(new.slopes == [Double](repeating: -1, count: 12))
  }

  @Test("Pairs are the best and the worst of a group; equal scores make none")
  func pairs() throws {
    let pairs = try preferencePairs([3, 1, 2, 2, 2, 2, 0, 9], groupIDs: [1, 1, 1, 0, 0, 0, 5, 5])
    #expect(pairs.map(\.chosen) == [0, 7] && pairs.map(\.rejected) == [1, 6])
  }

  @Test("Times depend on seed, sample id and draw alone")
  func drawnTimes() throws {
    let options = TimeOptions {
      ($0.distribution, $0.seed) = (.logitNormal, 3)
      $0.sampleIDs = [5, 6, 5]
    }
    let all = try forwardTimes(batch: 3, count: 8, draw: 2, options: options)
    #expect(all[0] == all[2] && all[0] != all[1])
    let own = try forwardTimes(batch: 1, count: 8, draw: 2, options: options.with { $0.sampleIDs = [6] })
    #expect(own[0] == all[1])
    #expect(try forwardTimes(batch: 3, count: 8, draw: 3, options: options)[0] != all[0])
    #expect(all.joined().allSatisfy { $0 > 0 && $0 < 1 })
    let refused = error { _ = try forwardTimes(batch: 2, count: 8, options: options) }
    #expect(refused?.message.contains("sample_ids") == true)
  }
}
