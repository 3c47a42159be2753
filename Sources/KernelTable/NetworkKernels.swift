/// Rows of the modulation table that the rows of a batch share, and where in a row a vector begins.
public struct ModulationTable {
  public let base: UnsafeMutableRawPointer
  /// Elements of a row of the table.
  public let stride: Int
  /// Which row of the table each row of the batch has.
  public let contexts: UnsafePointer<Int32>

  public init(_ base: UnsafeMutableRawPointer, stride: Int, contexts: UnsafePointer<Int32>) {
    self.base = base
    self.stride = stride
    self.contexts = contexts
  }
}

/// The numbers of one step of AdamW.
public struct AdamWFactors: Sendable {
  /// 1 − lr·weightDecay; of the gradients; lr/(1 − β1ᵗ); 1/√(1 − β2ᵗ); β and 1 − β; ε.
  public var keep, scale, rate, correction, beta1, new1, beta2, new2, epsilon: Float

  public init(
    keep: Float, scale: Float, rate: Float, correction: Float, beta1: Float, new1: Float, beta2: Float, new2: Float,
    epsilon: Float
  ) {
    self.keep = keep
    self.scale = scale
    self.rate = rate
    self.correction = correction
    self.beta1 = beta1
    self.new1 = new1
    self.beta2 = beta2
    self.new2 = new2
    self.epsilon = epsilon
  }
}

/// The loops of the embedded network over rows of `width` numbers, for one type of number and one instruction set. A table
/// as `BlockKernels`, for its reasons. What is called a gradient of something that rows share is added to.
public struct NetworkKernels: Sendable {
  public typealias In = UnsafeRawPointer
  public typealias Out = UnsafeMutableRawPointer

  /// C = A·B + bias, or C += A·B + bias, for row-major B (k, n), C (m, n) and bias (n) or nil; A(i, j) lies at
  /// i·rowStride + j·columnStride. n is a multiple of `productColumns`; `packed` is B with its first `panel` columns as a
  /// matrix of their own, then the next. Nil where there is no fused multiply-add.
  public let product:
    (
      @Sendable (
        _ m: Int, _ n: Int, _ k: Int, _ a: In, _ rowStride: Int, _ columnStride: Int, _ b: In, _ packed: Bool,
        _ bias: In?, _ c: Out,
        _ adding: Bool
      ) -> Void
    )?
  /// Columns of B that a product takes at a time.
  public let panel: Int
  /// x (rows, columns) to y (columns, rows), of which a row is `stride` after the one before it.
  public let transpose: @Sendable (_ x: In, _ rows: Int, _ columns: Int, _ y: Out, _ stride: Int) -> Void

  /// y = SiLU(x) = x·g with g = 1/(1 + e^−x); `slope`, which may be x, is the derivative g + y·(1 − g).
  public let siluForward: @Sendable (_ x: In, _ count: Int, _ y: Out, _ slope: Out) -> Void
  /// dy ← dy·slope, the gradient of x; its sum over the rows is that of a bias.
  public let siluBackward: @Sendable (_ dy: Out, _ slope: In, _ rows: Int, _ width: Int, _ gradBias: Out) -> Void
  /// sum += the sum over the rows.
  public let addColumnSums: @Sendable (_ x: In, _ rows: Int, _ width: Int, _ sum: Out) -> Void

