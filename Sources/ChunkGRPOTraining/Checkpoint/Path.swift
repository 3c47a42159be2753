import ChunkGRPO
internal import Platform

/// The path of a file: bytes, as the file system has them, which need be no UTF-8.
package struct Path: CustomStringConvertible {
  private let text: Buffer<CChar>
  /// Ended by a zero; alive as long as this value.
  var bytes: UnsafePointer<CChar> { UnsafePointer(text.base) }

  package init(copying text: UnsafePointer<CChar>) throws {
    self.text = try Buffer(
      copying: UnsafeBufferPointer(start: text, count: strlen(text) + 1), for: "the path of a checkpoint")
  }

  /// - Throws: `.invalidArgument` where a zero would cut the path off.
  init(_ text: String) throws {
    try require(!text.utf8.contains(0), "the path \(text) holds a zero byte")
    self = try text.withCString { try Path(copying: $0) }
  }

  private init(_ text: Buffer<CChar>) { self.text = text }

  func appending(_ suffix: String) throws -> Path {
    let longer = try Buffer<CChar>(count: text.count + suffix.utf8.count, for: "the path of a checkpoint")
    longer.copy(from: text)
    for (i, byte) in suffix.utf8.enumerated() { longer[text.count - 1 + i] = CChar(bitPattern: byte) }
    return Path(longer)
  }

  /// A long one is cut: it is part of a sentence.
  package var description: String {
    let shown = UnsafeBufferPointer(start: text.base, count: min(text.count - 1, 600))
    defer { withExtendedLifetime(text) {} }
    return String(decoding: shown.lazy.map { UInt8(bitPattern: $0) }, as: UTF8.self)
      + (shown.count < text.count - 1 ? "…" : "")
  }
}
