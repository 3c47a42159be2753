/// The objective of a method of the forward process, with the options that its scripts set.
public enum ForwardObjective: Sendable, Equatable {
  case nft(NFTOptions)
  /// AWM and FPO: the chunk loss on `matchingLogProbs`.
  case matching(MatchingObjective)
  case dgpo(DGPOOptions)
  /// `isAdaptive`: each distance is divided by its absolute mean, so the loss takes `absolute` and `oldAbsolute`.
  case crd(CRDOptions, isAdaptive: Bool)
  /// Of pairs: `preferencePairs` has the best and the worst of each group.
  case dpo(DPOOptions)
}

/// What AWM and FPO set.
public struct MatchingObjective: Options {
  /// Of a distance, by its time.
  public var weighting = MatchingWeighting.uniform
  /// Of `.generalisedHuber`.
  public var power = 0.25
  /// How many draws share one ratio.
  public var drawsPerChunk = 1
  /// The weight of mean |v − v_ref|², beside the chunk loss.
  public var referenceKL = 0.0
  /// Surrogate, clip and average of the draws' ratios.
  public var chunkLoss = ChunkLossOptions()

  public init() {}
}

/// A method of the forward process by its published name, with the numbers of its authors' scripts. Print it to see what it
/// sets. A `Recipe` is the same for methods whose rollout has noise.
public struct ForwardMethod: Sendable, CustomStringConvertible {
  /// The method's short name, such as `nft`.
  public let name: String
  /// Repository and file.
  public let source: String
  /// Of the rollout, by an ODE.
  public var steps: Int
  /// Samples per prompt.
  public var groupSize: Int
  /// Times and noises per sample.
  public var draws: Int
  /// AdamW's.
  public var learningRate: Double
  /// The samples of a group, or of a pair, have one id: one noise, one set of times.
  public var sharesNoise = false
  /// Which loss, with its options.
  public var objective: ForwardObjective
  /// Of times; those of `.discrete` come with a schedule.
  public var times = TimeOptions()
  /// The steps of the rollout whose σ are the times of `.discrete`; nil where the times are drawn from an interval.
  public var timeSteps: Range<Int>?
  /// What its scripts do beside.
  public var notes: [String] = []

  /// Options for `forwardTimes`, of a rollout by this schedule.
  public func times(of schedule: Schedule) throws -> TimeOptions {
    guard let timeSteps else { return times }
    try require(
      timeSteps.upperBound <= schedule.steps,
      "\(name) draws the sigmas of steps \(timeSteps.lowerBound) ..< \(timeSteps.upperBound), but the schedule has "
        + "\(schedule.steps) steps: make one of \(steps)")
    return times.with { $0.values = Numbers(Array(schedule.sigmas[timeSteps])) }
  }

  public var description: String {
    var text = ""
    describe { text += $0 }
    return text
  }

  /// The description in pieces.
  package func describe(_ write: (String) -> Void) {
    func line(_ name: String, _ value: String) {
      write("\n  \(name)\(String(repeating: " ", count: max(1, 14 - name.count)))\(value)")
    }
    write("\(name)  (\(source))")
    line("rollout", "\(steps) steps of an ODE, \(groupSize) \(groupSize == 1 ? "sample" : "samples") per prompt")
    line("draws", "\(draws) per sample, \(sharesNoise ? sharedText : "noise and times of their own")")
    line("times", timesText)
    line("objective", objective.text)
    line("optimiser", "AdamW, learning rate \(learningRate)")
    for note in notes { line("note", note) }
  }

  private var sharedText: String { "noise and times shared by a \(name == "dpo" ? "pair" : "group")" }

  private var timesText: String {
    switch times.distribution {
    case .uniform: "uniform, stratified"
    case .logitNormal: "logit-normal, stratified"
    case .discrete: "sigmas of steps \(timeSteps?.lowerBound ?? 0) ..< \(timeSteps?.upperBound ?? 0), stratified"
    }
  }
}

extension ForwardObjective {
  fileprivate var text: String {
    switch self {
    case .nft(let o):
      "NFT, beta \(o.beta), advantages clipped at \(o.advantageClip), \(o.weighting) weighting, KL \(o.kl)"
    case .matching(let o): o.text
    case .dgpo(let o): "DGPO, beta \(o.beta), clip \(o.clip.low), KL \(o.kl)"
    case .crd(let o, let isAdaptive):
      "CRD, beta \(o.beta)\(isAdaptive ? ", adaptive" : ""), KL from \(o.leastKL ?? o.kl) to \(o.kl)"
    case .dpo(let o): "DPO, beta \(o.beta)"
    }
  }
}

extension MatchingObjective {
  fileprivate var text: String {
    let chunks = drawsPerChunk == 1 ? "a ratio per draw" : "one ratio for \(drawsPerChunk) draws"
    let weighted = weighting == .generalisedHuber ? "\(weighting) weighting, power \(power)" : "\(weighting) weighting"
    let kl = referenceKL > 0 ? ", KL \(referenceKL)" : ", no KL"
    return "matching, \(weighted), \(chunks), clipped to -\(chunkLoss.clip.low), +\(chunkLoss.clip.high)\(kl)"
  }
}
