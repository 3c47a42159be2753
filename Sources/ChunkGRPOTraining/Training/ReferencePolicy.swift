import ChunkGRPO
internal import KernelTable

/// The frozen policy that training stays close to, as Flow-GRPO's `beta` does (yifan123/flow_grpo, scripts/train_sd3.py):
///
///     loss ← loss + weight · mean over the trained (sample, step) rows of divergence(v, v_reference)
///                 + lastWeight · mean over the samples of |v − v_reference|² at the last step
///
/// The last step takes no noise, so that it has no log-probability to train; but it shares the network, and drifts.
/// It has the parameters that the network had after pretraining.
final class ReferencePolicy {
  let parameters: Buffer<Float>
  private let transposed: Buffer<Float>?
  private let shape: NetworkShape
  private let sampler: Sampler
  private let kind: Divergence
  private let weight, lastWeight: Double
  /// As many as any batch had so far.
  private var lanes: [ReferenceLane] = []

  // Of the optimiser step that is under way.
  private var laneCount = 0
  /// Trained (sample, step) pairs, and samples.
  private var (rows, samples) = (0, 0)

  init(_ plan: TrainingPlan, _ options: TrainerOptions) throws {
    shape = plan.shape
    sampler = plan.sampler
    kind = options.referenceDivergence
    (weight, lastWeight) = (options.referenceKL, options.referenceLastStep)
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

  /// - Parameters:
  ///   - rows, samples: all trained (sample, step) pairs of the optimiser step, and all samples, at least one.
  func begin(lanes count: Int, maxRows: Int, rows: Int, samples: Int) throws {
    while lanes.count < count { lanes.append(try ReferenceLane(shape, maxRows: maxRows)) }
    for lane in lanes { (lane.sum, lane.lastSum) = (0, 0) }
    (laneCount, self.rows, self.samples) = (count, rows, samples)
  }

  /// Adds the gradient of the divergence to that of the velocities of `lane`. Overwrites its `next` latents, which the
  /// log-probabilities need no more.
  func pull(_ rows: SelectedRows, _ lane: TrainingLane, _ number: Int) throws {
    let own = lanes[number]
    let parameters = NetworkParameters(self.parameters.base, transposed: transposed.map { UnsafePointer($0.base) })
    // Without a weight of theirs, the trained steps need no velocity of the reference.
    let held = (weight > 0 ? 0 : rows.ofLastStep.lowerBound)..<rows.ofLastStep.upperBound
    let start = held.lowerBound &* shape.latentSize
    try own.network.setContexts(parameters, sigmas: rows.sigmas, conditions: lane.conditions.base)
    try own.network.forward(
      parameters, latents: lane.latents.base + start, contextOfRow: Numbers(lane.contexts, held),
      velocity: own.velocity.base + start)
    if weight > 0 {
      for (step, range) in rows.ofStep.enumerated() where !range.isEmpty {
        try pull(range, kind, step, lane, own, slope: weight / Double(self.rows), addingTo: &own.sum)
      }
    }
    if !rows.ofLastStep.isEmpty {
      try pull(
        rows.ofLastStep, .velocity, sampler.steps - 1, lane, own, slope: lastWeight / Double(samples),
        addingTo: &own.lastSum)
    }
    kernelSet.network32.add(
      lane.next.base + start, to: lane.gradVelocity.base + start, count: held.count &* shape.latentSize)
  }

  /// Writes the gradient of a step's divergences, `slope` each, over the next latents, and adds them to `sum`.
  private func pull(
    _ range: Range<Int>, _ kind: Divergence, _ step: Int, _ lane: TrainingLane, _ own: ReferenceLane, slope: Double,
    addingTo sum: inout Double
  ) throws {
    own.upstream.values[..<range.count].update(repeating: slope)
    try sampler.divergence(
      kind, step, velocity: lane.view(lane.velocity, range), other: lane.view(own.velocity, range),
      divergence: own.divergence.base, gradient: (UnsafePointer(own.upstream.base), lane.view(lane.next, range)))
    for value in own.divergence.values[..<range.count] { sum += value }
  }

  /// Over the trained rows. The lanes' sums have one order, whatever the threads.
  var meanDivergence: Double { lanes[..<laneCount].reduce(0) { $0 + $1.sum } / Double(max(1, rows)) }

  /// Of the velocities at the last step, over the samples.
  var lastStepDivergence: Double { lanes[..<laneCount].reduce(0) { $0 + $1.lastSum } / Double(max(1, samples)) }
}

/// The reference's network and velocities of one lane.
private final class ReferenceLane {
  let network: VelocityNetwork<Float>
  /// (maxRows, D)
  let velocity: Buffer<Float>
  /// (maxRows) each.
  let divergence, upstream: Buffer<Double>
  /// Of the trained steps' divergences, and of the last step's.
  var (sum, lastSum) = (0.0, 0.0)

  init(_ shape: NetworkShape, maxRows: Int) throws {
    network = try VelocityNetwork(shape, maxRows: maxRows, maxContexts: maxRows, training: false)
    velocity = try Buffer(
      count: checkedProduct([maxRows, shape.latentSize], "the rows of a batch"), for: "the reference's velocities")
    divergence = try Buffer(count: maxRows, for: "divergences from the reference")
    upstream = try Buffer(count: maxRows, for: "gradients of divergences")
  }
}
