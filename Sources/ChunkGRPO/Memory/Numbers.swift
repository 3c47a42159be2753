// No optional owner: Swift 6.3.1 took an absent `Numbers?` for a present one.
private final class Nobody: Sendable {}
private let nobody = Nobody()

/// Numbers that a function reads: memory of its own, or the caller's, borrowed for the length of a call. Unlike an array,
/// it never takes memory without an error where there is none.
public struct Numbers<Element: BitwiseCopyable>: RandomAccessCollection, ExpressibleByArrayLiteral {
  private let values: UnsafeBufferPointer<Element>
  /// The holder of the memory; `nobody` where the caller keeps it.
  private let owner: AnyObject

  /// A copy of an array.
  public init(_ array: [Element]) {
    let copy = CArray(array)
    values = UnsafeBufferPointer(start: copy.pointer, count: array.count)
    owner = copy
  }

  public init(arrayLiteral elements: Element...) { self.init(elements) }

  /// The caller's memory, which outlives this value.
  package init(borrowing values: UnsafeBufferPointer<Element>) {
    self.values = values
    owner = nobody
  }

  /// Shares the memory of a buffer, which is not written to any more; `count`: of its first values.
  package init(_ buffer: Buffer<Element>, count: Int? = nil) { self.init(buffer, 0..<(count ?? buffer.count)) }

  /// The same of these values of it.
  package init(_ buffer: Buffer<Element>, _ range: Range<Int>) {
    values = UnsafeBufferPointer(start: buffer.base + range.lowerBound, count: range.count)
    owner = buffer
  }

  /// The same in memory of its own.
  package func owned(for purpose: String) throws -> Numbers {
    if owner !== nobody || isEmpty { return self }
    return Numbers(try Buffer(copying: values, for: purpose))
  }

  /// The address of the first, alive as long as this value; nil where there are none.
  package var pointer: UnsafePointer<Element>? { values.isEmpty ? nil : values.baseAddress }

  public var startIndex: Int { 0 }
  public var endIndex: Int { values.count }
  // Without it, the owner of a value that is not used again may be gone before the memory is read.
  public subscript(index: Int) -> Element {
    defer { withExtendedLifetime(owner) {} }
    return values[index]
  }
}

// Nobody writes to the memory while this value is in use.
extension Numbers: @unchecked Sendable where Element: Sendable {}

extension Numbers: Equatable where Element: Equatable {
  public static func == (a: Numbers, b: Numbers) -> Bool { a.elementsEqual(b) }
}
