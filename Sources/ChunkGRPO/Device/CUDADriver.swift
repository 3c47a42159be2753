internal import Platform

/// The functions of the CUDA driver that are called, found when the first device tensor comes: the library needs no CUDA to
/// be built or loaded.
struct CUDADriver: Sendable {
  /// CUresult; 0 is success.
  typealias Status = Int32
  typealias Address = UnsafeMutableRawPointer?
  typealias Out<T> = UnsafeMutablePointer<T>

  let ctxPush: @convention(c) (Address) -> Status
  let ctxPop: @convention(c) (Out<Address>) -> Status
  let synchronize: @convention(c) () -> Status
  let deviceGet: @convention(c) (Out<Int32>, Int32) -> Status
  let primaryRetain: @convention(c) (Out<Address>, Int32) -> Status
  let moduleLoad: @convention(c) (Out<Address>, UnsafeRawPointer?) -> Status
  let moduleFunction: @convention(c) (Out<Address>, Address, UnsafePointer<CChar>) -> Status
  let functionAttribute: @convention(c) (Out<Int32>, Int32, Address) -> Status
  let pointerAttribute: @convention(c) (Address, Int32, UInt) -> Status
  let errorString: @convention(c) (Status, Out<UnsafePointer<CChar>?>) -> Status
  /// Function, grid, block, shared memory, stream, the addresses of the arguments, extra.
  let launch:
    @convention(c) (
      Address, UInt32, UInt32, UInt32, UInt32, UInt32, UInt32, UInt32, Address, Out<Address>, Address
    ) -> Status
  let allocate: @convention(c) (Out<UInt>, Int) -> Status
  let free: @convention(c) (UInt) -> Status
  let toDevice: @convention(c) (UInt, UnsafeRawPointer, Int) -> Status
  let toHost: @convention(c) (UnsafeMutableRawPointer, UInt, Int) -> Status
  let fill: @convention(c) (UInt, UInt8, Int) -> Status
  /// To, from, bytes, stream.
  let between: @convention(c) (UInt, UInt, Int, Address) -> Status

  private static let opened = Result<CUDADriver, ChunkGRPOError>(catching: open)

  static func shared() throws -> CUDADriver { try opened.get() }

  private static func open() throws(ChunkGRPOError) -> CUDADriver {
    guard let library = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL) else {
      throw ChunkGRPOError(
        .deviceFailed, "there is no CUDA driver for tensors on a CUDA device: \(String(cString: dlerror()))")
    }
    func find<F>(_ name: String, _: F.Type = F.self) throws(ChunkGRPOError) -> F {
      guard let address = dlsym(library, name) else {
        throw ChunkGRPOError(
          .deviceFailed, "the CUDA driver has no \(name): the library needs that of CUDA 11 or later")
      }
      return unsafeBitCast(address, to: F.self)
    }
    let driver = CUDADriver(
      ctxPush: try find("cuCtxPushCurrent_v2"), ctxPop: try find("cuCtxPopCurrent_v2"),
      synchronize: try find("cuCtxSynchronize"), deviceGet: try find("cuDeviceGet"),
      primaryRetain: try find("cuDevicePrimaryCtxRetain"), moduleLoad: try find("cuModuleLoadData"),
      moduleFunction: try find("cuModuleGetFunction"), functionAttribute: try find("cuFuncGetAttribute"),
      pointerAttribute: try find("cuPointerGetAttribute"), errorString: try find("cuGetErrorString"),
      launch: try find("cuLaunchKernel"), allocate: try find("cuMemAlloc_v2"), free: try find("cuMemFree_v2"),
      toDevice: try find("cuMemcpyHtoD_v2"), toHost: try find("cuMemcpyDtoH_v2"), fill: try find("cuMemsetD8_v2"),
      between: try find("cuMemcpyDtoDAsync_v2"))
    let start: @convention(c) (UInt32) -> Status = try find("cuInit")
    try driver.check(start(0), "cuInit")
    return driver
  }

  /// Throws unless a call succeeded.
  @inline(__always)
  func check(_ status: Status, _ call: @autoclosure () -> String) throws(ChunkGRPOError) {
    if status != 0 { throw failed(status, call()) }
  }

  @inline(never)
  private func failed(_ status: Status, _ call: String) -> ChunkGRPOError {
    var text: UnsafePointer<CChar>?
    let known = errorString(status, &text) == 0
    return ChunkGRPOError(
      .deviceFailed,
      "\(call): the CUDA driver says \(status), \(known ? text.map { String(cString: $0) } ?? "" : "unknown")"
    )
  }

  /// The device that an address is memory of; nil where it is memory of the host's that no device knows.
  @inline(__always)
  func device(of address: UnsafeRawPointer) -> Int? {
    var device: Int32 = -1
    let ordinal: Int32 = 9  // CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL
    let status = withUnsafeMutablePointer(to: &device) { pointerAttribute($0, ordinal, UInt(bitPattern: address)) }
    return status == 0 && device >= 0 ? Int(device) : nil
  }
}
