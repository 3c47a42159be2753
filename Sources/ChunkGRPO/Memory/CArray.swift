/// A copy of numbers at an address that stays, for C.
package final class CArray<T: BitwiseCopyable> {
  private let values: UnsafeMutableBufferPointer<T>

  package init(_ values: [T]) {
    self.values = .allocate(capacity: values.count)
    _ = self.values.initialize(fromContentsOf: values)
  }

  deinit { values.deallocate() }

  /// Not nil where there are none.
  package var start: UnsafePointer<T>? { UnsafePointer(values.baseAddress) }

  package var count: Int64 { Int64(values.count) }
  /// nil where there are none.
  package var pointer: UnsafePointer<T>? { values.isEmpty ? nil : UnsafePointer(values.baseAddress) }
}
