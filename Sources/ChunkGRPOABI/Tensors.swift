import CChunkGRPO
import ChunkGRPO

/// `cgrpo_tensor` as the library's views, checked.

private struct Layout {
  let base: UnsafeMutableRawPointer
  let type: ElementType
  /// The leading axes, strides in elements; then D contiguous elements. The second is 1 where only one leads.
  var batch = Axis(), steps = Axis()
  var elements = 1

  struct Axis {
    var size = 1, stride = 0
  }
}

/// - Parameter leading: the number of axes before the elements: 1 for (B, …), 2 for (B, n, …).
private func layout(
  _ tensor: UnsafePointer<cgrpo_tensor>?, _ name: String, leading: Int, writable: Bool
) throws -> Layout {
  let tensor = try nonNull(tensor, name).pointee
  let base = try nonNull(tensor.data, "\(name).data")
  let shape = try nonNull(tensor.shape, "\(name).shape")
  guard let type = ElementType(rawValue: tensor.type) else {
    throw ChunkGRPOError.wrongType("\(name).type = \(tensor.type) is none of the element types")
  }
  if tensor.device != CGRPO_DEVICE_CPU { try checkDevice(tensor, name) }
  try require(tensor.reserved == 0, "\(name).reserved = \(tensor.reserved) must be 0")
  let rank = Int(tensor.ndim)
  try require(rank >= leading && rank <= 64, "\(name).ndim = \(rank) is outside \(leading) … 64")
  // Sizes are powers of 2.
  try require(
    Int(bitPattern: base) & (type.size - 1) == 0, "\(name).data is not aligned to its elements of \(type.size) bytes")

  var layout = Layout(base: base, type: type)
  var axis = rank
  while axis > leading {
    axis -= 1
    layout.elements = try elements(layout.elements, shape, axis, name)
  }
  var total = layout.elements
  if leading == 2 {
    layout.steps = .init(size: Int(shape[1]), stride: total)
    total = try elements(total, shape, 1, name)
  }
  layout.batch = .init(size: Int(shape[0]), stride: total)
  _ = try elements(total, shape, 0, name)
  // Strides of the library's own making need no check.
  if let strides = tensor.strides {
    try layout.take(strides, shape, rank: rank, leading: leading, name, writable: writable)
  }
  return layout
}

@inline(never)
private func checkDevice(_ tensor: cgrpo_tensor, _ name: String) throws {
  if tensor.part != nil {
    throw ChunkGRPOError.wrongType("\(name).part: the arrays of a CUDA device hold whole samples, so leave it null")
  }
  if tensor.device != CGRPO_DEVICE_CUDA {
    throw ChunkGRPOError.wrongType("\(name).device = \(tensor.device) is neither the CPU nor a CUDA device")
  }
}

extension UnsafePointer<cgrpo_tensor>? {
  /// Of a tensor whose layout has been taken.
  fileprivate var isOfDeviceOrPart: Bool {
    guard let tensor = self else { return false }
    return tensor.pointee.device == CGRPO_DEVICE_CUDA || tensor.pointee.part != nil
  }
}

/// Elements of `axis` and of those behind it, which have `behind`.
@inline(__always)
private func elements(_ behind: Int, _ shape: UnsafePointer<Int64>, _ axis: Int, _ name: String) throws -> Int {
  let size = Int(shape[axis])
  let (count, overflow) = behind.multipliedReportingOverflow(by: size)
  guard size >= 1, size <= maxCount, !overflow, count <= maxCount else { throw wrongSize(behind, size, axis, name) }
  return count
}

@inline(never)
private func wrongSize(_ behind: Int, _ size: Int, _ axis: Int, _ name: String) -> ChunkGRPOError {
  (1...maxCount).contains(size)
    ? .invalidArgument("\(name) of \(behind) × \(size) is too large")
    : .invalidArgument("\(name).shape[\(axis)] = \(size) is outside 1 … \(maxCount)")
}

extension Layout {
  /// The caller's strides instead of those of an array without gaps.
  fileprivate mutating func take(
    _ strides: UnsafePointer<Int64>, _ shape: UnsafePointer<Int64>, rank: Int, leading: Int, _ name: String,
    writable: Bool
  ) throws {
    var inner = 1
    var axis = rank
    while axis > 0 {
      axis -= 1
      let (size, step) = (Int(shape[axis]), Int(strides[axis]))
      try require(step.magnitude <= UInt(maxCount), "\(name).strides[\(axis)] = \(step) is too large")
      if axis >= leading {
        try require(
          size == 1 || step == inner,
          "\(name).strides[\(axis)] = \(step): the axes after the first \(leading) must be contiguous")
        inner *= size
        continue
      }
      try require(
        !writable || size == 1 || abs(step) >= elements,
        "\(name).strides[\(axis)] = \(step) makes the samples overlap, and they are written")
      _ = try product(size, abs(step), "\(name)")
      if axis == 0 { batch.stride = step } else { steps.stride = step }
    }
    // Batch and step together: the outer axis must step over all that the inner one spans.
    if writable, batch.size > 1, steps.size > 1 {
      let stepsInside = abs(steps.stride) <= abs(batch.stride)
      let (inner, outer) = stepsInside ? (steps, batch) : (batch, steps)
      try require(
        abs(outer.stride) >= abs(inner.stride) &* (inner.size - 1) &+ elements,
        "\(name).strides make samples and steps overlap, and they are written")
    }
  }
}

