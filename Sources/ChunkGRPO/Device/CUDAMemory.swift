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
      // No stream of the caller's waits for the driver's own.
      try device.driver.check(device.driver.synchronize(), "clearing \(purpose)")
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

  func take(_ bytes: UnsafeRawPointer) throws { try device.copy(from: bytes, to: address, count) }
  func give(to bytes: UnsafeMutableRawPointer) throws { try device.copy(from: address, to: bytes, count) }
}

extension CUDADevice {
  /// Waits until all that was put on the device is done.
  func wait() throws {
    try within { try driver.check(driver.synchronize(), "waiting for CUDA device \(number)") }
  }

  /// Copies to the device; all streams have done their work before, and none begins before the bytes are there.
  func copy(from bytes: UnsafeRawPointer, to address: UInt, _ count: Int) throws {
    try wait()
    try within { try driver.check(driver.toDevice(address, bytes, count), "copying to CUDA device \(number)") }
    try wait()
  }

  /// Copies from the device, when all streams have done their work.
  func copy(from address: UInt, to bytes: UnsafeMutableRawPointer, _ count: Int) throws {
    try wait()
    try within { try driver.check(driver.toHost(bytes, address, count), "copying from CUDA device \(number)") }
  }
}

/// Numbers in a device's memory, one for each sample or more: what functions return as arrays, for calls that do not wait.
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

  func wait() throws { try memory.device.wait() }
}

extension CUDAQueue {
  /// A queue with a workspace and a status word of its own, for latents of such a size.
  ///
  /// - Parameters:
  ///   - steps: 1, but of a trajectory whose log-probabilities one call gives those that it holds.
  ///   - stream: a CUstream of the device; nil = the legacy default stream.
  public static func make(
    batch: Int, elements: Int, steps: Int = 1, stream: UnsafeMutableRawPointer? = nil, device: Int = 0
  ) throws -> CUDAQueue {
    let size = try workspaceSize(batch: batch, elements: elements, steps: steps)
    let workspace = try CUDAMemory(count: size, device: device, for: "a workspace")
    let status = try CUDAMemory(count: 8, device: device, for: "a status word")
    return CUDAQueue(
      device: device, stream: stream, workspace: try workspace.base(), workspaceSize: size,
      status: try status.base().assumingMemoryBound(to: UInt64.self), seed: nil, sampleIDs: nil, host: nil,
      memory: [workspace, status])
  }

  /// Throws where a kernel of this queue has found something not finite since the last time. Waits until all that was put
  /// on the device is done.
  public func checkFinite() throws {
    guard let status else { return }
    let device = try CUDADevice.device(device)
    let address = UInt(bitPattern: status)
    var word: UInt64 = 0
    try device.copy(from: address, to: &word, 8)
    if word == 0 { return }
    let found = word
    word = 0
    try device.copy(from: &word, to: address, 8)
    try CUDAQueue.check(found)
  }
}
