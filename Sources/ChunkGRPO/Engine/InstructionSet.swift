internal import CSupport
import Glibc
package import KernelTable
internal import KernelsBaseline

#if CHUNKGRPO_DISPATCH
  internal import KernelsAVX2
  internal import KernelsAVX512
#endif

/// What the kernels are compiled for. The results are the same bits with any, but for the embedded network's: without AVX2
/// its products are OpenBLAS's.
public enum InstructionSet: String, Sendable {
  /// What every processor of the architecture has: x86-64 with SSE2, or arm64.
  case baseline
  /// x86-64-v3: AVX2, FMA, F16C.
  case avx2
  /// x86-64-v4.
  case avx512

  /// The widest that this processor and this build have; the environment variable CHUNKGRPO_SIMD can ask for less. Chosen
  /// at the first use.
  public static let current = choose()

  private static func choose() -> InstructionSet {
    #if CHUNKGRPO_DISPATCH
      let sets: [InstructionSet] = [.baseline, .avx2, .avx512]
      let best = max(0, min(2, Int(chunkgrpo_support_cpu_level()) - 2))
      let wanted = getenv("CHUNKGRPO_SIMD").flatMap { InstructionSet(rawValue: String(cString: $0)) }
      return sets[min(best, wanted.flatMap(sets.firstIndex) ?? best)]
    #else
      return .baseline
    #endif
  }
}

extension ElementType {
  /// The inner loops for latents of this type.
  var kernels: BlockKernels {
    switch self {
    case .float32: kernelSet.float32
    case .float64: kernelSet.float64
    case .bfloat16: kernelSet.bfloat16
    case .float16: kernelSet.float16
    }
  }

  /// Bytes of the type that arithmetic is done in.
  var computeSize: Int { self == .float64 ? 8 : 4 }
}

private let kernelSet: KernelSet = {
  #if CHUNKGRPO_DISPATCH
    switch InstructionSet.current {
    case .avx512: return KernelsAVX512.kernels
    case .avx2: return KernelsAVX2.kernels
    case .baseline: break
    }
  #endif
  return KernelsBaseline.kernels
}()

/// The loops of the embedded network. The same bits with AVX2 and AVX-512; without, products are OpenBLAS's.
package let networkKernels: NetworkKernelSet = {
  #if CHUNKGRPO_DISPATCH
    switch InstructionSet.current {
    case .avx512: return KernelsAVX512.networkKernels
    case .avx2: return KernelsAVX2.networkKernels
    case .baseline: break
    }
  #endif
  return KernelsBaseline.networkKernels
}()

/// Uniform draws in (0, 1), 32 bits each: word 0 of Philox's counters in order.
package func uniforms(seed: UInt64, sampleID: UInt64, step: UInt32, count: Int) -> [Double] {
  KernelsBaseline.uniforms(seed: seed, sampleID: sampleID, step: step, count: count)
}
