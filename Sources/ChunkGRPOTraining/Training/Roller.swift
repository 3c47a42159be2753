import ChunkGRPO

/// The samples of a rollout, numbered from 0.
struct RolloutSamples {
  /// Consecutive samples per row of the conditions, and per initial noise.
  let perPrompt, perInitialNoise: Int
  let deal: Deal
  /// Noise id of the first sample of all ranks; the others' follow.
  let firstID: UInt64
  /// Latents (B, D) before step 0, and the distance to those before the next step: 0 where steps are written over.
  let latents: UnsafeMutablePointer<Float>
  let stepStride: Int
  /// (B, S) or nil.
  var logProbs, relativeL1: UnsafeMutablePointer<Double>?

  func id(_ sample: Int) -> UInt64 {
    firstID &+ UInt64(deal.number(sample / perPrompt) &* perPrompt &+ sample % perPrompt)
  }
  func initialID(_ sample: Int) -> UInt64 { id(sample / perInitialNoise * perInitialNoise) }
}

/// Rows (sample, step) whose gradient is taken next by the parameters of the rollout. The networks keep their activations, in
/// the order of steps; `velocities` take their velocities, (rows, D) for each lane.
struct Recording {
  let isSelected: (_ sample: Int, _ step: Int) -> Bool
  let velocities: [Buffer<Float>]
}

/// A rollout by the embedded network. With `recording`, each network has room for its samples beside the rows that it
/// keeps, and for all contexts.
struct Roller {
  /// One per lane.
  let networks: [VelocityNetwork<Float>]
  let parameters: NetworkParameters<Float>
  let sampler: Sampler
  let prompts: Prompts
  let seed: UInt64
  let samples: RolloutSamples
  var recording: Recording?

  /// Takes all steps of the samples `range`, `maxRows` of each network at a time.
  func run(_ range: Range<Int>) throws {
    try forEachLane(of: range, count: networks.count, threads: sampler.threads) { lane, own in
      for start in stride(from: own.lowerBound, to: own.upperBound, by: networks[lane].maxRows) {
        let pass = try RolloutPass(self, lane, start..<min(own.upperBound, start + networks[lane].maxRows))
        try withExtendedLifetime(pass) { try pass.run() }
      }
    }
  }
}

/// A rollout of as many samples as one network takes at a time.
private final class RolloutPass {
  private let roller: Roller
  private let lane: Int
  private let range: Range<Int>

  private let network: VelocityNetwork<Float>
  /// Noise ids of the samples, and of their initial noise.
  private let ids, initialIDs: Buffer<UInt64>
  /// The samples' prompts, numbered as the contexts of a step are.
  private let prompts: Numbering
  /// Steps whose contexts are computed together: as many as fit.
  private let span: Int
  private let sigmas: Buffer<Double>
  private let conditions: Buffer<Float>
  /// The sample and the context of each of the network's rows.
  private let order: Buffer<Int>
  private let contexts: Buffer<Int32>
  /// Latents and velocities in the order of the network's rows, and velocities in that of the samples; (range, D) each.
  private let memory: Buffer<Float>
  private var recordedRows = 0

  private var size: Int { network.shape.latentSize }
  private var input: UnsafeMutablePointer<Float> { memory.base }
  private var output: UnsafeMutablePointer<Float> { memory.base + range.count &* size }
  private var velocity: UnsafeMutablePointer<Float> { memory.base + 2 &* range.count &* size }

  init(_ roller: Roller, _ lane: Int, _ range: Range<Int>) throws {
    self.roller = roller
    self.lane = lane
    self.range = range
    network = roller.networks[lane]
    let count = range.count
    ids = try Buffer(count: count, for: "the noise of \(count) samples")
    initialIDs = try Buffer(count: count, for: "the noise of \(count) samples")
    for (i, sample) in range.enumerated() {
      (ids[i], initialIDs[i]) = (roller.samples.id(sample), roller.samples.initialID(sample))
    }
    prompts = try Numbering(count: count, for: "the prompts of \(count) samples") {
      roller.prompts.index[(range.lowerBound + $0) / roller.samples.perPrompt]
    }
    span = min(roller.sampler.steps, max(1, network.maxContexts / prompts.firsts.count))
    sigmas = try Buffer(count: span * prompts.firsts.count, for: "the sigmas of \(span) steps")
    conditions = try Buffer(
      count: checkedProduct([sigmas.count, network.shape.conditionSize], "conditions"), for: "conditions")
    order = try Buffer(count: count, for: "the order of \(count) samples")
    contexts = try Buffer(count: count, for: "the contexts of \(count) samples")
    memory = try Buffer(
      count: checkedProduct([3, range.count, network.shape.latentSize], "velocities"), for: "velocities")
  }

