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

  /// Weights that even out the gradients of the steps, the mean over the steps of each chunk: (K). A step without noise has no
  /// part in them, and a chunk of such steps has 0.
  public func gradientWeights(_ kind: GradientWeighting, _ sampler: Sampler) throws -> [Double] {
    var weights = [Double](repeating: 0, count: count)
    try gradientWeights(kind, sampler, into: &weights)
    return weights
  }

  package func gradientWeights(
    _ kind: GradientWeighting, _ sampler: Sampler, into weights: UnsafeMutablePointer<Double>
  ) throws {
    try require(
      steps == sampler.trainedSteps,
      "sizes: the chunks have \(steps) steps, but the sampler trains \(sampler.trainedSteps)")
    func isNoisy(_ k: Int) -> Bool { sampler.coefficients[k].s > 0 && sampler.coefficients[k].b != 0 }
    /// |∂ℓ/∂v| is this, but for the noise and D.
    func size(_ k: Int) -> Double { abs(sampler.coefficients[k].b) / sampler.coefficients[k].s }
    let noisy = try Buffer<Double>(count: steps, for: "the gradients of \(steps) steps")
    let scratch = try Buffer<Double>(count: steps, for: "the gradients of \(steps) steps")
    var found = 0
    for k in 0..<steps where isNoisy(k) {
      noisy[found] = size(k)
      found += 1
    }
    try require(found > 0, "sampler: none of its steps is stochastic, so that none has a gradient to weight")
    let unit: Double
    switch kind {
    case .flash: unit = (0..<found).reduce(0) { $0 + 1 / noisy[$1] } / Double(found)
    case .sage:
      sort(noisy.base, count: found, scratch: scratch.base, by: <)
      unit = 1 / noisy[(found - 1) / 2]
    case .precise: unit = 1
    }
    for j in 0..<count {
      var (sum, own) = (0.0, 0)
      for k in range(j) where isNoisy(k) {
        sum += (kind == .precise ? 1 / abs(sampler.coefficients[k].b) : 1 / size(k)) / unit
        own += 1
      }
      weights[j] = own == 0 ? 0 : sum / Double(own)
    }
  }
}

/// How `ChunkPlan.gradientWeights` weights a step x' = a·x + b·v + s·ε, whose ∂ℓ/∂v is b·ε/(D·s).
public enum GradientWeighting: Int32, Sendable, CaseIterable {
  /// s/|b|, divided by its mean (Flash-GRPO, arXiv 2605.15980).
  case flash = 1
  /// median(|b|/s)/(|b|/s), of two middle ones the lower (SAGE-GRPO).
  case sage = 2
  /// 1/|b| (Precise, arXiv 2605.23522, beside GRPO-Guard's ratio).
  case precise = 3
}
