import ChunkGRPO
internal import KernelTable

/// The frozen policy that training stays close to, as Flow-GRPO's `beta` does (yifan123/flow_grpo, scripts/train_sd3.py):
///
///     loss ← loss + weight · mean over the trained (sample, step) rows of divergence(v, v_reference)
///
/// It has the parameters that the network had after pretraining.
final class ReferencePolicy {
  let parameters: Buffer<Float>
  private let transposed: Buffer<Float>?
  private let shape: NetworkShape
  private let sampler: Sampler
  private let kind: Divergence
  private let weight: Double
  /// As many as any batch had so far.
  private var lanes: [ReferenceLane] = []

  // Of the optimiser step that is under way.
  private var laneCount = 0
  /// Trained (sample, step) pairs.
  private var rows = 0

  init(_ plan: TrainingPlan, _ options: TrainerOptions) throws {
    shape = plan.shape
    sampler = plan.sampler
    kind = options.referenceDivergence
    weight = options.referenceKL
    parameters = try Buffer(count: shape.parameterCount, for: "\(shape.parameterCount) parameters of the reference")
    transposed =
      try Float.kernels.hasProduct
      ? Buffer(count: shape.parameterCount, for: "the reference's transposed weights") : nil
  }

  func copy(from trained: Buffer<Float>) {
    parameters.copy(from: trained)
    parametersChanged()
  }

  /// Call it after a write to `parameters`.
  func parametersChanged() {
    if let transposed { shape.transpose(parameters.base, into: transposed.base, threads: sampler.threads) }
  }

  /// Why training cannot go on from here; nil where it can.
  var flaw: String? { parameters.isFinite ? nil : "its reference has numbers that are not finite" }

  // MARK: One optimiser step

  /// - Parameter rows: all trained (sample, step) pairs of the optimiser step, at least one.
  func begin(lanes count: Int, maxRows: Int, rows: Int) throws {
    while lanes.count < count { lanes.append(try ReferenceLane(shape, maxRows: maxRows)) }
    for lane in lanes { lane.sum = 0 }
    (laneCount, self.rows) = (count, rows)
  }

  /// Adds the gradient of the divergence to that of the velocities of `lane`. Overwrites its `next` latents, which the
  /// log-probabilities need no more.
  func pull(_ rows: SelectedRows, _ lane: TrainingLane, _ number: Int) throws {
    let own = lanes[number]
    let parameters = NetworkParameters(self.parameters.base, transposed: transposed.map { UnsafePointer($0.base) })
    try own.network.setContexts(parameters, sigmas: rows.sigmas, conditions: lane.conditions.base)
    try own.network.forward(
      parameters, latents: lane.latents.base, contextOfRow: rows.contexts, velocity: own.velocity.base)
    for (step, range) in rows.ofStep.enumerated() where !range.isEmpty {
      own.upstream.values[..<range.count].update(repeating: weight / Double(self.rows))
      try sampler.divergence(
        kind, step, velocity: lane.view(lane.velocity, range), other: lane.view(own.velocity, range),
        divergence: own.divergence.base, gradient: (UnsafePointer(own.upstream.base), lane.view(lane.next, range)))
      for value in own.divergence.values[..<range.count] { own.sum += value }
    }
    kernelSet.network32.add(
      lane.next.base, to: lane.gradVelocity.base, count: rows.contexts.count &* shape.latentSize)
  }

  /// Over the trained rows. The lanes' sums have one order, whatever the threads.
  var meanDivergence: Double { lanes[..<laneCount].reduce(0) { $0 + $1.sum } / Double(max(1, rows)) }
}

/// The reference's network and velocities of one lane.
private final class ReferenceLane {
  let network: VelocityNetwork<Float>
  /// (maxRows, D)
  let velocity: Buffer<Float>
  /// (maxRows) each.
  let divergence, upstream: Buffer<Double>
  var sum = 0.0

  init(_ shape: NetworkShape, maxRows: Int) throws {
    network = try VelocityNetwork(shape, maxRows: maxRows, maxContexts: maxRows, training: false)
    velocity = try Buffer(
      count: checkedProduct([maxRows, shape.latentSize], "the rows of a batch"), for: "the reference's velocities")
    divergence = try Buffer(count: maxRows, for: "divergences from the reference")
    upstream = try Buffer(count: maxRows, for: "gradients of divergences")
  }
}