  func run() throws {
    try normal(
      .library(seed: roller.seed, borrowing: initialIDs.base), threads: roller.sampler.threads, into: latents(0))
    for step in 0..<roller.sampler.steps {
      if step % span == 0 { try setContexts(step..<min(roller.sampler.steps, step + span)) }
      try computeVelocity(step)
      try advance(step)
    }
    if roller.recording != nil { network.truncate(to: recordedRows) }
  }

  private func setContexts(_ steps: Range<Int>) throws {
    var count = 0
    for step in steps {
      for sample in prompts.firsts {
        roller.prompts.copy(
          prompt(Int(sample)), to: conditions.base + count &* network.shape.conditionSize)
        sigmas[count] = roller.sampler.schedule.sigmas[step]
        count += 1
      }
    }
    try network.setContexts(
      roller.parameters, sigmas: Numbers(sigmas, count: count), conditions: conditions.base)
  }

  private func computeVelocity(_ step: Int) throws {
    let selected = arrange(step)
    let latents = start(step)
    let firstContext = Int32(truncatingIfNeeded: step % span * prompts.firsts.count)
    for (row, i) in order.values.enumerated() {
      (input + row &* size).update(from: latents + i &* size, count: size)
      contexts[row] = prompts.numbers[i] &+ firstContext
    }
    try network.forward(
      roller.parameters, latents: input, contextOfRow: Numbers(contexts), velocity: output, firstRow: recordedRows)
    for (row, i) in order.values.enumerated() {
      (velocity + i &* size).update(from: output + row &* size, count: size)
    }
    if let recording = roller.recording, selected > 0 {
      (recording.velocities[lane].base + recordedRows &* size).update(from: output, count: selected &* size)
      recordedRows += selected
    }
  }

  /// Fills `order`. Recorded samples come first: the rows of the next step follow them.
  ///
  /// - Returns: how many are recorded.
  private func arrange(_ step: Int) -> Int {
    func isRecorded(_ i: Int) -> Bool { roller.recording?.isSelected(range.lowerBound + i, step) ?? false }
    var row = 0
    for i in 0..<range.count where isRecorded(i) {
      order[row] = i
      row += 1
    }
    let selected = row
    for i in 0..<range.count where !isRecorded(i) {
      order[row] = i
      row += 1
    }
    return selected
  }

  private func advance(_ step: Int) throws {
    let trainedSteps = roller.sampler.trainedSteps
    // (B, S), where the step is trained.
    func ofStep(_ values: UnsafeMutablePointer<Double>?) -> UnsafeMutablePointer<Double>? {
      step < trainedSteps ? values.map { $0 + (range.lowerBound &* trainedSteps &+ step) } : nil
    }
    try roller.sampler.step(
      step, latents: latents(step), velocity: view(velocity),
      noise: .library(seed: roller.seed, borrowing: ids.base), next: latents(step + 1),
      logProb: ofStep(roller.samples.logProbs), relativeL1: ofStep(roller.samples.relativeL1), stride: trainedSteps)
  }

  private func prompt(_ i: Int) -> Int32 { roller.prompts.index[(range.lowerBound + i) / roller.samples.perPrompt] }

  /// Latents of the first sample before `step`.
  private func start(_ step: Int) -> UnsafeMutablePointer<Float> {
    roller.samples.latents + (step &* roller.samples.stepStride &+ range.lowerBound &* size)
  }

  private func latents(_ step: Int) -> LatentsView { view(start(step)) }

  private func view(_ base: UnsafeMutablePointer<Float>) -> LatentsView {
    LatentsView(base, type: .float32, batch: range.count, elements: size)
  }
}
