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

  /// - Parameters:
  ///   - batchStride: in elements; by default the samples follow one another.
  ///   - cuda: where the memory is a CUDA device's: where calls put their kernels. All views of a call have the same.
  public init(
    _ base: UnsafeMutableRawPointer, type: ElementType, batch: Int, elements: Int, batchStride: Int? = nil,
    owner: AnyObject? = nil, cuda: CUDAQueue? = nil
  ) {
    self.init(
      base, type: type, batch: batch, elements: elements, batchStride: batchStride ?? elements,
      owner: cuda.map { CUDAOwner($0, owner) } ?? owner, isOnDevice: cuda != nil)
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
  /// As many numbers as samples, or `count`, which `body` writes; 0 at first, and none where a part of the samples does not
  /// know them. On a CUDA device the host waits for them.
  func numbers(
    _ count: Int? = nil, _ body: (UnsafeMutablePointer<Double>?) throws -> Void
  ) throws -> [Double] {
    let (known, count) = (givesNumbers, max(0, count ?? batch))
    if isOnDevice && known { return try numbersOnDevice(count, body) }
    var numbers = [Double](repeating: 0, count: known ? count : 0)
    try numbers.withUnsafeMutableBufferPointer { try body(known ? $0.baseAddress : nil) }
    return numbers
  }

  /// Numbers at an address where kernels for these latents read them.
  func withNumbers<R>(_ values: [Double], _ body: (UnsafePointer<Double>) throws -> R) throws -> R {
    if isOnDevice { return try withNumbersOnDevice(values, body) }
    return try body(values)
  }

  /// The same for as long as their owner.
  func owned(_ values: [Double]) throws -> (UnsafePointer<Double>, AnyObject) {
    if isOnDevice { return try ownedOnDevice(values) }
    let copy = try values.withUnsafeBufferPointer { try Buffer(copying: $0, for: "gradients") }
    return (UnsafePointer(copy.base), copy)
  }

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
  func copy(from other: LatentsView) throws {
    if isOnDevice { return try copyOnDevice(0, from: other, 0, count: batch) }
    for i in 0..<batch { row(i).copyMemory(from: other.row(i), byteCount: elements &* type.size) }
  }

  /// Both have samples of one size and type.
  func copy(_ sample: Int, from other: LatentsView, _ source: Int) throws {
    if isOnDevice { return try copyOnDevice(sample, from: other, source, count: 1) }
    row(sample).copyMemory(from: other.row(source), byteCount: elements &* type.size)
  }

  func clear() {
    for i in 0..<batch { row(i).initializeMemory(as: UInt8.self, repeating: 0, count: elements &* type.size) }
  }

  func row(_ sample: Int) -> UnsafeMutableRawPointer { base + sample &* batchStride &* type.size }
}
