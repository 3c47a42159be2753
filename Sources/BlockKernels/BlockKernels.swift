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

/// Bytes of the memory that `normals` works in.
public let normalsScratchSize = 2048

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
  public typealias Normals =
    @Sendable (
      _ seed: UInt64, _ sampleID: UInt64, _ step: UInt32, _ first: Int, _ noise: Out, _ scratch: Out, _ count: Int
    ) -> Void

  /// extra = p·y + q·z, or p·y
  public let combine: @Sendable (_ p: Double, _ y: In, _ q: Double, _ z: In?, _ extra: Out, _ count: Int) -> Void
  /// next = m + s·noise with m = a·x + b·v + extra; sums of x' − m and where wanted x' − x and x, from x' as stored.
  public let step:
    @Sendable (
      _ a: Double, _ b: Double, _ s: Double, _ x: In, _ v: In, _ extra: In?, _ noise: In, _ next: Out, _ change: Bool,
      _ count: Int, _ sums: Sums
    ) -> Void
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
  /// Normals in the compute type and the order of the elements, from element `first` of the sample on, a multiple of
  /// `blockSize`; zeros to the end of the last 64. scratch: `normalsScratchSize` bytes, 64-byte aligned.
  public let normals: Normals
  /// From the order of the elements into the kernels' own (true) or back; nil where they are the same.
  public let reorder: (@Sendable (_ numbers: Out, _ count: Int, _ splitting: Bool) -> Void)?
  /// Element type to compute type, in the kernels' order, into room for a multiple of sixteen.
  public let widen: @Sendable (_ from: In, _ to: Out, _ count: Int) -> Void
  /// Compute type in the kernels' order to element type, to nearest, ties to even.
  public let narrow: @Sendable (_ from: In, _ to: Out, _ count: Int) -> Void

  public init(
    combine: @Sendable @escaping (Double, In, Double, In?, Out, Int) -> Void,
    step: @Sendable @escaping (Double, Double, Double, In, In, In?, In, Out, Bool, Int, Sums) -> Void,
    difference: @Sendable @escaping (Double, Double, In, In, In?, In, Double, Out?, Bool, Int, Sums) -> Void,
    distance: @Sendable @escaping (In, In, Double, Out?, Int, Sums) -> Void,
    meanDistance: @Sendable @escaping (Double, Double, Double, In, In, In, In, Double, Out?, Int, Sums) -> Void,
    change: @Sendable @escaping (In, In, Int, Sums) -> Void,
    normals: @escaping Normals,
    reorder: (@Sendable (Out, Int, Bool) -> Void)?,
    widen: @Sendable @escaping (In, Out, Int) -> Void,
    narrow: @Sendable @escaping (In, Out, Int) -> Void
  ) {
    self.combine = combine
    self.step = step
    self.difference = difference
    self.distance = distance
    self.meanDistance = meanDistance
    self.change = change
    self.normals = normals
    self.reorder = reorder
    self.widen = widen
    self.narrow = narrow
  }

  /// The same with other normals.
  public func with(normals: @escaping Normals) -> BlockKernels {
    BlockKernels(
      combine: combine, step: step, difference: difference, distance: distance, meanDistance: meanDistance, change: change,
      normals: normals, reorder: reorder, widen: widen, narrow: narrow)
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
