import Glibc
internal import KernelTable

/// Normals as a function of (seed, sample id, step, element).
struct LibraryNoise {
  let seed: UInt64
  let sampleIDs: UnsafePointer<UInt64>?
  let step: UInt32

  init(seed: UInt64, sampleIDs: UnsafePointer<UInt64>?, step: Int) {
    self.seed = seed
    self.sampleIDs = sampleIDs
    self.step = UInt32(truncatingIfNeeded: step)
  }

  func draw(_ block: Block) -> Draw {
    Draw(
      seed: seed, sampleID: sampleIDs?[block.sample] ?? UInt64(block.sample), step: step, first: block.offset,
      scratch: block.scratch)
  }
}

/// Where the noise of a step comes from.
enum NoiseSource {
  case none
  case given(Rows)
  case library(LibraryNoise)

  /// In the compute type.
  func numbers(_ block: Block, _ type: ElementType, _ kernels: BlockKernels) -> UnsafeRawPointer {
    switch self {
    case .none:
      memset(block.noise, 0, blockSize &* type.computeSize)
    case .given(let noise):
      if type.size == type.computeSize { return UnsafeRawPointer(noise.at(block)) }
      kernels.widen(noise.at(block), block.noise, block.count)
    case .library(let noise):
      kernels.normals(noise.draw(block), block.noise, block.count)
    }
    return UnsafeRawPointer(block.noise)
  }
}
