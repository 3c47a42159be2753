extension ChunkLossOptions {
  /// Whether a step counts, by its index into (B, S): it is present, and its chunk is selected. What else there is may be
  /// anything.
  fileprivate func isRead(_ index: Int, _ plan: ChunkPlan) -> Bool {
    if let mask, !mask[index] { return false }
    guard let selection else { return true }
    let (sample, step) = index.quotientAndRemainder(dividingBy: plan.steps)
    return selection[sample * plan.count + plan.chunk(ofStep: step)]
  }
}

/// Throws where the numbers of a loss do not fit the plan or each other, or one that counts is no number.
func check(
  batch: Int, new: Numbers<Double>, old: Numbers<Double>, advantages: Numbers<Double>, plan: ChunkPlan,
  _ o: ChunkLossOptions
) throws {
  let (steps, count) = (plan.steps, plan.count)
  let size = try checkedProduct([batch, steps], "log-probabilities")
  func checkSize(_ name: StaticString, _ found: Int) throws {
    try require(
      found == size,
      "\(name) has \(found) numbers, but \(batch) samples of \(steps) steps, the sum of the chunk sizes, have \(batch) × \(steps)"
    )
  }
  if let mask = o.mask { try checkSize("mask", mask.count) }
  if let selection = o.selection {
    try require(
      selection.count == batch * count,
      "selection has \(selection.count) entries for \(batch) samples of \(count) chunks")
    try require(selection.contains(true), "selection: no chunk of any sample is selected")
  }
  func checkNumbers(_ name: StaticString, _ values: Numbers<Double>?) throws {
    guard let values else { return }
    try checkSize(name, values.count)
    if let i = values.firstIndex(where: { !$0.isFinite }).flatMap({ first in
      (first..<size).first { !values[$0].isFinite && o.isRead($0, plan) }
    }) {
      throw ChunkGRPOError.nonFinite("\(name) of sample \(i / steps) at step \(i % steps) is \(values[i])")
    }
  }
  try checkNumbers("new_log_probs", new)
  try checkNumbers("old_log_probs", old)
  try checkNumbers("reference_log_probs", o.reference)
  try checkNumbers("ratio_bias", o.ratioBias)
  try checkNumbers("divergence", o.divergence)
  if let divergence = o.divergence, let i = (0..<size).first(where: { divergence[$0] < 0 && o.isRead($0, plan) }) {
    throw ChunkGRPOError.invalidArgument(
      "divergence of sample \(i / steps) at step \(i % steps) = \(divergence[i]) must be at least 0")
  }
  try checkAdvantages(advantages, plan, o)
  try checkFactors(batch: batch, plan, o)
}

/// Those that are read.
private func checkAdvantages(_ advantages: Numbers<Double>, _ plan: ChunkPlan, _ o: ChunkLossOptions) throws {
  let row = o.advantageLevel.row(plan)
  for index in 0..<advantages.count where !advantages[index].isFinite {
    let (sample, place) = index.quotientAndRemainder(dividingBy: row)
    switch o.advantageLevel {
    case .sample:
      throw ChunkGRPOError.nonFinite("advantages[\(index)] = \(advantages[index]) is not finite")
    case .chunk where plan.range(place).contains { o.isRead(sample * plan.steps + $0, plan) },
      .step where o.isRead(index, plan):
      throw ChunkGRPOError.nonFinite(
        "advantages of sample \(sample) at \(o.advantageLevel) \(place) is \(advantages[index])")
    case .chunk, .step: continue
    }
  }
}

private func checkFactors(batch: Int, _ plan: ChunkPlan, _ o: ChunkLossOptions) throws {
  let (steps, count) = (plan.steps, plan.count)
  if let scale = o.ratioScale {
    try require(scale.count == steps, "ratio_scale has \(scale.count) numbers for \(steps) steps")
    if let t = scale.firstIndex(where: { !($0 >= 0 && $0.isFinite) }) {
      throw ChunkGRPOError.invalidArgument("ratio_scale[\(t)] = \(scale[t]) must be at least 0 and finite")
    }
  }
  if let weights = o.klWeights {
    try require(o.kl > 0, "kl_weights are factors of kl, which is 0: give a kl > 0, or no kl_weights")
    try require(weights.count == batch, "kl_weights has \(weights.count) numbers for \(batch) samples")
    if let i = weights.firstIndex(where: { !($0 >= 0 && $0.isFinite) }) {
      throw ChunkGRPOError.invalidArgument("kl_weights[\(i)] = \(weights[i]) must be at least 0 and finite")
    }
  }
  if let weights = o.weights {
    try require(
      weights.count == count || weights.count == batch * count,
      "weights has \(weights.count) numbers for \(count) chunks, or \(batch) samples of \(count) chunks")
    if let j = weights.firstIndex(where: { !($0 >= 0 && $0.isFinite) }) {
      throw ChunkGRPOError.invalidArgument("weights[\(j)] = \(weights[j]) must be at least 0 and finite")
    }
  }
}
