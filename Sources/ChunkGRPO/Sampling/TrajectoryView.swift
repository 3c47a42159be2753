/// Borrowed latents or velocities of several steps, (B, n, …); each step of it is a `LatentsView`.
public struct TrajectoryView {
  /// The first element.
  public let base: UnsafeMutableRawPointer
  /// Of the elements.
  public let type: ElementType
  /// As a `LatentsView` has it.
  let isOnDevice: Bool, isPart: Bool
  /// Samples.
  public let batch: Int
  /// n
  public let count: Int
  /// Of one step of a sample.
  public let elements: Int
  /// Distances in elements.
  public let batchStride: Int, stepStride: Int
  /// The holder of the memory, or nil.
  public let owner: AnyObject?

  /// - Parameter cuda: where the memory is a CUDA device's: where calls put their kernels. All views of a call have the same.
  public init(
    _ base: UnsafeMutableRawPointer, type: ElementType, batch: Int, count: Int, elements: Int, batchStride: Int,
    stepStride: Int, owner: AnyObject? = nil, cuda: CUDAQueue? = nil
  ) {
    self.init(
      base, type: type, batch: batch, count: count, elements: elements, batchStride: batchStride,
      stepStride: stepStride,
      owner: cuda.map { CUDAOwner($0, owner) } ?? owner, isOnDevice: cuda != nil, isPart: false)
  }

  private init(
    _ base: UnsafeMutableRawPointer, type: ElementType, batch: Int, count: Int, elements: Int, batchStride: Int,
    stepStride: Int, owner: AnyObject?, isOnDevice: Bool, isPart: Bool
  ) {
    self.base = base
    self.type = type
    self.batch = batch
    self.count = count
    self.elements = elements
    self.batchStride = batchStride
    self.stepStride = stepStride
    self.owner = owner
    self.isOnDevice = isOnDevice
    self.isPart = isPart
  }

  /// The same latents as a part of their samples; the caller keeps `part` alive.
  @inline(never)
  public func with(_ part: UnsafePointer<Part>?) -> TrajectoryView {
    TrajectoryView(
      base, type: type, batch: batch, count: count, elements: elements, batchStride: batchStride,
      stepStride: stepStride,
      owner: part.map { PartOwner($0, owner) } ?? owner, isOnDevice: isOnDevice, isPart: part != nil)
  }

  /// Those of one step.
  init(_ view: LatentsView) {
    self.init(
      view.base, type: view.type, batch: view.batch, count: 1, elements: view.elements, batchStride: view.batchStride,
      stepStride: 0, owner: view.owner, isOnDevice: view.isOnDevice, isPart: view.isPart)
  }

  /// The latents before step `step`.
  public subscript(step: Int) -> LatentsView {
    get throws {
      try require((0..<count).contains(step), "step = \(step) is outside 0 … \(count - 1)")
      return latents(step)
    }
  }

  /// The same for a step that is there.
  package func latents(_ step: Int) -> LatentsView {
    LatentsView(
      base + step &* stepStride &* type.size, type: type, batch: batch, elements: elements, batchStride: batchStride,
      owner: owner, isOnDevice: isOnDevice, isPart: isPart)
  }
}

extension TrajectoryView {
  /// Noise of a whole rollout has one step per step of the schedule.
  func checkSteps(_ sampler: Sampler) throws {
    try require(count == sampler.steps, "noise holds \(count) steps, but the schedule has \(sampler.steps)")
  }
}
