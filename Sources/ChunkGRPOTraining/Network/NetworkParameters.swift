/// The parameters of a pass, borrowed from their owner.
package struct NetworkParameters<Scalar: NetworkScalar> {
  /// Laid out by `NetworkShape.tensors`.
  package let values: UnsafePointer<Scalar>
  /// Each weight as `NetworkShape.transpose` writes it, or nil. A pass is faster with it; it pays from some passes on.
  package let transposed: UnsafePointer<Scalar>?

  package init(_ values: UnsafePointer<Scalar>, transposed: UnsafePointer<Scalar>? = nil) {
    self.values = values
    self.transposed = transposed
  }
}
