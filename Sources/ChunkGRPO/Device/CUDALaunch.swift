internal import KernelsCUDA

/// More samples are split into several launches: the grid has no more.
let maxLaunchSamples = 65535

/// The most samples of a launch, where each may have numbers or an id of its own that travels with it.
func mostSamples(_ haveOwn: Bool) -> Int { haveOwn ? Int(CHUNKGRPO_CUDA_SAMPLES) : maxLaunchSamples }

/// The launches of one pass over latents of a device.
struct CUDALaunch {
  let device: CUDADevice
  let queue: CUDAQueue
  private let batch, elements: Int
  private let type: ElementType

  /// - Parameter name: of the latents, for messages.
  init(_ queue: CUDAQueue, _ x: Rows, _ name: StaticString) throws {
    let driver = try CUDADriver.shared()
    guard let number = driver.device(of: x.base) else {
      throw ChunkGRPOError.invalidArgument(
        "\(name).device is CUDA, but \(name).data is not the address of a device's memory")
    }
    device = try CUDADevice.device(number)
    self.queue = queue
    (batch, elements, type) = (x.batch, x.elements, x.type)
    try check(queue.workspace, "cuda.workspace")
    try check(queue.status, "cuda.status")
    try check(queue.seed, "cuda.seed")
    try check(queue.sampleIDs, "cuda.sample_ids")
  }

  /// Refuses numbers of 8 bytes, or a workspace, that are not memory of the device.
  func check(_ address: UnsafeRawPointer?, _ name: @autoclosure () -> String) throws {
    guard let address else { return }
    // A kernel that reads them otherwise would end the process's use of the device.
    try require(Int(bitPattern: address) & 7 == 0, "\(name()) is not on an 8-byte boundary")
    try checkPlace(address, name())
  }

  func check(_ rows: Rows?, _ name: @autoclosure () -> String) throws {
    if let rows { try checkPlace(rows.base, name()) }
  }

  @inline(__always)
  private func checkPlace(_ address: UnsafeRawPointer, _ name: @autoclosure () -> String) throws {
    let found = device.driver.device(of: address)
    if found != device.number { throw elsewhere(name(), found) }
  }

  @inline(never)
  private func elsewhere(_ name: String, _ found: Int?) -> ChunkGRPOError {
    .invalidArgument(
      found.map { "\(name) is memory of CUDA device \($0), but the latents lie on device \(device.number)" }
        ?? "\(name) is an address of the host, but with latents on a CUDA device it is one of that device")
  }

  /// Calls the body for the samples in parts of at most `most`, and puts a kernel on the stream for each.
  func run<Arguments>(
    _ kernel: CUDAKernel, _ latents: ElementType, _ velocity: ElementType, most: Int = maxLaunchSamples, steps: Int = 1,
    _ arguments: inout Arguments, _ fill: (_ arguments: inout Arguments, _ samples: Range<Int>) throws -> Void
  ) throws {
    let count = Int64(elements)
    let x = kernel == .gradient ? chunkgrpo_cuda_blocks(count) : chunkgrpo_cuda_grid(count, latents.size)
    try device.within {
      var first = 0
      while first < batch {
        let samples = first..<min(batch, first + most)
        try fill(&arguments, samples)
        try device.launch(kernel, latents, velocity, (x, samples.count, steps), queue.stream, &arguments)
        first = samples.upperBound
      }
    }
  }

  func shape(_ samples: Range<Int>) -> CUDAShape {
    CUDAShape(
      elements: Int64(elements), first_element: 0, total: Double(elements), first_sample: UInt32(samples.lowerBound))
  }

  /// - Parameters:
  ///   - wanted: whether the kernel gives numbers, which needs a workspace; else it looks for what is not finite where
  ///     there is one.
  ///   - looks: whether it takes the sums to look. A gradient's kernel sees each element.
  func workspace(_ samples: Range<Int>, steps: Int = 1, wanted: Bool, looks: Bool = true) throws -> CUDAWorkspace {
    var result = CUDAWorkspace(arrived: nil, partial: nil, status: queue.status)
    let needed = chunkgrpo_cuda_workspace_bytes(Int64(samples.count), Int64(elements), Int64(steps))
    guard wanted || looks && queue.status != nil && queue.workspaceSize >= needed else { return result }
    guard let workspace = queue.workspace, queue.workspaceSize >= needed else {
      throw ChunkGRPOError.invalidArgument(
        (queue.workspace == nil
          ? "cuda.workspace is null, but the call gives numbers"
          : "cuda.workspace_size = \(queue.workspaceSize) is too small")
          + ": it takes \(needed) bytes of device memory, zeros at first; cgrpo_cuda_workspace says how many")
    }
    chunkgrpo_cuda_divide(&result, workspace, queue.workspaceSize)
    return result
  }
}

