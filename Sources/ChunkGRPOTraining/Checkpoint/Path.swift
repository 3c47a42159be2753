import ChunkGRPO
internal import Platform

/// The path of a file: bytes, as the file system has them, which need be no UTF-8.
package struct Path: CustomStringConvertible {
  /// Ended by a zero.
  let bytes: [CChar]

  package init(copying text: UnsafePointer<CChar>) {
    bytes = Array(UnsafeBufferPointer(start: text, count: strlen(text) + 1))
  }

  /// - Throws: `.invalidArgument` where a zero would cut the path off.
  init(_ text: String) throws {
    bytes = Array(text.utf8CString)
    try require(bytes.firstIndex(of: 0) == bytes.count - 1, "the path \(text) holds a zero byte")
  }

  private init(bytes: [CChar]) { self.bytes = bytes }

  func appending(_ text: String) -> Path { Path(bytes: bytes.dropLast() + Array(text.utf8CString)) }

  package var description: String { String(decoding: bytes.dropLast().map { UInt8(bitPattern: $0) }, as: UTF8.self) }
}
