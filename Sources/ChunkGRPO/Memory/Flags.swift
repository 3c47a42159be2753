/// Yes or no for each place of a grid, row-major: bytes, of which each but 0 is yes, as C has them.
public struct Flags: RandomAccessCollection, ExpressibleByArrayLiteral, Sendable, Equatable {
  private let bytes: Numbers<UInt8>

  public init(_ flags: some Sequence<Bool>) { bytes = Numbers(flags.map { $0 ? 1 : 0 }) }

  /// Rows of one size.
  public init(rows: [[Bool]]) { self.init(rows.joined()) }

  public init(arrayLiteral elements: Bool...) { self.init(elements) }

  package init(_ bytes: Numbers<UInt8>) { self.bytes = bytes }

  /// The address of the first, alive as long as this value; nil where there are none.
  package var pointer: UnsafePointer<UInt8>? { bytes.pointer }

  public var startIndex: Int { 0 }
  public var endIndex: Int { bytes.count }
  public subscript(index: Int) -> Bool { bytes[index] != 0 }

  public static func == (a: Flags, b: Flags) -> Bool { a.elementsEqual(b) }
}