  /// y = n·(1 + scale) + shift with n = (x − mean)·rstd: layer norm without weights of its own, ε = 1e-6, modulated.
  public let normForward:
    @Sendable (
      _ x: In, _ rows: Int, _ width: Int, _ modulation: ModulationTable, _ shift: Int, _ scale: Int, _ y: Out,
      _ mean: Out, _ rstd: Out
    ) -> Void
  /// dx += the gradient of x for dy, and the gradients of shift and scale.
  ///
  /// With dn = dy·(1 + scale): dx = rstd·(dn − mean(dn) − n·mean(dn·n)).
  public let normBackward:
    @Sendable (
      _ dy: In, _ x: In, _ mean: In, _ rstd: In, _ rows: Int, _ width: Int, _ modulation: ModulationTable,
      _ gradModulation: ModulationTable, _ shift: Int, _ scale: Int, _ dx: Out
    ) -> Void
  /// y = x + gate·z; y may be x.
  public let gateForward:
    @Sendable (
      _ z: In, _ x: In, _ rows: Int, _ width: Int, _ modulation: ModulationTable, _ gate: Int, _ y: Out
    ) -> Void
  /// dz = dy·gate; its sum over the rows is the gradient of a bias; and that of gate.
  public let gateBackward:
    @Sendable (
      _ dy: In, _ z: In, _ rows: Int, _ width: Int, _ modulation: ModulationTable, _ gradModulation: ModulationTable,
      _ gate: Int, _ dz: Out, _ gradBias: Out
    ) -> Void

  /// y += x
  public let add: @Sendable (_ x: In, _ y: Out, _ count: Int) -> Void
  /// Σ x², of as few numbers that their type holds the sum.
  public let squares: @Sendable (_ x: In, _ count: Int) -> Double

  public init(
    product: (@Sendable (Int, Int, Int, In, Int, Int, In, Bool, In?, Out, Bool) -> Void)?,
    panel: Int,
    transpose: @Sendable @escaping (In, Int, Int, Out, Int) -> Void,
    siluForward: @Sendable @escaping (In, Int, Out, Out) -> Void,
    siluBackward: @Sendable @escaping (Out, In, Int, Int, Out) -> Void,
    addColumnSums: @Sendable @escaping (In, Int, Int, Out) -> Void,
    normForward: @Sendable @escaping (In, Int, Int, ModulationTable, Int, Int, Out, Out, Out) -> Void,
    normBackward:
      @Sendable @escaping (
        In, In, In, In, Int, Int, ModulationTable, ModulationTable, Int, Int, Out
      ) -> Void,
    gateForward: @Sendable @escaping (In, In, Int, Int, ModulationTable, Int, Out) -> Void,
    gateBackward: @Sendable @escaping (In, In, Int, Int, ModulationTable, ModulationTable, Int, Out, Out) -> Void,
    add: @Sendable @escaping (In, Out, Int) -> Void,
    squares: @Sendable @escaping (In, Int) -> Double
  ) {
    self.product = product
    self.panel = panel
    self.transpose = transpose
    self.siluForward = siluForward
    self.siluBackward = siluBackward
    self.addColumnSums = addColumnSums
    self.normForward = normForward
    self.normBackward = normBackward
    self.gateForward = gateForward
    self.gateBackward = gateBackward
    self.add = add
    self.squares = squares
  }
}

/// What the columns of a product are a multiple of.
public let productColumns = 64

/// For each type of number, and the steps of the optimiser, which has f32 alone.
public struct NetworkKernelSet: Sendable {
  public typealias In = UnsafeRawPointer
  public typealias Out = UnsafeMutableRawPointer

  public let float32, float64: NetworkKernels
  /// The weights w and moments m, v after a step with gradients g, into w', m', v', which may be w, m, v.
  public let adamW:
    @Sendable (
      _ f: AdamWFactors, _ g: In, _ w: In, _ m: In, _ v: In, _ newW: Out, _ newM: Out, _ newV: Out, _ count: Int
    ) -> Void
  /// average' = average + share·(w − average), which may be average.
  public let average: @Sendable (_ share: Float, _ w: In, _ average: In, _ newAverage: Out, _ count: Int) -> Void

  public init(
    float32: NetworkKernels, float64: NetworkKernels,
    adamW: @Sendable @escaping (AdamWFactors, In, In, In, In, Out, Out, Out, Int) -> Void,
    average: @Sendable @escaping (Float, In, In, Out, Int) -> Void
  ) {
    self.float32 = float32
    self.float64 = float64
    self.adamW = adamW
    self.average = average
  }
}
