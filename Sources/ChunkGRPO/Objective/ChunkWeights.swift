// Weights of the policy terms, for `ChunkLossOptions.weights`.

extension ChunkPlan {
  /// √((T − m)/m) with T = S + 1 and m the middle step of the chunk (GCPO's `use_reweight`): (K).
  ///
  /// - Throws: where the middle of the first chunk is step 0: GCPO divides by zero there.
  public func gcpoWeights() throws -> [Double] {
    let total = Double(steps + 1)
    return try ranges.map { range in
      let middle = range.lowerBound + range.count / 2
      try require(middle > 0, "sizes[0] = 1: the middle of the first chunk is step 0, whose weight would be infinite")
      return ((total - Double(middle)) / Double(middle)).squareRoot()
    }
  }

  /// The mean of the noise s over the steps of each chunk, divided by its mean over all steps (TempFlow-GRPO, arXiv
  /// 2508.04324, whose chunks are single steps): (K), of mean 1 when weighted by size.
  public func tempFlowWeights(_ sampler: Sampler) throws -> [Double] {
    try require(
      steps == sampler.trainedSteps,
      "sizes: the chunks have \(steps) steps, but the sampler trains \(sampler.trainedSteps)")
    let noise = sampler.coefficients.map(\.s)
    let whole = noise.prefix(steps).reduce(0, +) / Double(steps)
    try require(whole > 0, "sampler: none of its steps is stochastic, so that there is no noise to weight by")
    return ranges.map { noise[$0].reduce(0, +) / Double($0.count) / whole }
  }
}
