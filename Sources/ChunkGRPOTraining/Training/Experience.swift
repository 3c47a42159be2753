import ChunkGRPO

/// The samples of one iteration.
struct Experience {
  let prompts: Prompts
  let chunks: ChunkPlan
  let groupSize: Int
  let batch: Int
  /// (T + 1, B, D)
  let latents: Buffer<Float>
  /// (B, S)
  var logProbs, relativeL1: [Double]
  /// (B)
  var advantages: [Double] = []
  /// (B, K)
  var selection: [[Bool]] = []
  /// The parameters that drew the samples.
  let parameters: NetworkParameters<Float>
  /// Whether the networks hold the activations of the first optimiser step since the rollout.
  var isRecorded = false

  /// Number among `prompts` of the condition that the sample was made for.
  func prompt(_ sample: Int) -> Int32 { prompts.index[sample / groupSize] }

  func isSelected(_ sample: Int, chunk: Int) -> Bool { selection[sample][chunk] }

  /// Selected steps of the samples.
  func selectedSteps(_ samples: Range<Int>) -> Int {
    samples.reduce(0) { steps, sample in
      chunks.sizes.enumerated().reduce(steps) { $0 + (isSelected(sample, chunk: $1.offset) ? $1.element : 0) }
    }
  }

  /// `samples` cut so that the selected steps of each range are at most `maxRows`.
  func passes(_ samples: Range<Int>, maxRows: Int) -> [Range<Int>] {
    var passes: [Range<Int>] = []
    var start = samples.lowerBound
    var rows = 0
    for sample in samples {
      let steps = selectedSteps(sample..<sample + 1)
      if rows + steps > maxRows {
        passes.append(start..<sample)
        start = sample
        rows = 0
      }
      rows += steps
    }
    return passes + [start..<samples.upperBound]
  }
}

/// The selected (sample, step) rows of some samples, ordered by step.
struct SelectedRows {
  /// Sample of each row.
  private(set) var samples: [Int] = []
  /// Rows of each step.
  private(set) var ofStep: [Range<Int>] = []
  /// For each row its context, and for each context its σ.
  private(set) var contexts: [Int32] = []
  private(set) var sigmas: [Double] = []

  /// Copies the latents and conditions of the rows into `lane`.
  init(_ experience: Experience, _ samples: Range<Int>, sigmas: Numbers<Double>, into lane: TrainingLane) {
    let (size, conditionSize) = (lane.network.shape.latentSize, lane.network.shape.conditionSize)
    for (chunk, steps) in experience.chunks.ranges.enumerated() {
      let chosen = samples.filter { experience.isSelected($0, chunk: chunk) }
      let (numbers, prompts) = numbered(chosen.map(experience.prompt))
      for step in steps {
        let first = self.samples.count
        let firstContext = Int32(truncatingIfNeeded: self.sigmas.count)
        for prompt in prompts {
          experience.prompts.copy(prompt, to: lane.conditions.base + self.sigmas.count &* conditionSize)
          self.sigmas.append(sigmas[step])
        }
        for (sample, number) in zip(chosen, numbers) {
          let row = self.samples.count &* size
          let source = experience.latents.base + (step &* experience.batch &+ sample) &* size
          (lane.latents.base + row).update(from: source, count: size)
          (lane.next.base + row).update(from: source + experience.batch &* size, count: size)
          self.samples.append(sample)
          contexts.append(firstContext &+ number)
        }
        ofStep.append(first..<self.samples.count)
      }
    }
  }
}
