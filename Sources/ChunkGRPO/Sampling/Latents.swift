import Glibc
internal import KernelTable

/// Borrowed latents, velocities or noise: `batch` samples of `elements` contiguous values each.
///
/// The memory is alive as long as `owner`, or without one as long as the caller keeps it; where a call writes, the caller
/// keeps it unshared.
public struct LatentsView {
  public let base: UnsafeMutableRawPointer
  public let type: ElementType
  /// B
  public let batch: Int
  /// D
  public let elements: Int
  /// Distance of two samples, in elements.
  public let batchStride: Int
  /// What holds the memory, or nil.
  public let owner: AnyObject?

  /// - Parameter batchStride: in elements; by default the samples follow one another.
  public init(
    _ base: UnsafeMutableRawPointer, type: ElementType, batch: Int, elements: Int, batchStride: Int? = nil,
    owner: AnyObject? = nil
  ) {
    self.base = base
    self.type = type
    self.batch = batch
    self.elements = elements
    self.batchStride = batchStride ?? elements
    self.owner = owner
  }

  /// The D values of a sample of f32 latents.
  public func floats(_ sample: Int) -> UnsafeMutableBufferPointer<Float> { values(sample, of: .float32) }

  /// The D values of a sample of f64 latents.
  public func doubles(_ sample: Int) -> UnsafeMutableBufferPointer<Double> { values(sample, of: .float64) }

  private func values<V>(_ sample: Int, of type: ElementType) -> UnsafeMutableBufferPointer<V> {
    precondition(type == self.type, "these latents are \(self.type)")
    precondition((0..<batch).contains(sample), "sample \(sample) of \(batch)")
    return UnsafeMutableBufferPointer(
      start: base.assumingMemoryBound(to: V.self) + sample * batchStride, count: elements)
  }
}

/// Borrowed latents or velocities of several steps, (B, n, …); each step of it is a `LatentsView`.
public struct TrajectoryView {
  public let base: UnsafeMutableRawPointer
  public let type: ElementType
  public let batch: Int
  /// n
  public let count: Int
  public let elements: Int
  /// Distances in elements.
  public let batchStride: Int, stepStride: Int
  /// What holds the memory, or nil.
  public let owner: AnyObject?

  public init(
    _ base: UnsafeMutableRawPointer, type: ElementType, batch: Int, count: Int, elements: Int, batchStride: Int,
    stepStride: Int, owner: AnyObject? = nil
  ) {
    self.base = base
    self.type = type
    self.batch = batch
    self.count = count
    self.elements = elements
    self.batchStride = batchStride
    self.stepStride = stepStride
    self.owner = owner
  }

  /// The latents before step `step`.
  public subscript(step: Int) -> LatentsView {
    LatentsView(
      base + step &* stepStride &* type.size, type: type, batch: batch, elements: elements, batchStride: batchStride,
      owner: owner)
  }
}

/// Owned memory for latents, (n, B, D): `n` steps of a batch, each contiguous. Zeros at first.
public final class Latents {
  public let type: ElementType
  public let steps: Int, batch: Int, elements: Int
  private let base: UnsafeMutableRawPointer

  /// Throws `.outOfMemory` where an array would end the process.
  public init(type: ElementType = .float32, steps: Int = 1, batch: Int, elements: Int) throws {
    try require(
      steps >= 1 && batch >= 1 && elements >= 1,
      "latents need at least one step, sample and element, not \(steps) × \(batch) × \(elements)")
    let (rows, overflow) = steps.multipliedReportingOverflow(by: batch)
    let (count, overflow2) = rows.multipliedReportingOverflow(by: elements)
    let (bytes, overflow3) = count.multipliedReportingOverflow(by: type.size)
    try require(
      !overflow && !overflow2 && !overflow3, "latents of \(steps) × \(batch) × \(elements) overflow the address space")
    var memory: UnsafeMutableRawPointer?
    guard posix_memalign(&memory, 64, bytes) == 0, let memory else {
      throw ChunkGRPOError.outOfMemory("no memory for latents of \(steps) × \(batch) × \(elements), \(bytes) bytes")
    }
    memset(memory, 0, bytes)
    self.type = type
    self.steps = steps
    self.batch = batch
    self.elements = elements
    base = memory
  }

  deinit { free(base) }

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
  public subscript(step: Int) -> LatentsView { trajectory[step] }

  /// The first (or only) batch.
  public var view: LatentsView { trajectory[0] }

  public var trajectory: TrajectoryView {
    TrajectoryView(
      base, type: type, batch: batch, count: steps, elements: elements, batchStride: elements,
      stepStride: batch &* elements, owner: self)
  }

  /// All values in the order (step, sample, element), converted to `Double` exactly.
  public var values: [Double] {
    let count = steps &* batch &* elements
    if type == .float64 {
      return Array(UnsafeBufferPointer(start: base.assumingMemoryBound(to: Double.self), count: count))
    }
    var floats = [Float](repeating: 0, count: (count &+ 15) & ~15)  // in whole sixteens
    floats.withUnsafeMutableBytes {
      guard let wide = $0.baseAddress else { return }
      type.kernels.widen(base, wide, count)
      type.kernels.unsplit?(wide, count)
    }
    return floats.prefix(count).map(Double.init)
  }
}
