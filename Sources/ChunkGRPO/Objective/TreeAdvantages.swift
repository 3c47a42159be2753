internal import Platform

/// Advantages (B, S) of samples that share the first part of their way (BranchGRPO, arXiv 2509.06040; TempFlow-GRPO's
/// branches). A node is what some samples are after a step. Its value is the mean reward of its samples, or is fused from its
/// children; those of one depth and group are normalised against each other, as `advantages` does. The advantage of a step
/// is that of the node that it leads to.
///
/// - Parameters:
///   - rewards: (B), of the samples, which are the leaves.
///   - nodes: (B, S), the node that a sample is at after each step: equal ids of one step are one node, whose samples have
///     been at one node before.
///   - logProbs: (B, S) of the steps: a node's value is the mean of its children's, weighted by exp(ℓ) of the steps that
///     lead to them (BranchGRPO's `use_prob_weighted`); nil = the plain mean of its leaves.
public func treeAdvantages(
  _ rewards: [Double], nodes: [Int], logProbs: [Double]? = nil, _ options: AdvantageOptions
) throws -> [Double] {
  try require(
    !rewards.isEmpty && !nodes.isEmpty && nodes.count % rewards.count == 0,
    "nodes has \(nodes.count) ids for \(rewards.count) samples: it must have one for each of their steps")
  if let logProbs {
    try require(logProbs.count == nodes.count, "log_probs has \(logProbs.count) numbers for \(nodes.count) nodes")
  }
  var result = [Double](repeating: 0, count: nodes.count)
  try treeAdvantages(
    Numbers(rewards), nodes: Numbers(nodes), logProbs: logProbs.map { Numbers($0) },
    steps: nodes.count / rewards.count, options, into: &result)
  return result
}

package func treeAdvantages(
  _ rewards: Numbers<Double>, nodes: Numbers<Int>, logProbs: Numbers<Double>?, steps: Int,
  _ options: AdvantageOptions, into result: UnsafeMutablePointer<Double>
) throws {
  try checkOneReward(options)
  let tree = try Tree(rewards, nodes: nodes, logProbs: logProbs, steps: steps, options)
  for step in (0..<steps).reversed() { try tree.advantages(of: step, options, into: result) }
}

private struct Tree {
  let rewards: Numbers<Double>, nodes: Numbers<Int>
  let logProbs: UnsafePointer<Double>?
  let steps, batch: Int
  let groups: Groups
  /// Of the node that each sample is at after the step before last: its value, and whether the sample is its first.
  let values: Buffer<Double>, isFirst: Buffer<Bool>
  /// Of the nodes of a depth: value, group, advantage; of each sample its node.
  let nodeValues: Buffer<Double>, nodeGroups: Buffer<Int>, nodeAdvantages: Buffer<Double>, nodeOf: Buffer<Int>

  init(
    _ rewards: Numbers<Double>, nodes: Numbers<Int>, logProbs: Numbers<Double>?, steps: Int, _ o: AdvantageOptions
  ) throws {
    if let i = rewards.firstIndex(where: { !$0.isFinite }) {
      throw ChunkGRPOError.nonFinite("rewards[\(i)] = \(rewards[i]) is not finite")
    }
    if let logProbs, let i = logProbs.firstIndex(where: { !$0.isFinite }) {
      throw ChunkGRPOError.nonFinite("log_probs of sample \(i / steps) at step \(i % steps) is \(logProbs[i])")
    }
    (self.rewards, self.nodes, self.steps, batch) = (rewards, nodes, steps, rewards.count)
    self.logProbs = logProbs?.pointer
    groups = try Groups(count: batch, o)
    values = try Buffer(count: batch, for: "a tree of samples")
    isFirst = try Buffer(count: batch, for: "a tree of samples")
    nodeValues = try Buffer(count: batch, for: "a tree of samples")
    nodeGroups = try Buffer(count: batch, for: "a tree of samples")
    nodeAdvantages = try Buffer(count: batch, for: "a tree of samples")
    nodeOf = try Buffer(count: batch, for: "a tree of samples")
    for i in 0..<batch { (values[i], isFirst[i]) = (rewards[i], true) }
  }

  /// Steps are gone through from the last to the first.
  func advantages(of step: Int, _ options: AdvantageOptions, into result: UnsafeMutablePointer<Double>) throws {
    let order = try sorted(count: batch, for: "a tree of samples") { nodes[$0 * steps + step] }
    var (start, count) = (0, 0)
    while start < batch {
      var end = start + 1
      while end < batch && order[end].key == order[start].key { end += 1 }
      let first = order[start].index
      for place in start..<end { try check(order[place].index, with: first, step) }
      let value = value(start..<end, order, step)
      guard value.isFinite else { throw tooFarApart("the value of the node at step \(step)", sample: first, value) }
      for place in start..<end {
        let sample = order[place].index
        (values[sample], isFirst[sample], nodeOf[sample]) = (value, place == start, count)
      }
      (nodeValues[count], nodeGroups[count]) = (value, groups.id(ofSample: first))
      count += 1
      start = end
    }
    var own = options
    (own.groupSize, own.groupIDs) = (nil, Numbers(nodeGroups, count: count))
    try ChunkGRPO.advantages(Numbers(nodeValues, count: count), own, into: nodeAdvantages.base)
    for i in 0..<batch { result[i * steps + step] = nodeAdvantages[nodeOf[i]] }
  }

  /// Two samples at one node were at one node before, and are of one group.
  private func check(_ sample: Int, with first: Int, _ step: Int) throws {
    let node = nodes[sample * steps + step]
    try require(
      groups.id(ofSample: sample) == groups.id(ofSample: first),
      "nodes: samples \(first) and \(sample) are both at node \(node) after step \(step), but they are of two groups")
    try require(
      step == 0 || nodes[sample * steps + step - 1] == nodes[first * steps + step - 1],
      "nodes: samples \(first) and \(sample) are both at node \(node) after step \(step), but at two nodes before it")
  }

  /// Of the node of these places, in the order of the samples.
  private func value(_ places: Range<Int>, _ order: Buffer<Placed<Int>>, _ step: Int) -> Double {
    let first = order[places.lowerBound].index
    guard let logProbs, step + 1 < steps else {
      return rewards[first] + mean(places) { rewards[order[$0].index] - rewards[first] }
    }
    func logProb(_ place: Int) -> Double { logProbs[order[place].index * steps + step + 1] }
    var most = -Double.infinity
    for place in places where isFirst[order[place].index] { most = max(most, logProb(place)) }
    var (sum, weights) = (0.0, 0.0)
    for place in places where isFirst[order[place].index] {
      let weight = exp(logProb(place) - most)
      sum += weight * values[order[place].index]
      weights += weight
    }
    return sum / weights
  }

  private func mean(_ places: Range<Int>, _ value: (Int) -> Double) -> Double {
    var sum = 0.0
    for place in places { sum += value(place) }
    return sum / Double(places.count)
  }
}
