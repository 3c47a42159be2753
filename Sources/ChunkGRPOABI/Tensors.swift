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
  guard tensor.device == 0 else {
    throw ChunkGRPOError.wrongType("\(name).device = \(tensor.device) is not the CPU")
  }
  try require(tensor.reserved == 0, "\(name).reserved = \(tensor.reserved) must be 0")
  let rank = Int(tensor.ndim)
  try require((leading...64).contains(rank), "\(name).ndim = \(rank) is outside \(leading) … 64")
  try require(
    Int(bitPattern: base) % type.size == 0, "\(name).data is not aligned to its elements of \(type.size) bytes")

  var layout = Layout(base: base, type: type)
  var total = 1  // elements of the axes seen so far, from the last one on
  var axis = rank
  while axis > 0 {
    axis -= 1
    let size = try count(shape[axis], "\(name).shape[\(axis)]", 1...maxCount)
    var step = total
    if let given = tensor.strides?[axis] {
      guard let exact = Int(exactly: given), abs(max(exact, -maxCount - 1)) <= maxCount else {
        throw ChunkGRPOError.invalidArgument("\(name).strides[\(axis)] = \(given) is too large")
      }
      step = exact
    }
    total = try product(total, size, "\(name)")
    // Strides of the library's own making need no check.
    if tensor.strides != nil {
      if axis >= leading {
        try require(
          size == 1 || step == layout.elements,
          "\(name).strides[\(axis)] = \(step): the axes after the first \(leading) must be contiguous")
      } else {
        try require(
          !writable || size == 1 || abs(step) >= layout.elements,
          "\(name).strides[\(axis)] = \(step) makes the samples overlap, and they are written")
        _ = try product(size, abs(step), "\(name)")
      }
    }
    if axis >= leading {
      layout.elements = total
    } else if axis == 0 {
      layout.batch = .init(size: size, stride: step)
    } else {
      layout.steps = .init(size: size, stride: step)
    }
  }
  // Batch and step together: the outer axis must step over all that the inner one spans.
  if writable, layout.batch.size > 1, layout.steps.size > 1 {
    let stepsInside = abs(layout.steps.stride) <= abs(layout.batch.stride)
    let (inner, outer) = stepsInside ? (layout.steps, layout.batch) : (layout.batch, layout.steps)
    try require(
      abs(outer.stride) >= abs(inner.stride) &* (inner.size - 1) &+ layout.elements,
      "\(name).strides make samples and steps overlap, and they are written")
  }
  return layout
}

/// (B, …)
func latentsView(
  _ tensor: UnsafePointer<cgrpo_tensor>?, _ name: String, writable: Bool = false
) throws -> LatentsView {
  let l = try layout(tensor, name, leading: 1, writable: writable)
  return LatentsView(l.base, type: l.type, batch: l.batch.size, elements: l.elements, batchStride: l.batch.stride)
}

/// (B, n, …)
func trajectoryView(
  _ tensor: UnsafePointer<cgrpo_tensor>?, _ name: String, writable: Bool = false
) throws -> TrajectoryView {
  let l = try layout(tensor, name, leading: 2, writable: writable)
  return TrajectoryView(
    l.base, type: l.type, batch: l.batch.size, count: l.steps.size, elements: l.elements, batchStride: l.batch.stride,
    stepStride: l.steps.stride)
}

/// A contiguous f32 matrix (rows, columns): the trainer's tensors.
func matrix(_ tensor: UnsafePointer<cgrpo_tensor>?, _ name: String) throws -> UnsafeMutableBufferPointer<Float> {
  let view = try latentsView(tensor, name)
  guard view.type == .float32 else {
    throw ChunkGRPOError.wrongType("\(name) is \(view.type), but the trainer takes float32")
  }
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
          type: type.rawValue, device: 0, reserved: 0)
        return try withUnsafePointer(to: &tensor) { try body($0) }
      }
    }
  }
}
