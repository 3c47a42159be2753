internal import KernelsCUDA

/// The kernels, by the names of `KernelsCUDA`.
enum CUDAKernel: Int, CaseIterable {
  case step, stepChange, stepAny
  case difference, differenceGradient, gradient, differenceAny
  case distance, meanDistance
  case forward, forwardExtras
  case change, normal

  var name: String {
    switch self {
    case .step: "step"
    case .stepChange: "step_change"
    case .stepAny: "step_any"
    case .difference: "difference"
    case .differenceGradient: "difference_gradient"
    case .gradient: "gradient"
    case .differenceAny: "difference_any"
    case .distance: "distance"
    case .meanDistance: "mean_distance"
    case .forward: "forward"
    case .forwardExtras: "forward_extras"
    case .change: "change"
    case .normal: "normal"
    }
  }
}

/// A device, with its primary context and the kernels compiled for it.
final class CUDADevice: @unchecked Sendable {
  /// The functions of a module by kernel; nil where it has none.
  private typealias Functions = [CUDADriver.Address]

  let driver: CUDADriver
  let number: Int
  private let context: CUDADriver.Address
  /// By the types of latents and velocity.
  private let modules = Locked<[Functions?]>(.init(repeating: nil, count: typeCount * typeCount))

  private static let known = Locked<[Int: CUDADevice]>([:])

  static func device(_ number: Int) throws -> CUDADevice {
    let driver = try CUDADriver.shared()
    return try known.withLock { devices in
      if let device = devices[number] { return device }
      let device = try CUDADevice(driver, number)
      devices[number] = device
      return device
    }
  }

  private init(_ driver: CUDADriver, _ number: Int) throws {
    self.driver = driver
    self.number = number
    let name = "CUDA device \(number)"
    var device: Int32 = 0
    var context: CUDADriver.Address = nil
    guard let ordinal = Int32(exactly: number) else {
      throw ChunkGRPOError.invalidArgument("device = \(number) is no number of a CUDA device")
    }
    try driver.check(driver.deviceGet(&device, ordinal), name)
    try driver.check(driver.primaryRetain(&context, device), "the primary context of \(name)")
    self.context = context
  }

  /// Compiles the kernels for a pair of types at its first use: the driver does, and keeps the result on disk. To be called
  /// within the device's context.
  private func functions(_ latents: ElementType, _ velocity: ElementType) throws -> Functions {
    let place = Int(latents.rawValue - 1) * typeCount + Int(velocity.rawValue - 1)
    return try modules.withLock { modules in
      if let functions = modules[place] { return functions }
      let functions = try load(latents, velocity)
      modules[place] = functions
      return functions
    }
  }

  private func load(_ latents: ElementType, _ velocity: ElementType) throws -> Functions {
    var text = CUDAText()
    guard chunkgrpo_cuda_text(latents.cudaName, velocity.cudaName, &text) else {
      throw ChunkGRPOError.wrongType(
        "there are no kernels for latents of \(latents) with a velocity of \(velocity) on a CUDA device")
    }
    let memory = try Buffer<CChar>(count: text.size + 1, for: "the text of kernels")
    let name = "the kernels of \(latents) and \(velocity) on CUDA device \(number)"
    guard chunkgrpo_cuda_unpack(&text, memory.base) else {
      throw ChunkGRPOError(.deviceFailed, "\(name) are damaged in this library")
    }
    var module: CUDADriver.Address = nil
    try driver.check(driver.moduleLoad(&module, memory.base), "loading \(name)")
    return try CUDAKernel.allCases.map { kernel in
      var function: CUDADriver.Address = nil
      let own = "chunkgrpo_\(kernel.name)_\(latents.cudaName)_\(velocity.cudaName)"
      if driver.moduleFunction(&function, module, own) != 0 { return nil }
      // The driver's lazy loading would wait for the device at the first launch.
      var registers: Int32 = 0
      let attribute: Int32 = 4  // CU_FUNC_ATTRIBUTE_NUM_REGS
      try driver.check(driver.functionAttribute(&registers, attribute, function), "loading \(own)")
      return function
    }
  }

  /// Loads all kernels.
  func prepare() throws {
    try within {
      for latents in ElementType.allCases {
        for velocity in ElementType.allCases {
          var text = CUDAText()
          if chunkgrpo_cuda_text(latents.cudaName, velocity.cudaName, &text) { _ = try functions(latents, velocity) }
        }
      }
    }
  }

  /// Runs the body in the device's context.
  func within<R>(_ body: () throws -> R) throws -> R {
    try driver.check(driver.ctxPush(context), "the primary context of CUDA device \(number)")
    defer {
      var popped: CUDADriver.Address = nil
      _ = driver.ctxPop(&popped)
    }
    return try body()
  }

  /// Puts a kernel on a stream; to be called within the device's context.
  func launch<Arguments>(
    _ kernel: CUDAKernel, _ latents: ElementType, _ velocity: ElementType, _ grid: (x: UInt32, y: Int, z: Int),
    _ stream: UnsafeMutableRawPointer?, _ arguments: inout Arguments
  ) throws {
    guard let function = try functions(latents, velocity)[kernel.rawValue] else {
      throw ChunkGRPOError.wrongType(
        "\(kernel.name): there is no kernel for latents of \(latents) with a velocity of \(velocity) on a CUDA device")
    }
    let status = withUnsafeMutablePointer(to: &arguments) { arguments in
      var parameters = CUDADriver.Address(arguments)
      return driver.launch(
        function, grid.x, UInt32(grid.y), UInt32(grid.z), UInt32(CHUNKGRPO_CUDA_THREADS), 1, 1, 0, stream, &parameters,
        nil)
    }
    try driver.check(status, "launching \(kernel.name) on CUDA device \(number)")
  }
}

private let typeCount = ElementType.allCases.count

extension ElementType {
  fileprivate var cudaName: String {
    switch self {
    case .float32: "f32"
    case .float64: "f64"
    case .bfloat16: "bf16"
    case .float16: "f16"
    }
  }
}

/// Loads the driver and the kernels for a device, which the first call there would do: a stream that is being captured
/// cannot wait for it.
public func prepareCUDA(device: Int) throws {
  try require(device >= 0, "device = \(device) is no number of a CUDA device")
  try CUDADevice.device(device).prepare()
}
