/// The sums that one block adds to: those that a log-probability and a relative L1 change need.
public struct BlockSums {
  /// Σ d², of whatever difference the kernel takes: (x' − m)² for a step.
  public var squares = 0.0
  /// Σ |x' − x|
  public var change = 0.0
  /// Σ |x|
  public var magnitude = 0.0

  public init() {}

  public static func += (left: inout BlockSums, right: BlockSums) {
    left.squares += right.squares
    left.change += right.change
    left.magnitude += right.magnitude
  }
}

/// Elements of a block; a block begins at a multiple of it.
public let blockSize = 1024

/// Which of the library's normals: those of a sample and step from element `first` on, a multiple of `blockSize`.
public struct Draw {
  public let seed, sampleID: UInt64
  public let step: UInt32
  public let first: Int
  /// Room for the generator's constants, twenty vectors, on a 64-byte boundary.
  public let scratch: UnsafeMutableRawPointer

  public init(seed: UInt64, sampleID: UInt64, step: UInt32, first: Int, scratch: UnsafeMutableRawPointer) {
    self.seed = seed
    self.sampleID = sampleID
    self.step = step
    self.first = first
    self.scratch = scratch
  }
}

/// The inner loops, over the up to `blockSize` elements of one block of a sample, for one element type and one instruction
/// set. Latents, velocities and gradients are in the element type; `extra` and `noise` are in the compute type: Double for
/// f64, else Float. They lie in memory for a whole block and in the order that the element type's kernels want, with zeros
/// to the end of the last sixteen.
///
/// Functions in a table and not a protocol: every instruction set is a module of its own, compiled from the same files, and
/// none may call or specialise code of another.
public final class BlockKernels: Sendable {
  public typealias Sums = UnsafeMutableRawPointer
  public typealias In = UnsafeRawPointer
  public typealias Out = UnsafeMutableRawPointer
  /// extra = p·y + q·z, or p·y
  public let combine: @Sendable (_ p: Double, _ y: In, _ q: Double, _ z: In?, _ extra: Out, _ count: Int) -> Void
  /// next = m + s·noise with m = a·x + b·v + extra; sums of x' − m and where wanted x' − x and x, from x' as stored.
  public let step:
    @Sendable (
      _ a: Double, _ b: Double, _ s: Double, _ x: In, _ v: In, _ extra: In?, _ noise: In, _ next: Out, _ change: Bool,
      _ count: Int, _ sums: Sums
    ) -> Void
  /// The same with the library's noise and no extra, for a multiple of 32: the normals stay in registers, and `words` is
  /// room for a block of them. nil where the conversions of a type would take these registers.
  public let noisyStep:
    (
      @Sendable (
        _ a: Double, _ b: Double, _ s: Double, _ x: In, _ v: In, _ draw: Draw, _ words: Out, _ next: Out,
        _ change: Bool, _ count: Int, _ sums: Sums
      ) -> Void
    )?
  /// d = x' − m, its square sum, and where wanted gradient = scale·d; `streams`: past the caches where it can be.
  public let difference:
    @Sendable (
      _ a: Double, _ b: Double, _ x: In, _ v: In, _ extra: In?, _ next: In, _ scale: Double, _ gradient: Out?,
      _ streams: Bool, _ count: Int, _ sums: Sums
    ) -> Void
  /// d = v − w
  public let distance:
    @Sendable (
      _ v: In, _ w: In, _ scale: Double, _ gradient: Out?, _ count: Int, _ sums: Sums
    ) -> Void
  /// d = m − (x' − s·noise)
  public let meanDistance:
    @Sendable (
      _ a: Double, _ b: Double, _ s: Double, _ x: In, _ v: In, _ noise: In, _ next: In, _ scale: Double,
      _ gradient: Out?, _ count: Int, _ sums: Sums
    ) -> Void
  /// Sums of x' − x and x.
  public let change: @Sendable (_ x: In, _ next: In, _ count: Int, _ sums: Sums) -> Void
  /// Normals in the compute type and the kernels' order, then zeros to the end of the last 64.
  public let normals: @Sendable (_ draw: Draw, _ noise: Out, _ count: Int) -> Void
  /// From the kernels' order into that of the elements; nil where they are the same.
  public let unsplit: (@Sendable (_ numbers: Out, _ count: Int) -> Void)?
  /// Element type to compute type, in the kernels' order, into room for a multiple of sixteen.
  public let widen: @Sendable (_ from: In, _ to: Out, _ count: Int) -> Void
  /// Compute type in the kernels' order to element type, to nearest, ties to even.
  public let narrow: @Sendable (_ from: In, _ to: Out, _ count: Int) -> Void

  public init(
    combine: @Sendable @escaping (Double, In, Double, In?, Out, Int) -> Void,
    step: @Sendable @escaping (Double, Double, Double, In, In, In?, In, Out, Bool, Int, Sums) -> Void,
    noisyStep: (@Sendable (Double, Double, Double, In, In, Draw, Out, Out, Bool, Int, Sums) -> Void)?,
    difference: @Sendable @escaping (Double, Double, In, In, In?, In, Double, Out?, Bool, Int, Sums) -> Void,
    distance: @Sendable @escaping (In, In, Double, Out?, Int, Sums) -> Void,
    meanDistance: @Sendable @escaping (Double, Double, Double, In, In, In, In, Double, Out?, Int, Sums) -> Void,
    change: @Sendable @escaping (In, In, Int, Sums) -> Void,
    normals: @Sendable @escaping (Draw, Out, Int) -> Void,
    unsplit: (@Sendable (Out, Int) -> Void)?,
    widen: @Sendable @escaping (In, Out, Int) -> Void,
    narrow: @Sendable @escaping (In, Out, Int) -> Void
  ) {
    self.combine = combine
    self.step = step
    self.noisyStep = noisyStep
    self.difference = difference
    self.distance = distance
    self.meanDistance = meanDistance
    self.change = change
    self.normals = normals
    self.unsplit = unsplit
    self.widen = widen
    self.narrow = narrow
  }
}

/// One for each element type.
public struct KernelSet: Sendable {
  public let float32, float64, bfloat16, float16: BlockKernels

  public init(float32: BlockKernels, float64: BlockKernels, bfloat16: BlockKernels, float16: BlockKernels) {
    self.float32 = float32
    self.float64 = float64
    self.bfloat16 = bfloat16
    self.float16 = float16
  }
}
