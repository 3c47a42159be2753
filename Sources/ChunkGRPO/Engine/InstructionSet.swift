internal import CSupport
package import KernelTable
internal import KernelsBaseline
internal import Platform

#if CHUNKGRPO_DISPATCH
  internal import KernelsAVX2
  internal import KernelsAVX512
#elseif CHUNKGRPO_PLUGIN
  internal import KernelsWide
#endif

/// The vectors that the kernels are compiled for. The results are the same bits with any, but for the embedded network's: without AVX2
/// its products are OpenBLAS's.
public enum InstructionSet: String, Sendable {
  /// Those of every processor of the architecture: x86-64 with SSE2, or arm64.
  case baseline
  /// x86-64-v3: AVX2, FMA, F16C.
  case avx2
  /// x86-64-v4.
  case avx512

  /// The widest that this processor and this build have; the environment variable CHUNKGRPO_SIMD can ask for less. Chosen
  /// at the first use.
  public static let current = choose()

  private static func choose() -> InstructionSet {
    #if CHUNKGRPO_DISPATCH || CHUNKGRPO_PLUGIN
      let sets: [InstructionSet] = [.baseline, .avx2, .avx512]
      guard wideKernels(.avx512) != nil else { return .baseline }
      let best = max(0, min(2, Int(chunkgrpo_support_cpu_level()) - 2))
      let wanted = getenv("CHUNKGRPO_SIMD").flatMap { InstructionSet(rawValue: String(cString: $0)) }
      return sets[min(best, wanted.flatMap(sets.firstIndex) ?? best)]
    #else
      return .baseline
    #endif
  }
}

/// The kernels that this process calls.
package let kernelSet: any KernelSet.Type = wideKernels(InstructionSet.current) ?? KernelsBaseline.Kernels.self

/// The kernels of a set beside the baseline; nil where this build does not have them.
private func wideKernels(_ set: InstructionSet) -> (any KernelSet.Type)? {
  guard set != .baseline else { return nil }
  #if CHUNKGRPO_DISPATCH
    return set == .avx512 ? KernelsAVX512.Kernels.self : KernelsAVX2.Kernels.self
  #elseif CHUNKGRPO_PLUGIN
    return withUnsafeTemporaryAllocation(of: (any KernelSet.Type).self, capacity: 1) { place in
      chunkgrpo_kernels_wide(set == .avx512 ? 1 : 0, place.baseAddress!) == 0 ? nil : place[0]
    }
  #else
    return nil
  #endif
}

extension ElementType {
  /// The inner loops for latents of this type.
  var kernels: any LatentKernels.Type {
    switch self {
    case .float32: kernelSet.float32
    case .float64: kernelSet.float64
    case .bfloat16: kernelSet.bfloat16
    case .float16: kernelSet.float16
    }
  }

  /// The same for velocities of another type, of which `takes` is true.
  func kernels(velocity: ElementType) -> any LatentKernels.Type {
    switch (self, velocity) {
    case (.float32, .bfloat16): kernelSet.float32BFloat16
    case (.float32, .float16): kernelSet.float32Float16
    default: kernels
    }
  }

  /// Bytes of the type that arithmetic is done in.
  var computeSize: Int { self == .float64 ? 8 : 4 }
}
