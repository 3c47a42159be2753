internal import KernelsCUDA

/// Where calls on latents of a CUDA device put their kernels: `cgrpo_cuda` of the header, which says what is what.
///
/// All addresses but that of the stream are of device memory, which the caller keeps.
public final class CUDAQueue: @unchecked Sendable {
  /// The number of the device, for what this library allocates there.
  public let device: Int
  /// A CUstream of the latents' device; nil = the legacy default stream.
  public let stream: UnsafeMutableRawPointer?
  /// For calls that give numbers: `CUDAQueue.workspaceSize` bytes, zeros at first, for one stream at a time.
  public let workspace: UnsafeMutableRawPointer?
  /// Bytes of the workspace.
  public let workspaceSize: Int
  /// Where a kernel says what is not finite; see `CUDAQueue.check`.
  public let status: UnsafeMutablePointer<UInt64>?
  /// Read by the kernels instead of a noise's own.
  public let seed: UnsafePointer<UInt64>?, sampleIDs: UnsafePointer<UInt64>?
  /// What the caller of the C interface has for it.
  package let host: UnsafeRawPointer?
  /// Of its own: workspace and status word.
  let memory: [AnyObject]

  public convenience init(
    device: Int = 0, stream: UnsafeMutableRawPointer? = nil, workspace: UnsafeMutableRawPointer? = nil,
    workspaceSize: Int = 0,
    status: UnsafeMutablePointer<UInt64>? = nil, seed: UnsafePointer<UInt64>? = nil,
    sampleIDs: UnsafePointer<UInt64>? = nil
  ) {
    self.init(
      device: device, stream: stream, workspace: workspace, workspaceSize: workspaceSize, status: status, seed: seed,
      sampleIDs: sampleIDs, host: nil)
  }

  package init(
    device: Int = 0, stream: UnsafeMutableRawPointer?, workspace: UnsafeMutableRawPointer?, workspaceSize: Int,
    status: UnsafeMutablePointer<UInt64>?, seed: UnsafePointer<UInt64>?, sampleIDs: UnsafePointer<UInt64>?,
    host: UnsafeRawPointer?, memory: [AnyObject] = []
  ) {
    self.device = device
    self.stream = stream
    self.workspace = workspace
    self.workspaceSize = workspaceSize
    self.status = status
    self.seed = seed
    self.sampleIDs = sampleIDs
    self.host = host
    self.memory = memory
  }

  func isEqual(to other: CUDAQueue) -> Bool {
    self === other
      || stream == other.stream && workspace == other.workspace && workspaceSize == other.workspaceSize
        && status == other.status && seed == other.seed && sampleIDs == other.sampleIDs
  }
}

/// Holds the queue of a view in memory of a device, and that memory.
final class CUDAOwner {
  let queue: CUDAQueue
  private let memory: AnyObject?

  init(_ queue: CUDAQueue, _ memory: AnyObject?) {
    self.queue = queue
    self.memory = memory
  }
}

extension LatentsView {
  /// Their queue, where they lie on a CUDA device.
  public var cuda: CUDAQueue? {
    guard isOnDevice, let owner else { return nil }
    return unsafeDowncast(owner, to: CUDAOwner.self).queue
  }

  /// Throws unless both lie in the CPU's memory, or both on a CUDA device with one queue.
  @inline(__always)
  func checkSamePlace(_ other: LatentsView, _ name: String, own: String) throws {
    if isOnDevice || other.isOnDevice { try checkQueues(other, name, own: own) }
  }

  @inline(never)
  private func checkQueues(_ other: LatentsView, _ name: String, own: String) throws {
    guard let mine = cuda, let others = other.cuda else {
      func place(_ view: LatentsView) -> String { !view.isOnDevice ? "in the CPU's memory" : "on a CUDA device" }
      throw ChunkGRPOError.wrongType(
        "\(name) lies \(place(other)), but \(own) \(place(self)): all tensors of a call lie on one device")
    }
    try require(
      mine.isEqual(to: others),
      "\(name).cuda differs from that of the others, but a call has one stream and one workspace (\(own) on them)")
  }

  /// For what has no kernels on a device.
  @inline(__always)
  package func checkOnCPU(_ name: String, _ call: String) throws {
    if isOnDevice {
      throw ChunkGRPOError.wrongType("\(name) lies on a CUDA device, but \(call) takes the CPU's memory alone")
    }
  }
}

extension CUDAQueue {
  /// Bytes of a workspace for any call on latents of such a size; `steps`: 1, but of a trajectory those that it holds.
  public static func workspaceSize(batch: Int, elements: Int, steps: Int = 1) throws -> Int {
    let purpose = "a workspace"
    // A launch has no more of either.
    let (samples, columns) = (min(batch, maxLaunchSamples), min(steps, maxSteps))
    // A part of a sample may begin in the middle of a block.
    let blocks = elements / 1024 + 2
    _ = try checkedProduct([samples, max(columns, 16), blocks, 16], purpose)
    return chunkgrpo_cuda_workspace_bytes(Int64(samples), Int64(blocks * 1024), Int64(columns))
  }

  /// Throws what a status word says that was copied from the device.
  public static func check(_ word: UInt64) throws {
    if word == 0 { return }
    let (step, sample) = (Int(word >> 32) - 1, Int(word & 0xffff_ffff) - 1)
    throw ChunkGRPOError.nonFinite(
      "latents, velocity, noise or a gradient of sample \(sample)\(step < 0 ? "" : " at step \(step)") are not finite, or too "
        + "large to square")
  }
}
