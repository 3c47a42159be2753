internal import KernelTable

/// The noise of one step as a pass has it: without its owner, as `Rows`.
enum NoiseRows {
  case none
  case given(Rows)
  /// Of all steps; each sample has that of its own.
  case givenByStep(StepRows, BatchSteps)
  case library(Library)

  /// Normals as a function of (seed, sample id, step, element).
  struct Library {
    let seed: UInt64
    let sampleIDs: UnsafePointer<UInt64>?
    let steps: BatchSteps

    func draw(_ block: Block) -> Draw {
      Draw(
        seed: seed, sampleID: sampleIDs?[block.sample] ?? UInt64(block.sample),
        step: UInt32(truncatingIfNeeded: steps[block.sample]), first: block.first & ~(blockSize &- 1),
        scratch: block.scratch)
    }
  }

  /// The caller's where it lies, in the latents' type.
  func lent(_ block: Block) -> UnsafeRawPointer? {
    switch self {
    case .given(let noise): UnsafeRawPointer(noise.at(block))
    case .givenByStep(let noise, let steps): UnsafeRawPointer(noise.at(block, step: steps[block.sample]))
    default: nil
    }
  }

  /// In the compute type.
  func numbers(_ block: Block, _ type: ElementType, _ kernels: any LatentKernels.Type) -> UnsafeRawPointer {
    switch self {
    case .none:
      block.noise.initializeMemory(as: UInt8.self, repeating: 0, count: blockSize &* type.computeSize)
    case .given(let noise): return wide(noise.at(block), block, type, kernels)
    case .givenByStep(let noise, let steps):
      return wide(noise.at(block, step: steps[block.sample]), block, type, kernels)
    case .library(let noise):
      var draw = noise.draw(block)
      let inner = block.first & (blockSize &- 1)
      kernels.normals(&draw, into: block.noise, count: inner &+ block.count)
      if inner != 0 { dropFirst(inner, block, type, kernels) }
    }
    return UnsafeRawPointer(block.noise)
  }

  /// The normals of a part that begins within its block.
  @inline(never)
  private func dropFirst(_ inner: Int, _ block: Block, _ type: ElementType, _ kernels: any LatentKernels.Type) {
    let size = type.computeSize
    kernels.unsplit(block.noise, count: inner &+ block.count)
    block.noise.copyMemory(from: block.noise + inner &* size, byteCount: block.count &* size)
    let end = (block.count &+ 63) & ~63
    (block.noise + block.count &* size).initializeMemory(
      as: UInt8.self, repeating: 0, count: (end &- block.count) &* size)
    kernels.split(block.noise, count: block.count)
  }

  private func wide(
    _ noise: UnsafeMutableRawPointer, _ block: Block, _ type: ElementType, _ kernels: any LatentKernels.Type
  ) -> UnsafeRawPointer {
    if type.size == type.computeSize { return UnsafeRawPointer(noise) }
    kernels.widen(noise, into: block.noise, count: block.count)
    return UnsafeRawPointer(block.noise)
  }
}
