@_exported public import CKernelTable

/// Elements of a block; a block begins at a multiple of it.
public let blockSize = 1024

/// The inner loops over the up to `blockSize` elements of one block of a sample, for one type of latents and one of velocities,
/// and one instruction set; see `CKernelTable` for their arguments. A kernel adds to `sums` what it takes.
///
/// Requirements alone, and no code: every instruction set is a module of its own, compiled from the same files, and none may
/// call or specialise code of another.
public protocol LatentKernels: SendableMetatype {
  typealias Sums = UnsafeMutablePointer<BlockSums>

  static func combine(_ arguments: UnsafePointer<CombineArguments>)
  /// Sums are taken from x' as stored.
  static func step(_ arguments: UnsafePointer<StepArguments>, _ sums: Sums)
  /// Whether there is a `noisyStep`: not for 16-bit types, whose conversions would spill its registers.
  static var hasNoisyStep: Bool { get }
  static func noisyStep(_ arguments: UnsafePointer<NoisyStepArguments>, _ sums: Sums)
  static func difference(_ arguments: UnsafePointer<DifferenceArguments>, _ sums: Sums)
  static func distance(_ arguments: UnsafePointer<DistanceArguments>, _ sums: Sums)
  static func meanDistance(_ arguments: UnsafePointer<MeanDistanceArguments>, _ sums: Sums)
  static func forward(_ arguments: UnsafePointer<ForwardArguments>, _ sums: Sums)
  static func target(_ arguments: UnsafePointer<TargetArguments>)
  static func mixture(_ arguments: UnsafePointer<MixtureArguments>, _ sums: Sums)
  static func forwardGradient(_ arguments: UnsafePointer<ForwardGradientArguments>)
  /// Sums of x' − x and x.
  static func change(from x: UnsafeRawPointer, to next: UnsafeRawPointer, count: Int, _ sums: Sums)
  /// Normals in the compute type and the kernels' order, then zeros to the end of the last 64.
  static func normals(_ draw: UnsafePointer<Draw>, into noise: UnsafeMutableRawPointer, count: Int)
  /// From the kernels' order into that of the elements, in place.
  static func unsplit(_ numbers: UnsafeMutableRawPointer, count: Int)
  /// The other way round.
  static func split(_ numbers: UnsafeMutableRawPointer, count: Int)
  /// Element type to compute type, in the kernels' order, into room for a multiple of sixteen.
  static func widen(_ from: UnsafeRawPointer, into numbers: UnsafeMutableRawPointer, count: Int)
  /// Compute type in the kernels' order to element type, to nearest, ties to even.
  static func narrow(_ numbers: UnsafeRawPointer, into out: UnsafeMutableRawPointer, count: Int)
}
