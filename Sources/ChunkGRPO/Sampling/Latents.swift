internal import KernelTable

/// Owned memory for latents, (n, B, D): `n` steps of a batch, each contiguous. Zeros at first. It is the CPU's, or with a
/// queue that of a CUDA device; functions then run there, with the same bits.
public final class Latents {
  /// Of the elements.
  public let type: ElementType
  /// Steps of a sample, samples, and elements of a step.
  public let steps: Int, batch: Int, elements: Int
  /// Where calls on them put their kernels; nil in the CPU's memory.
  public let queue: CUDAQueue?
  /// A `Buffer`, or a `CUDAMemory`.
  private let memory: AnyObject
  private let base: UnsafeMutableRawPointer

  /// Throws `.outOfMemory` where an array would end the process.
  ///
  /// - Parameter queue: of the device whose memory they are; nil = the CPU's.
  public init(
    type: ElementType = .float32, steps: Int = 1, batch: Int, elements: Int, on queue: CUDAQueue? = nil
  ) throws {
    try require(
      steps >= 1 && batch >= 1 && elements >= 1,
      "latents need at least one step, sample and element, not \(steps) × \(batch) × \(elements)")
    let size = "latents of \(steps) × \(batch) × \(elements)"
    let bytes = try checkedProduct([steps, batch, elements, type.size], size)
    if let queue {
      let memory = try CUDAMemory(count: bytes, device: queue.device, for: size)
      (self.memory, base) = (memory, try memory.base())
    } else {
      let memory = try Buffer<UInt8>(count: bytes, for: size)
      (self.memory, base) = (memory, UnsafeMutableRawPointer(memory.base))
    }
    self.queue = queue
    self.type = type
    self.steps = steps
    self.batch = batch
    self.elements = elements
  }

  /// f32 latents from `values`, (B, D).
  public convenience init(_ values: [Float], batch: Int) throws {
    try self.init(copying: values, type: .float32, batch: batch)
  }

  /// f64 latents from `values`, (B, D).
  public convenience init(_ values: [Double], batch: Int) throws {
    try self.init(copying: values, type: .float64, batch: batch)
  }

  private convenience init<V>(copying values: [V], type: ElementType, batch: Int) throws {
    try require(
      batch >= 1 && !values.isEmpty && values.count % batch == 0,
      "values: \(values.count) of them do not divide into \(batch) samples")
    try self.init(type: type, batch: batch, elements: values.count / batch)
    values.withUnsafeBytes { base.copyMemory(from: $0.baseAddress ?? UnsafeRawPointer(base), byteCount: $0.count) }
  }

  /// The batch at `step`.
  public subscript(step: Int) -> LatentsView { get throws { try trajectory[step] } }

  /// The first (or only) batch.
  public var view: LatentsView { trajectory.latents(0) }

  public var trajectory: TrajectoryView {
    TrajectoryView(
      base, type: type, batch: batch, count: steps, elements: elements, batchStride: elements,
      stepStride: batch &* elements, owner: self, cuda: queue)
  }

  /// A copy in the CPU's memory, or in that of a queue's device. A copy from or to a device waits until all that was put on
  /// it is done.
  public func copied(to target: CUDAQueue? = nil) throws -> Latents {
    if queue != nil && target != nil { return try copied().copied(to: target) }
    let copy = try Latents(type: type, steps: steps, batch: batch, elements: elements, on: target)
    if let memory = copy.memory as? CUDAMemory {
      try memory.take(base)
    } else if let memory = memory as? CUDAMemory {
      try memory.give(to: copy.base)
    } else {
      copy.base.copyMemory(from: base, byteCount: steps &* batch &* elements &* type.size)
    }
    return copy
  }

  /// All values in the order (step, sample, element), converted to `Double` exactly; from a device when all that was put on
  /// it is done.
  public var values: [Double] {
    get throws { try queue == nil ? doubles : copied().doubles }
  }

  private var doubles: [Double] {
    let count = steps &* batch &* elements
    if type == .float64 {
      return Array(UnsafeBufferPointer(start: base.assumingMemoryBound(to: Double.self), count: count))
    }
    var floats = [Float](repeating: 0, count: (count &+ 15) & ~15)  // in whole sixteens
    floats.withUnsafeMutableBytes {
      guard let wide = $0.baseAddress else { return }
      type.kernels.widen(base, into: wide, count: count)
      type.kernels.unsplit(wide, count: count)
    }
    return floats.prefix(count).map(Double.init)
  }
}