// MARK: - What kernels are given

/// Writes one element of an array in a struct of C's, which is a tuple in Swift.
func set<Array, Element>(_ array: inout Array, _ index: Int, _ value: Element) {
  withUnsafeMutableBytes(of: &array) {
    $0.storeBytes(of: value, toByteOffset: index &* MemoryLayout<Element>.stride, as: Element.self)
  }
}

extension Rows {
  /// Of the samples from `first` on; `step`: distance of two steps, in elements.
  func cuda(_ first: Int, step: Int = 0) -> CUDARows {
    CUDARows(base: row(first), batch_stride: Int64(batchStride &* type.size), step_stride: Int64(step &* type.size))
  }
}

extension StepRows {
  func cuda(_ first: Int) -> CUDARows { self.first.cuda(first, step: stride / self.first.type.size) }
}

var noRows: CUDARows { CUDARows(base: nil, batch_stride: 0, step_stride: 0) }

extension Optional where Wrapped == Rows {
  func cuda(_ first: Int) -> CUDARows { map { $0.cuda(first) } ?? noRows }
}

private func real(_ number: Double, _ type: ElementType) -> chunkgrpo_cuda_real {
  var real = chunkgrpo_cuda_real()
  if type == .float64 { real.f64 = number } else { real.f32 = Float(number) }
  return real
}

extension CUDANumbers {
  /// Of a step's mean, a·x + b·v + p·y + q·z, and of its noise.
  init(_ n: SampleNumbers, step: Int, _ type: ElementType) {
    self.init()
    (a, b, s) = (real(n.a, type), real(n.b, type), real(n.s, type))
    (p, q) = (real(n.p, type), real(n.q, type))
    self.step = UInt32(truncatingIfNeeded: step)
    place = UInt32(truncatingIfNeeded: step &+ 1)
  }

  /// Of a residual r that was kept, which stands for x, v and x': its mean is r − r.
  mutating func takeResidual(_ type: ElementType) { (a, b) = (real(1, type), real(-1, type)) }

  /// The result is a log-probability, with the gradient slope·upstream·d.
  mutating func take(_ density: StepDensity, _ n: SampleNumbers, elements: Int) {
    let slope = density.slope(b: n.c.b, elements: elements)
    (factor, constant) = (-density.precision, density.constant)
    (self.slope, unconditional) = (slope * n.guidance, slope * (1 - n.guidance))
  }
}

extension NoiseRows {
  /// Whether each sample has an id of its own that a launch carries.
  func carriesIDs(_ queue: CUDAQueue) -> Bool {
    if case .library(let noise) = self { return queue.sampleIDs == nil && noise.sampleIDs != nil }
    return false
  }

  /// The noise of some samples.
  func fill(_ noise: inout CUDANoise, _ samples: Range<Int>, _ queue: CUDAQueue) {
    let first = samples.lowerBound
    switch self {
    case .none: noise.kind = UInt32(CHUNKGRPO_CUDA_NO_NOISE)
    case .given(let rows):
      (noise.kind, noise.given) = (UInt32(CHUNKGRPO_CUDA_GIVEN), rows.cuda(first))
    case .givenByStep(let rows, _):
      (noise.kind, noise.given) = (UInt32(CHUNKGRPO_CUDA_GIVEN), rows.cuda(first))
    case .library(let library):
      noise.kind = UInt32(CHUNKGRPO_CUDA_LIBRARY)
      noise.seed_at = queue.seed
      noise.ids_at = queue.sampleIDs.map { $0 + first }
      chunkgrpo_cuda_seed(&noise, library.seed)
      noise.has_ids = carriesIDs(queue) ? 1 : 0
      guard noise.has_ids != 0, let ids = library.sampleIDs else { return }
      for i in samples { set(&noise.ids, i - first, ids[i]) }
    }
  }

  func check(_ launch: CUDALaunch) throws {
    switch self {
    case .none, .library: return
    case .given(let rows): try launch.check(rows, "noise")
    case .givenByStep(let rows, _): try launch.check(rows.first, "noise")
    }
  }
}
