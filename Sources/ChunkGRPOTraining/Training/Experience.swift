import ChunkGRPO

/// The samples of one iteration.
struct Experience {
  let prompts: Prompts
  let deal: Deal
  let chunks: ChunkPlan
  let groupSize: Int
  let batch: Int
  /// (T + 1, B, D)
  let latents: Buffer<Float>
  /// (B, S)
  let logProbs, relativeL1: Buffer<Double>
  /// (B)
  let advantages: Buffer<Double>
  /// (B, K)
  let selection: Buffer<UInt8>
  /// The parameters that drew the samples.
  let parameters: NetworkParameters<Float>
  /// Whether the networks hold the activations of the first optimiser step since the rollout.
  var isRecorded = false
  /// Whether the last step, which no chunk trains, has rows too: the reference holds it.
  let holdsLastStep: Bool

  init(
    _ prompts: Prompts, _ deal: Deal, _ plan: TrainingPlan, groupSize: Int, batch: Int, holdsLastStep: Bool,
    parameters: NetworkParameters<Float>
  ) throws {
    (self.prompts, self.deal, self.groupSize, self.batch, self.parameters) = (
      prompts, deal, groupSize, batch, parameters
    )
    chunks = plan.chunks
    self.holdsLastStep = holdsLastStep
    func memory<T>(_ sizes: [Int], _ what: String) throws -> Buffer<T> {
      try Buffer(count: checkedProduct([batch] + sizes, what), for: "the \(what) of \(batch) samples")
    }
    latents = try memory([plan.shape.latentSize, plan.sampler.steps + 1], "trajectories")
    logProbs = try memory([chunks.steps], "log-probabilities")
    relativeL1 = try memory([chunks.steps], "changes")
    advantages = try memory([], "advantages")
    selection = try memory([chunks.count], "selection")
  }

  /// Number among `prompts` of the condition that the sample was made for.
  func prompt(_ sample: Int) -> Int32 { prompts.index[sample / groupSize] }

  /// Number of the sample among those of all ranks.
  func number(_ sample: Int) -> Int { deal.number(sample / groupSize) &* groupSize &+ sample % groupSize }

  /// This rank's samples of one of `updates` optimiser steps: whole groups.
  func samples(ofUpdate number: Int, of updates: Int) -> Range<Int> {
    let prompts = deal.own((0..<deal.count).slice(number, of: updates))
    return prompts.lowerBound * groupSize..<prompts.upperBound * groupSize
  }

  /// All ranks' samples of an optimiser step.
  func sampleCount(ofUpdate number: Int, of updates: Int) -> Int {
    (0..<deal.count).slice(number, of: updates).count &* groupSize
  }

  func isSelected(_ sample: Int, chunk: Int) -> Bool { selection[sample &* chunks.count &+ chunk] != 0 }

  func selectedChunks(_ samples: Range<Int>) -> Int {
    samples.reduce(0) { sum, sample in sum + (0..<chunks.count).count { isSelected(sample, chunk: $0) } }
  }

  /// Selected steps of the samples.
  func selectedSteps(_ samples: Range<Int>) -> Int {
    samples.reduce(0) { sum, sample in
      (0..<chunks.count).reduce(sum) { $0 + (isSelected(sample, chunk: $1) ? chunks.size($1) : 0) }
    }
  }

  /// Rows that training runs for the samples.
  func rows(_ samples: Range<Int>) -> Int { selectedSteps(samples) + (holdsLastStep ? samples.count : 0) }

  /// Cuts `samples` so that the rows of each range are at most `maxRows`.
  func forEachPass(_ samples: Range<Int>, maxRows: Int, _ body: (Range<Int>) throws -> Void) rethrows {
    var start = samples.lowerBound
    var count = 0
    for sample in samples {
      let own = rows(sample..<sample + 1)
      if count + own > maxRows {
        try body(start..<sample)
        start = sample
        count = 0
      }
      count += own
    }
    try body(start..<samples.upperBound)
  }
}

/// The selected (sample, step) rows of some samples, ordered by step, in a lane; then those of the last step, where it is
/// held.
struct SelectedRows {
  private let lane: TrainingLane
  private let steps: Int
  private var count = 0, contextCount = 0

  /// Rows of each trained step.
  var ofStep: LazyMapCollection<Range<Int>, Range<Int>> {
    (0..<steps).lazy.map { [lane] in lane.starts[$0]..<lane.starts[$0 + 1] }
  }
  /// Rows of the last step.
  var ofLastStep: Range<Int> { lane.starts[steps]..<count }
  /// For each row its context, and for each context its σ.
  var contexts: Numbers<Int32> { Numbers(lane.contexts, count: count) }
  var sigmas: Numbers<Double> { Numbers(lane.sigmas, count: contextCount) }

  func sample(_ row: Int) -> Int { lane.samples[row] }

  /// Copies the latents and conditions of the rows into `lane`.
  init(_ experience: Experience, _ samples: Range<Int>, sigmas: Numbers<Double>, into lane: TrainingLane) throws {
    self.lane = lane
    steps = experience.chunks.steps
    for chunk in 0..<experience.chunks.count {
      try add(experience, samples, steps: experience.chunks.range(chunk), sigmas) {
        experience.isSelected($0, chunk: chunk)
      }
    }
    lane.starts[steps] = count
    if experience.holdsLastStep { try add(experience, samples, steps: steps..<steps + 1, sigmas) { _ in true } }
  }

  /// Adds rows of the samples that `isChosen` for all of `added`.
  private mutating func add(
    _ experience: Experience, _ samples: Range<Int>, steps added: Range<Int>, _ sigmas: Numbers<Double>,
    _ isChosen: (Int) -> Bool
  ) throws {
    let first = count
    var chosen = 0
    for sample in samples where isChosen(sample) {
      lane.samples[first + chosen] = sample
      chosen += 1
    }
    let prompts = try Numbering(count: chosen, for: "the prompts of \(chosen) samples") {
      experience.prompt(lane.samples[first + $0])
    }
    for step in added {
      lane.starts[step] = count
      let firstContext = Int32(truncatingIfNeeded: contextCount)
      for item in prompts.firsts {
        addContext(experience, sample: lane.samples[first + Int(item)], sigma: sigmas[step])
      }
      for i in 0..<chosen {
        addRow(experience, sample: lane.samples[first + i], step, context: firstContext &+ prompts.numbers[i])
      }
    }
  }

  private mutating func addContext(_ experience: Experience, sample: Int, sigma: Double) {
    let conditionSize = lane.network.shape.conditionSize
    experience.prompts.copy(experience.prompt(sample), to: lane.conditions.base + contextCount &* conditionSize)
    lane.sigmas[contextCount] = sigma
    contextCount += 1
  }

  private mutating func addRow(_ experience: Experience, sample: Int, _ step: Int, context: Int32) {
    let size = lane.network.shape.latentSize
    let source = experience.latents.base + (step &* experience.batch &+ sample) &* size
    (lane.latents.base + count &* size).update(from: source, count: size)
    (lane.next.base + count &* size).update(from: source + experience.batch &* size, count: size)
    lane.samples[count] = sample
    lane.contexts[count] = context
    count += 1
  }
}
