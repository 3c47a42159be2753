import ChunkGRPO

/// A set of parameters: those that are trained, or their exponential moving average.
public enum Parameters: Int32, Sendable {
  case trained = 1
  case averaged = 2
}

/// A small velocity network that the library trains by itself: flow matching first, then Chunk-GRPO with a reward.
///
/// Arrays are row-major and contiguous. Their numbers of rows follow from their counts. Draws are a function of the
/// seed and of how much was drawn before.
///
/// **Errors.** A call that throws leaves the trainer as it was.
///
/// **Concurrency.** A trainer is not `Sendable`: one task or actor has it at a time, and its calls use the options'
/// threads. Calls that do not change it (`sample`, `velocity`, `save`) may run at once, while neither `pretrain` nor
/// `iterate` does. Those two refuse to be called from their own callbacks.
public final class ChunkGRPOTrainer {
  /// What it was made with.
  public let options: TrainerOptions
  let plan: TrainingPlan
  private(set) var state: TrainingState
  /// The state that `pretrain` and `iterate` work on. It becomes the state when they succeed.
  private(set) var draft: TrainingState
  let workspace: TrainingWorkspace
  /// Where `referenceKL` or `referenceLastStep` is positive.
  let reference: ReferencePolicy?
  /// Of a data-parallel run; nil: the trainer is alone.
  var replica: Replica?
  /// Within `pretrain`, `iterate` or `setReplica`.
  private var isBusy = false

  /// A trainer with fresh parameters.
  ///
  /// - Throws: `.invalidArgument` names the option; `.outOfMemory`.
  public init(_ options: TrainerOptions) throws {
    var own = options
    own.chunkSizes = try options.chunkSizes?.owned(for: "the chunk sizes of a trainer")
    own.chunkWeights = try options.chunkWeights?.owned(for: "the chunk weights of a trainer")
    self.options = own
    plan = try TrainingPlan(options)
    try BLAS.prepare()
    state = try TrainingState(parameterCount: plan.shape.parameterCount)
    draft = try TrainingState(parameterCount: plan.shape.parameterCount)
    workspace = try TrainingWorkspace(
      plan.shape, stepsPerSample: plan.chunks.steps + (options.referenceLastStep > 0 ? 1 : 0),
      threads: plan.sampler.threads)
    try plan.shape.initialise(state.parameters, seed: options.seed)
    state.average.copy(from: state.parameters)
    reference = options.hasReference ? try ReferencePolicy(plan, options) : nil
    reference?.copy(from: state.parameters)
  }

  /// Parameters of the network.
  public var parameterCount: Int { plan.shape.parameterCount }

  /// Chunk-GRPO iterations done so far.
  public var iterations: Int { state.counters.iterations }

  /// The sigmas and the steps of every rollout.
  public var sampler: Sampler { plan.sampler }

  func values(_ parameters: Parameters) -> UnsafePointer<Float> {
    switch parameters {
    case .trained: UnsafePointer(state.parameters.base)
    case .averaged: UnsafePointer(state.average.base)
    }
  }

  /// Runs `body`, unless this is a call from within a callback of another.
  func exclusively<R>(inStep: Bool = true, _ body: () throws -> R) throws -> R {
    try require(!isBusy, "the trainer is at work: pretrain and iterate cannot be called from their own callbacks")
    if inStep { try replica?.requireInStep() }
    isBusy = true
    defer { isBusy = false }
    return try body()
  }

  /// - Throws: `.nonFinite`; every state can be saved and loaded.
  func requireSound(_ state: TrainingState) throws {
    if let flaw = state.flaw { throw ChunkGRPOError.nonFinite("training leaves its range: \(flaw)") }
  }

  /// The draft becomes the state.
  func commit() { swap(&state, &draft) }

  /// Rows of `size` finite numbers, at least one.
  func rows(_ name: String, _ values: UnsafeBufferPointer<Float>, of size: Int) throws -> Int {
    try require(
      values.count > 0 && values.count % size == 0, "\(name) has \(values.count) numbers, which are no rows of \(size)")
    if let i = values.firstIndex(where: { !$0.isFinite }) {
      throw ChunkGRPOError.nonFinite("\(name) of row \(i / size) has \(values[i]) at \(i % size)")
    }
    return values.count / size
  }
}