// MARK: - Parts

private func defaultPart() -> cgrpo_part {
  var part = cgrpo_part()
  part.struct_size = MemoryLayout<cgrpo_part>.stride
  return part
}

@_cdecl("cgrpo_part_init") @implementation
public func cgrpo_part_init(_ part: UnsafeMutablePointer<cgrpo_part>!, _ structSize: Int) {
  initStruct(part, size: structSize, defaults: defaultPart())
}

/// The caller's memory as the library has it: the fields lie alike, and this version's are all that there are. Where a
/// later version appends one, the shorter part of an older program must be copied.
@inline(never)
private func checked(_ part: UnsafePointer<cgrpo_part>, _ name: String) throws -> UnsafePointer<Part> {
  _ = try readStruct(part, "\(name).part", current: defaultPart())
  return UnsafeRawPointer(part).assumingMemoryBound(to: Part.self)
}

// MARK: - Views

/// (B, …)
@inline(__always)
func latentsView(
  _ tensor: UnsafePointer<cgrpo_tensor>?, _ name: String, writable: Bool = false
) throws -> LatentsView {
  let l = try layout(tensor, name, leading: 1, writable: writable)
  if tensor.isOfDeviceOrPart { return try otherView(tensor, name, l) }
  return LatentsView(l.base, type: l.type, batch: l.batch.size, elements: l.elements, batchStride: l.batch.stride)
}

@inline(never)
private func otherView(_ tensor: UnsafePointer<cgrpo_tensor>?, _ name: String, _ l: Layout) throws -> LatentsView {
  if let part = tensor?.pointee.part {
    return LatentsView(
      l.base, type: l.type, batch: l.batch.size, elements: l.elements, batchStride: l.batch.stride
    ).with(try checked(part, name))
  }
  return LatentsView(
    l.base, type: l.type, batch: l.batch.size, elements: l.elements, batchStride: l.batch.stride,
    cuda: try cudaQueue(tensor?.pointee.cuda, name))
}

/// (B, n, …)
func trajectoryView(
  _ tensor: UnsafePointer<cgrpo_tensor>?, _ name: String, writable: Bool = false
) throws -> TrajectoryView {
  let l = try layout(tensor, name, leading: 2, writable: writable)
  if (tensor?.pointee.device ?? 0) != CGRPO_DEVICE_CUDA {
    let view = TrajectoryView(
      l.base, type: l.type, batch: l.batch.size, count: l.steps.size, elements: l.elements,
      batchStride: l.batch.stride, stepStride: l.steps.stride)
    if let part = tensor?.pointee.part { return view.with(try checked(part, name)) }
    return view
  }
  return TrajectoryView(
    l.base, type: l.type, batch: l.batch.size, count: l.steps.size, elements: l.elements, batchStride: l.batch.stride,
    stepStride: l.steps.stride, cuda: try cudaQueue(tensor?.pointee.cuda, name))
}

/// A contiguous f32 matrix (rows, columns): the trainer's tensors.
func matrix(_ tensor: UnsafePointer<cgrpo_tensor>?, _ name: String) throws -> UnsafeMutableBufferPointer<Float> {
  let view = try latentsView(tensor, name)
  try view.checkOnCPU(name, "the trainer")
  guard view.type == .float32 else {
    throw ChunkGRPOError.wrongType("\(name) is \(view.type), but the trainer takes float32")
  }
  try require(view.part == nil, "\(name).part: the trainer takes whole samples, so leave it null")
  try require(view.batch == 1 || view.batchStride == view.elements, "\(name) must be contiguous")
  return UnsafeMutableBufferPointer(
    start: view.base.assumingMemoryBound(to: Float.self), count: view.batch * view.elements)
}

extension LatentsView {
  /// These latents as a tensor of the shape that the caller gave, for the length of `body`.
  func withTensor<R>(trailingShape: [Int64], _ body: (UnsafePointer<cgrpo_tensor>) throws -> R) rethrows -> R {
    let shape = [Int64(batch)] + trailingShape
    var strides = [Int64](repeating: 1, count: shape.count)
    for axis in stride(from: shape.count - 2, through: 1, by: -1) {
      strides[axis] = strides[axis + 1] * shape[axis + 1]
    }
    strides[0] = Int64(batchStride)
    return try shape.withUnsafeBufferPointer { shape in
      try strides.withUnsafeBufferPointer { strides in
        var tensor = cgrpo_tensor(
          data: base, shape: shape.baseAddress, strides: strides.baseAddress, ndim: Int32(shape.count),
          type: type.rawValue, device: Int32(cuda == nil ? CGRPO_DEVICE_CPU : CGRPO_DEVICE_CUDA), reserved: 0,
          cuda: cuda?.host?.assumingMemoryBound(to: cgrpo_cuda.self), part: nil)
        return try withUnsafePointer(to: &tensor) { try body($0) }
      }
    }
  }
}
