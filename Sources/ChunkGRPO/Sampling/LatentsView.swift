/// Borrowed latents, velocities or noise: `batch` samples of `elements` contiguous values each.
///
/// The memory is alive as long as `owner`, or without one as long as the caller keeps it; where a call writes, the caller
/// keeps it unshared.
public struct LatentsView {
  /// The first element.
  public let base: UnsafeMutableRawPointer
  /// Of the elements.
  public let type: ElementType
  /// Whether it is memory of a CUDA device, which no code of the CPU reads; `owner` is then a `CUDAOwner`.
  let isOnDevice: Bool
  /// Whether these are a part of their samples; `owner` is then a `PartOwner`.
  let isPart: Bool
  /// B
  public let batch: Int
  /// D
  public let elements: Int
  /// Distance of two samples, in elements.
  public let batchStride: Int
  /// The holder of the memory, or nil.
  public let owner: AnyObject?

  /// - Parameter batchStride: in elements; by default the samples follow one another.
  public init(
    _ base: UnsafeMutableRawPointer, type: ElementType, batch: Int, elements: Int, batchStride: Int? = nil,
    owner: AnyObject? = nil
  ) {
    self.init(
      base, type: type, batch: batch, elements: elements, batchStride: batchStride ?? elements,
      owner: owner, isOnDevice: false)
  }

  /// The same in memory of a CUDA device.
  ///
  /// - Parameter cuda: where calls put their kernels; all views of a call have the same.
  public init(
    _ base: UnsafeMutableRawPointer, type: ElementType, batch: Int, elements: Int, batchStride: Int? = nil,
    owner: AnyObject? = nil, cuda: CUDAQueue
  ) {
    self.init(
      base, type: type, batch: batch, elements: elements, batchStride: batchStride ?? elements,
      owner: CUDAOwner(cuda, owner), isOnDevice: true)
  }

  init(
    _ base: UnsafeMutableRawPointer, type: ElementType, batch: Int, elements: Int, batchStride: Int, owner: AnyObject?,
    isOnDevice: Bool, isPart: Bool = false
  ) {
    self.base = base
    self.type = type
    self.batch = batch
    self.elements = elements
    self.batchStride = batchStride
    self.owner = owner
    self.isOnDevice = isOnDevice
    self.isPart = isPart
  }

  /// The D values of a sample of f32 latents, copied.
  public subscript(sample: Int) -> [Float] { get throws { try Array(floats(sample)) } }

  /// Writes the D values of a sample of f32 latents.
  public func set(_ sample: Int, to values: [Float]) throws {
    let own = try floats(sample)
    try require(values.count == elements, "values: \(values.count) of them for a sample of \(elements)")
    _ = own.update(from: values)
  }

  /// The D values of a sample of f32 latents, in place.
  public func withFloats<R>(_ sample: Int, _ body: (inout MutableSpan<Float>) throws -> R) throws -> R {
    var span = try floats(sample).mutableSpan
    return try body(&span)
  }

  /// The memory of a sample of f32 latents; `owner` keeps it.
  public func floats(_ sample: Int) throws -> UnsafeMutableBufferPointer<Float> { try values(sample, .float32) }

  /// The same of f64 latents.
  public func doubles(_ sample: Int) throws -> UnsafeMutableBufferPointer<Double> { try values(sample, .float64) }

  private func values<V>(_ sample: Int, _ type: ElementType) throws -> UnsafeMutableBufferPointer<V> {
    try checkOnCPU("the view", "access to its elements")
    guard type == self.type else { throw ChunkGRPOError.wrongType("latents are \(self.type), not \(type)") }
    try require((0..<batch).contains(sample), "sample = \(sample) is outside 0 … \(batch - 1)")
    return UnsafeMutableBufferPointer(
      start: base.assumingMemoryBound(to: V.self) + sample * batchStride, count: elements)
  }
}

extension LatentsView {
  /// Throws unless `other` has the shape and element type of these latents, which a message calls by `own`.
  func checkSame(
    _ other: LatentsView, _ name: String, own: (are: String, have: String) = ("the latents are", "the latents have")
  ) throws {
    try checkSamePlace(other, name, own: own.are)
    if other.type != type { throw ChunkGRPOError.wrongType("\(name) is \(other.type), but \(own.are) \(type)") }
    try checkSize(other, name, own.have)
  }

  /// The same, but that `velocity` may have any type that goes with these latents.
  func checkVelocity(
    _ velocity: LatentsView, _ name: String, own: (are: String, have: String) = ("the latents are", "the latents have")
  ) throws {
    if velocity.type == type { return try checkSame(velocity, name, own: own) }
    try checkSamePlace(velocity, name, own: own.are)
    if !velocity.type.isVelocity(beside: type) {
      let ways = type == .float32 ? "float32, bfloat16 or float16" : "\(type)"
      throw ChunkGRPOError.wrongType("\(name) is \(velocity.type), but \(own.are) \(type): make it \(ways)")
    }
    try checkSize(velocity, name, own.have)
  }

  @inline(__always)
  private func checkSize(_ other: LatentsView, _ name: String, _ ownHave: String) throws {
    try require(
      other.batch == batch && other.elements == elements,
      "\(name) has \(other.batch) samples of \(other.elements) elements, but \(ownHave) \(batch) of \(elements)")
    if isPart || other.isPart { try checkSamePart(other, name) }
  }

  /// Both are of one shape and type.
  func copy(from other: LatentsView) {
    for i in 0..<batch { row(i).copyMemory(from: other.row(i), byteCount: elements &* type.size) }
  }

  /// Both have samples of one size and type.
  func copy(_ sample: Int, from other: LatentsView, _ source: Int) {
    row(sample).copyMemory(from: other.row(source), byteCount: elements &* type.size)
  }

  func clear() {
    for i in 0..<batch { row(i).initializeMemory(as: UInt8.self, repeating: 0, count: elements &* type.size) }
  }

  private func row(_ sample: Int) -> UnsafeMutableRawPointer { base + sample &* batchStride &* type.size }
}
