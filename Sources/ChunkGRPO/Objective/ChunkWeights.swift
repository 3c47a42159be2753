// Weights of the policy terms, for `ChunkLossOptions.weights`.

extension ChunkPlan {
  /// √((T − m)/m) with T = S + 1 and m the middle step of the chunk (GCPO's `use_reweight`): (K).
  ///
  /// - Throws: where the middle of the first chunk is step 0: GCPO divides by zero there.
  public func gcpoWeights() throws -> [Double] {
    var weights = [Double](repeating: 0, count: count)
    try gcpoWeights(into: &weights)
    return weights
  }

  package func gcpoWeights(into weights: UnsafeMutablePointer<Double>) throws {
    let total = Double(steps + 1)
    for j in 0..<count {
      let range = range(j)
      let middle = range.lowerBound + range.count / 2
      try require(middle > 0, "sizes[0] = 1: the middle of the first chunk is step 0, whose weight would be infinite")
      weights[j] = ((total - Double(middle)) / Double(middle)).squareRoot()
    }
  }

  /// The mean of the noise s over the steps of each chunk, divided by its mean over all steps (TempFlow-GRPO, arXiv
  /// 2508.04324, whose chunks are single steps): (K), of mean 1 when weighted by size.
  public func tempFlowWeights(_ sampler: Sampler) throws -> [Double] {
    var weights = [Double](repeating: 0, count: count)
    try tempFlowWeights(sampler, into: &weights)
    return weights
  }

  package func tempFlowWeights(_ sampler: Sampler, into weights: UnsafeMutablePointer<Double>) throws {
    try require(
      steps == sampler.trainedSteps,
      "sizes: the chunks have \(steps) steps, but the sampler trains \(sampler.trainedSteps)")
    func noise(_ steps: Range<Int>) -> Double { steps.reduce(0) { $0 + sampler.coefficients[$1].s } }
    let whole = noise(0..<steps) / Double(steps)
    try require(whole > 0, "sampler: none of its steps is stochastic, so that there is no noise to weight by")
    for j in 0..<count { weights[j] = noise(range(j)) / Double(size(j)) / whole }
  }
}
