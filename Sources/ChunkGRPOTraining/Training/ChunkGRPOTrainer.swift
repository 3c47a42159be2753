import ChunkGRPO

/// Which weights: those that are trained, or their exponential moving average.
public enum Weights: Int32, Sendable {
  case trained = 1
  case averaged = 2
}

/// A small velocity network that the library trains by itself: flow matching first, then Chunk-GRPO with a reward.
///
/// All arrays are f32, row-major and contiguous; their numbers of rows follow from their counts.
///
/// A call that throws leaves the trainer as it was, whatever went wrong. Calls that change it (`pretrain`, `iterate`) are
/// for one thread at a time; the others may run on several at once while none of those does. What is drawn is a function of the
/// seed and of how much was drawn before.
public final class ChunkGRPOTrainer {
  public let options: TrainerOptions
  let plan: TrainingPlan
  private(set) var state: TrainingState
  /// What a call that changes the state works on; it becomes the state when the call succeeds.
  private(set) var draft: TrainingState
  /// Memory for training, kept from call to call.
  let workspace: TrainingWorkspace
  /// Within `pretrain` or `iterate`, whose callbacks might call them again.
  private var busy = false

  /// A trainer with fresh weights.
  ///
  /// - Throws: `.invalidArgument` names the option; `.outOfMemory`.
  public init(_ options: TrainerOptions) throws {
    self.options = options
    plan = try TrainingPlan(options)
    state = try TrainingState(parameterCount: plan.shape.parameterCount)
    draft = try TrainingState(parameterCount: plan.shape.parameterCount)
    workspace = try TrainingWorkspace(
      plan.shape, trainedSteps: plan.chunks.steps, threads: plan.sampler.threads)
    try plan.shape.initialise(state.weights, seed: options.seed)
    state.average.copy(from: state.weights)
  }

  /// Weights of the network.
  public var parameterCount: Int { plan.shape.parameterCount }

  /// Chunk-GRPO iterations done so far.
  public var iterations: Int { state.iterations }

  /// The sigmas of every rollout, and its steps.
  public var sampler: Sampler { plan.sampler }

  /// The tensors of the weights, in the order of the buffer.
  public var tensors: [ParameterTensor] { plan.shape.tensors }

  func parameters(_ weights: Weights) -> UnsafeMutablePointer<Float> {
    switch weights {
    case .trained: state.weights.base
    case .averaged: state.average.base
    }
  }

  /// Runs `body`, unless this is a call from within a callback of another.
  func exclusively<R>(_ body: () throws -> R) throws -> R {
    try require(!busy, "the trainer is at work: pretrain and iterate cannot be called from their own callbacks")
    busy = true
    defer { busy = false }
    return try body()
  }

  /// The draft becomes the state.
  func commit() { swap(&state, &draft) }

  // MARK: Arguments

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
