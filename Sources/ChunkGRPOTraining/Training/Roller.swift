import ChunkGRPO

/// The samples of a rollout, numbered from 0.
struct RolloutSamples {
  /// Consecutive samples per row of the conditions, and per initial noise.
  let perPrompt, perInitialNoise: Int
  /// Noise id of sample 0; the others' follow.
  let firstID: UInt64
  /// Latents (B, D) before step 0, and the distance to those before the next step: 0 where steps are written over.
  let latents: UnsafeMutablePointer<Float>
  let stepStride: Int
  /// (B, S) or nil.
  var logProbs, relativeL1: UnsafeMutablePointer<Double>?

  func id(_ sample: Int) -> UInt64 { firstID &+ UInt64(sample) }
  func initialID(_ sample: Int) -> UInt64 { id(sample / perInitialNoise * perInitialNoise) }
}

/// Rows (sample, step) that are trained next by the parameters of the rollout. The networks keep their activations, in
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
        var pass = try RolloutPass(self, lane, start..<min(own.upperBound, start + networks[lane].maxRows))
        try pass.run()
      }
    }
  }
}

/// A rollout of as many samples as one network takes at a time.
private struct RolloutPass {
  private let roller: Roller
  private let lane: Int
  private let range: Range<Int>

  private let network: VelocityNetwork<Float>
  private let noise: Noise
  /// For each sample its prompt's place in `prompts`, and so its context's among those of a step.
  private let promptOfSample: [Int32]
  private let prompts: [Int32]
  /// Steps whose contexts are computed together: as many as fit.
  private let span: Int
  private let conditions: Buffer<Float>
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
    noise = .library(seed: roller.seed, sampleIDs: range.map(roller.samples.id))
    (promptOfSample, prompts) = numbered(range.map { roller.prompts.index[$0 / roller.samples.perPrompt] })
    span = min(roller.sampler.steps, max(1, network.maxContexts / prompts.count))
    conditions = try Buffer(
      count: checkedProduct([span, prompts.count, network.shape.conditionSize], "conditions"), for: "conditions")
    memory = try Buffer(
      count: checkedProduct([3, range.count, network.shape.latentSize], "velocities"), for: "velocities")
  }

  mutating func run() throws {
    try normal(
      seed: roller.seed, sampleIDs: range.map(roller.samples.initialID), threads: roller.sampler.threads,
      into: latents(0))
    for step in 0..<roller.sampler.steps {
      if step % span == 0 { try setContexts(step..<min(roller.sampler.steps, step + span)) }
      try computeVelocity(step)
      try advance(step)
    }
    if roller.recording != nil { network.truncate(to: recordedRows) }
  }

  private func setContexts(_ steps: Range<Int>) throws {
    var sigmas: [Double] = []
    for step in steps {
      for prompt in prompts {
        roller.prompts.copy(prompt, to: conditions.base + sigmas.count &* network.shape.conditionSize)
        sigmas.append(roller.sampler.schedule.sigmas[step])
      }
    }
    try network.setContexts(roller.parameters, sigmas: sigmas, conditions: conditions.base)
  }

  private mutating func computeVelocity(_ step: Int) throws {
    // Recorded samples come first: the rows of the next step follow them.
    var order = Array(0..<range.count)
    var selected = 0
    if let recording = roller.recording, step < roller.sampler.trainedSteps {
      selected = order.partition { !recording.isSelected(range.lowerBound + $0, step) }
      order[..<selected].sort()
    }
    let latents = start(step)
    for (row, i) in order.enumerated() { (input + row &* size).update(from: latents + i &* size, count: size) }
    let firstContext = Int32(truncatingIfNeeded: step % span * prompts.count)
    try network.forward(
      roller.parameters, latents: input, contextOfRow: order.map { promptOfSample[$0] &+ firstContext },
      velocity: output, firstRow: recordedRows)
    for (row, i) in order.enumerated() { (velocity + i &* size).update(from: output + row &* size, count: size) }
    if let recording = roller.recording, selected > 0 {
      (recording.velocities[lane].base + recordedRows &* size).update(from: output, count: selected &* size)
      recordedRows += selected
    }
  }

  private func advance(_ step: Int) throws {
    let trainedSteps = roller.sampler.trainedSteps
    var logProb = [Double](repeating: 0, count: range.count)
    var change = [Double](repeating: 0, count: range.count)
    try roller.sampler.step(
      step, latents: latents(step), velocity: view(velocity), noise: noise, next: latents(step + 1),
      logProb: &logProb, relativeL1: &change)
    guard step < trainedSteps else { return }
    for (i, sample) in range.enumerated() {
      roller.samples.logProbs?[sample &* trainedSteps &+ step] = logProb[i]
      roller.samples.relativeL1?[sample &* trainedSteps &+ step] = change[i]
    }
  }

  /// Latents of the first sample before `step`.
  private func start(_ step: Int) -> UnsafeMutablePointer<Float> {
    roller.samples.latents + (step &* roller.samples.stepStride &+ range.lowerBound &* size)
  }

  private func latents(_ step: Int) -> LatentsView { view(start(step)) }

  private func view(_ base: UnsafeMutablePointer<Float>) -> LatentsView {
    LatentsView(base, type: .float32, batch: range.count, elements: size)
  }
}
