/// Columns of a product are a multiple of this.
public let productColumns = 64

/// The loops of the embedded network over rows of `width` numbers, for one type of number and one instruction set; see
/// `CKernelTable` for their arguments. Gradients of shared parameters accumulate (+=).
public protocol NetworkKernels: SendableMetatype {
  typealias In = UnsafeRawPointer
  typealias Out = UnsafeMutableRawPointer

  /// Whether there is a `product`: for f32 where there is a fused multiply-add.
  static var hasProduct: Bool { get }
  static func product(_ arguments: UnsafePointer<ProductArguments>)
  /// Columns of B that a product takes at a time.
  static var panel: Int { get }
  /// x (rows, columns) to y (columns, rows), of which a row is `stride` after the one before it.
  static func transpose(_ x: In, rows: Int, columns: Int, into y: Out, stride: Int)

  /// y = SiLU(x) = x·g with g = 1/(1 + e^−x); `slope`, which may be x, is the derivative g + y·(1 − g).
  static func siluForward(_ x: In, count: Int, into y: Out, slope: Out)
  /// dy ← dy·slope, the gradient of x; its sum over the rows is that of a bias.
  static func siluBackward(_ dy: Out, slope: In, rows: Int, width: Int, gradBias: Out)
  /// sum += the sum over the rows.
  static func addColumnSums(_ x: In, rows: Int, width: Int, to sum: Out)

  static func normForward(_ arguments: UnsafePointer<NormArguments>)
  static func normBackward(_ arguments: UnsafePointer<NormGradientArguments>)
  static func gateForward(_ arguments: UnsafePointer<GateArguments>)
  static func gateBackward(_ arguments: UnsafePointer<GateGradientArguments>)

  /// y += x
  static func add(_ x: In, to y: Out, count: Int)
  /// Σ x². Call it on blocks small enough not to overflow f32.
  static func squares(_ x: In, count: Int) -> Double
}
