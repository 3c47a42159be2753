import ChunkGRPO
import Foundation
import Testing

@Suite("Credit of steps, trees, groups and forks")
struct StepCreditTests {
  @Test("Advantages of steps are those of each column by itself")
  func columns() throws {
    let rewards = try normals(8 * 3, seed: 1)
    let o = AdvantageOptions { ($0.groupSize, $0.clamp) = (4, 1.2) }
    let ours = try stepAdvantages(rewards, steps: 3, o)
    for k in 0..<3 {
      let own = try advantages((0..<8).map { rewards[$0 * 3 + k] }, o)
      #expect((0..<8).allSatisfy { ours[$0 * 3 + k] == own[$0] })
    }
    #expect(error { _ = try stepAdvantages([1, .nan], steps: 2, o) }?.message.contains("sample 0 at step 1") == true)
    let two = AdvantageOptions { ($0.groupSize, $0.rewardCount) = (4, 2) }
    #expect(error { _ = try stepAdvantages(rewards, steps: 3, two) }?.message.contains("reward_count = 2") == true)
  }

  @Test("A tree without branches gives the advantages of its samples; a node has those of its samples' mean")
  func trees() throws {
    let rewards = try normals(6, seed: 2)
    let o = AdvantageOptions { ($0.groupSize, $0.clamp) = (6, .infinity) }
    let apart = try treeAdvantages(rewards, nodes: (0..<12).map { $0 / 2 }, o)
    let own = try advantages(rewards, o)
    #expect((0..<12).allSatisfy { apart[$0] == own[$0 / 2] })
    // Two nodes after step 0, of 2 and 4 samples, whose ids are in no order.
    let nodes = [7, 1, 7, 2, -3, 3, -3, 4, -3, 5, -3, 6]
    let ours = try treeAdvantages(rewards, nodes: nodes, o)
    let (left, right) = (mean(rewards[0..<2]), mean(rewards[2..<6]))
    // Of two values: ±(left − right)/2 divided by |left − right|/√2.
    let expected = (left > right ? 1 : -1) / 2.0.squareRoot()
    for i in 0..<6 { #expect(abs(ours[2 * i] - (i < 2 ? expected : -expected)) < 1e-6 && ours[2 * i + 1] == own[i]) }
    for (nodes, words) in [
      ([1, 5, 2, 5, 3, 3, 4, 4, 6, 6, 7, 7], "samples 0 and 1 are both at node 5 after step 1, but at two nodes"),
      ([1, 2, 3], "3 ids for 6 samples"),
    ] {
      #expect(error { _ = try treeAdvantages(rewards, nodes: nodes, o) }?.message.contains(words) == true)
    }
    let two = AdvantageOptions { $0.groupSize = 3 }
    #expect(
      error { _ = try treeAdvantages(rewards, nodes: [1, 1, 1, 1, 1, 1], two) }?.message.contains("of two groups")
        == true)
  }

  @Test("Groups of equal rewards, or of one sample, say nothing")
  func zeroStd() throws {
    let o = AdvantageOptions { $0.groupIDs = [4, 4, 1, 1, 9, 1] }
    let found = try zeroStdGroups([0.1, 0.1, 2, 2, 5, 3], o)
    #expect(found.mask == [false, false, true, true, false, true] && found.groups == 3 && found.zeroStd == 2)
  }

  @Test("A win rate is the share of the others that are beaten, ties counting one half")
  func wins() throws {
    let rewards = [0.3, -1, 0.3, 8, 2, 2, 2, 7]
    let ours = try winRates(rewards, AdvantageOptions { $0.groupSize = 4 })
    for i in 0..<8 {
      let others = (0..<4).map { i / 4 * 4 + $0 }.filter { $0 != i }
      let wins = others.reduce(0.0) { $0 + (rewards[i] > rewards[$1] ? 1 : rewards[i] == rewards[$1] ? 0.5 : 0) }
      #expect(ours[i] == wins / 3)
    }
    #expect(try winRates([3], AdvantageOptions()) == [0])
  }

