/// Bytes of a device's memory, zeros at first.
final class CUDAMemory {
  let device: CUDADevice
  let count: Int
  private let address: UInt

  /// Waits for the device, as the driver does.
  init(count: Int, device number: Int, for purpose: String) throws {
    let device = try CUDADevice.device(number)
    var address: UInt = 0
    try device.within {
      try device.driver.check(device.driver.allocate(&address, max(1, count)), "memory for \(purpose), \(count) bytes")
      try device.driver.check(device.driver.fill(address, 0, max(1, count)), "clearing \(purpose)")
    }
    (self.device, self.count, self.address) = (device, count, address)
  }

  deinit {
    _ = try? device.within { device.driver.free(address) }
  }

  /// 256-byte aligned, as the driver's is.
  func base() throws -> UnsafeMutableRawPointer {
    guard let base = UnsafeMutableRawPointer(bitPattern: address) else {
      throw ChunkGRPOError(.deviceFailed, "the CUDA driver gave no memory")
    }
    return base
  }

  /// All streams have done their work before.
  func take(_ bytes: UnsafeRawPointer) throws {
    try device.within {
      try device.driver.check(device.driver.synchronize(), "waiting for CUDA device \(device.number)")
      try device.driver.check(device.driver.toDevice(address, bytes, count), "copying to CUDA device \(device.number)")
    }
  }

  func give(to bytes: UnsafeMutableRawPointer) throws {
    try device.within {
      try device.driver.check(device.driver.synchronize(), "waiting for CUDA device \(device.number)")
      try device.driver.check(device.driver.toHost(bytes, address, count), "copying from CUDA device \(device.number)")
    }
  }
}

/// Owned memory of a CUDA device for latents, (n, B, D): `Latents` there. Zeros at first. Calls on its views put kernels on
/// its queue and wait for nothing.
public final class CUDALatents {
  /// Of the elements.
  public let type: ElementType
  /// Steps of a sample, samples, and elements of a step.
  public let steps: Int, batch: Int, elements: Int
  /// Where its work is done.
  public let queue: CUDAQueue
  private let memory: CUDAMemory
  private let base: UnsafeMutableRawPointer

  /// - Parameter queue: of the same device.
  public init(
    type: ElementType = .float32, steps: Int = 1, batch: Int, elements: Int, queue: CUDAQueue, device: Int = 0
  ) throws {
    try require(
      steps >= 1 && batch >= 1 && elements >= 1,
      "latents need at least one step, sample and element, not \(steps) × \(batch) × \(elements)")
    let size = "latents of \(steps) × \(batch) × \(elements)"
    memory = try CUDAMemory(
      count: checkedProduct([steps, batch, elements, type.size], size), device: device, for: size)
    base = try memory.base()
    (self.type, self.steps, self.batch, self.elements, self.queue) = (type, steps, batch, elements, queue)
  }

  /// A copy of latents of the CPU's; the host waits for it.
  public convenience init(_ latents: Latents, queue: CUDAQueue, device: Int = 0) throws {
    try self.init(
      type: latents.type, steps: latents.steps, batch: latents.batch, elements: latents.elements, queue: queue,
      device: device)
    try memory.take(latents.view.base)
    withExtendedLifetime(latents) {}
  }

  /// Copied into the CPU's memory, when all that was put on the device is done.
  public func copied() throws -> Latents {
    let latents = try Latents(type: type, steps: steps, batch: batch, elements: elements)
    try memory.give(to: latents.view.base)
    return latents
  }

  /// The first (or only) batch.
  public var view: LatentsView { trajectory.latents(0) }

  /// The batch at `step`.
  public subscript(step: Int) -> LatentsView { get throws { try trajectory[step] } }

  public var trajectory: TrajectoryView {
    TrajectoryView(
      base, type: type, batch: batch, count: steps, elements: elements, batchStride: elements,
      stepStride: batch &* elements, owner: self, cuda: queue)
  }
}

/// Numbers in a device's memory, one for each sample or more: what functions return as arrays on the CPU.
public final class CUDADoubles {
  /// How many numbers.
  public let count: Int
  private let memory: CUDAMemory
  let base: UnsafeMutablePointer<Double>

  /// Zeros.
  public init(count: Int, device: Int = 0) throws {
    try require(count >= 1, "count = \(count) must be at least 1")
    memory = try CUDAMemory(count: checkedProduct([count, 8], "numbers"), device: device, for: "\(count) numbers")
    base = try memory.base().assumingMemoryBound(to: Double.self)
    self.count = count
  }

  /// A copy; the host waits for it.
  public convenience init(_ values: [Double], device: Int = 0) throws {
    try self.init(count: values.count, device: device)
    try values.withUnsafeBytes { bytes in try bytes.baseAddress.map { try memory.take($0) } }
  }

  /// Copied into the CPU's memory, when all that was put on the device is done.
  public func values() throws -> [Double] {
    var values = [Double](repeating: 0, count: count)
    try values.withUnsafeMutableBytes { bytes in try bytes.baseAddress.map { try memory.give(to: $0) } }
    return values
  }
}

extension CUDAQueue {
  /// A queue with a workspace and a status word of its own, for latents of such a size.
  ///
  /// - Parameters:
  ///   - steps: 1, but of a trajectory those that it holds.
  ///   - stream: a CUstream of the device; nil = the legacy default stream.
  public static func make(
    batch: Int, elements: Int, steps: Int = 1, stream: UnsafeMutableRawPointer? = nil, device: Int = 0
  ) throws -> CUDAQueue {
    let size = try workspaceSize(batch: batch, elements: elements, steps: steps)
    let workspace = try CUDAMemory(count: size, device: device, for: "a workspace")
    let status = try CUDAMemory(count: 8, device: device, for: "a status word")
    return CUDAQueue(
      stream: stream, workspace: try workspace.base(), workspaceSize: size,
      status: try status.base().assumingMemoryBound(to: UInt64.self), seed: nil, sampleIDs: nil, host: nil,
      memory: [workspace, status])
  }

  /// Throws where a kernel of this queue has found something not finite since the last time. Waits until all that was put
  /// on the device is done.
  public func checkFinite() throws {
    guard let own = memory.last as? CUDAMemory else { return }
    var word: UInt64 = 0
    try own.give(to: &word)
    if word == 0 { return }
    let found = word
    word = 0
    try own.take(&word)
    try CUDAQueue.check(found)
  }
}