  @Test("Importance weights of chunks: products, geometric means and means of bounded steps")
  func importance() throws {
    let (old, plan) = (try normals(10, seed: 3), try ChunkPlan([2, 3]))
    let behaviour = zip(old, try normals(10, seed: 4)).map { $0 - 0.3 * $1 }
    func sum(_ steps: Range<Int>) -> Double { steps.reduce(0) { $0 + old[$1] - behaviour[$1] } }
    let chunks = [0..<2, 2..<5, 5..<7, 7..<10]
    var o = ImportanceOptions { $0.high = .infinity }
    func weights() throws -> [Double] { try importanceWeights(old, behaviour: behaviour, plan: plan, o) }
    o.level = .chunk
    #expect(zip(try weights(), chunks).allSatisfy { close($0, exp(sum($1)), 1e-14) })
    o.isGeometric = true
    #expect(zip(try weights(), chunks).allSatisfy { close($0, exp(sum($1) / Double($1.count)), 1e-14) })
    o = ImportanceOptions { $0.high = 1.1 }
    let steps = (0..<10).map { min(exp(sum($0..<$0 + 1)), 1.1) }
    #expect(zip(try weights(), chunks).allSatisfy { close($0, mean(steps[$1]), 1e-14) })
    for mode in [ImportanceMode.truncate, .mask, .reject] {
      o = ImportanceOptions { ($0.level, $0.mode) = (.sample, mode) }
      let most = Double.greatestFiniteMagnitude
      let infinities = error {
        _ = try importanceWeights([most, -most], behaviour: [-most, most], plan: .fixed(steps: 2, size: 2), o)
      }
      #expect(infinities?.code == .nonFinite, "\(mode): a sum of infinities has no sign")
    }
    o = ImportanceOptions { ($0.low, $0.high) = (1, 0.5) }
    #expect(error { _ = try weights() }?.message.contains("high = 0.5") == true)
  }

  @Test("Ids of forks of forks never meet: a million of them, and with those that they come from")
  func ids() throws {
    var all = (0..<1000).map { UInt64($0) }
    var seen = Set(all)
    for step in [0, 3, 3, 7] {
      all = try forkedIDs(all, step: step, branches: step == 7 ? 16 : 4)
      for id in all { #expect(seen.insert(id).inserted) }
    }
    #expect(seen.count == 1_000 + 4_000 + 16_000 + 64_000 + 1_024_000)
    let (three, two) = (try forkedIDs([5], step: 2, branches: 3), try forkedIDs([5], step: 2, branches: 2))
    #expect(three.starts(with: two))
  }

  @Test("A fork shares what lies before its step, and each branch goes on as a rollout with its id would")
  func fork() throws {
    let sampler = try Sampler(Schedule.linear(steps: 6), SamplerOptions { $0.eta = 0.7 })
    let initial = try Latents(try normals(2 * 5, seed: 6), batch: 2)
    let velocity: VelocityFunction = { _, sigma, x, v in
      for i in 0..<x.batch {
        let (from, to) = (try x.doubles(i), try v.doubles(i))
        for d in from.indices { to[d] = sigma * from[d] - 0.1 }
      }
    }
    let trunk = try Trajectory(sampler, initial: initial.view, noise: .library(seed: 9, sampleIDs: [3, 11]))
    try trunk.advance(velocity: velocity)
    let fork = try trunk.fork(at: 2, branches: 3)
    #expect(fork.position == 2)
    try fork.advance(velocity: velocity)
    let (whole, wide) = try (trunk.latents.values, fork.latents.values)
    for k in 0...2 {
      for row in 0..<6 {
        let (own, trunk) = ((k * 6 + row) * 5, (k * 2 + row / 3) * 5)
        #expect(wide[own..<own + 5].elementsEqual(whole[trunk..<trunk + 5]))
      }
    }
    let firsts: [Double] = (18..<24).map { (row: Int) -> Double in wide[row * 5] }
    #expect(Set(firsts).count == 6)
    let (before, after) = (trunk.logProbs, fork.logProbs)
    for row in 0..<6 {
      let start = row / 3 * 5
      #expect(after[row * 5..<row * 5 + 2].elementsEqual(before[start..<start + 2]))
    }
    let ids = try forkedIDs([3, 11], step: 2, branches: 3)
    let alone = try Trajectory(
      sampler, initial: Latents(Array(whole[(2 * 2 + 1) * 5..<(2 * 2 + 2) * 5]), batch: 1).view,
      noise: .library(seed: 9, sampleIDs: [ids[4]]), position: 2)
    try alone.advance(velocity: velocity)
    let last = (6 * 6 + 4) * 5
    #expect(try alone.latents.values.suffix(5).elementsEqual(wide[last..<last + 5]))
    #expect(alone.logProbs[2...].elementsEqual(after[22..<25]))
    #expect(error { _ = try trunk.fork(at: 7, branches: 2) }?.message.contains("step = 7") == true)
    #expect(error { _ = try trunk.fork(at: 2, branches: 0) }?.message.contains("branches = 0") == true)
  }

  @Test("Steps without noise have no part in the weights of gradients")
  func windows() throws {
    let sampler = try Sampler(Schedule.linear(steps: 8), SamplerOptions { ($0.eta, $0.window) = (0.7, [1, 2, 5]) })
    let plan = try ChunkPlan([1, 2, 2, 2])
    let size = sampler.coefficients.map { abs($0.b) / $0.s }
    let weights = try plan.gradientWeights(.sage, sampler)
    let middle = [size[1], size[2], size[5]].sorted()[1]
    #expect(weights[0] == 0 && weights[2] == 0)
    #expect(
      close(weights[1], (middle / size[1] + middle / size[2]) / 2, 1e-14) && close(weights[3], middle / size[5], 1e-14))
  }
}
