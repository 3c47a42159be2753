/// The JSON of a safetensors header: objects, arrays, strings without escapes and whole numbers.
package enum JSON: Equatable {
  case object([String: JSON])
  case array([JSON])
  case string(String)
  case int(Int)

  package subscript(name: String) -> JSON? { if case .object(let members) = self { members[name] } else { nil } }
  package var string: String? { if case .string(let text) = self { text } else { nil } }
  package var object: [String: JSON]? { if case .object(let members) = self { members } else { nil } }

  /// The whole numbers of an array that has nothing else.
  package var ints: [Int]? {
    guard case .array(let values) = self else { return nil }
    let ints = values.compactMap { if case .int(let value) = $0 { value } else { nil } }
    return ints.count == values.count ? ints : nil
  }

  /// Nil where `bytes` are no such JSON, name a member twice, or nest deeper or have longer arrays than any header.
  package init?(parsing bytes: some Sequence<UInt8>) {
    var parser = Parser(bytes: Array(bytes))
    guard let value = parser.value(depth: 0), parser.isAtEnd else { return nil }
    self = value
  }
}

private struct Parser {
  let bytes: [UInt8]
  private var position = 0

  init(bytes: [UInt8]) { self.bytes = bytes }

  private var next: UInt8? { position < bytes.count ? bytes[position] : nil }

  var isAtEnd: Bool {
    mutating get {
      skipSpace()
      return position == bytes.count
    }
  }

  private mutating func skipSpace() {
    while let byte = next, " \t\n\r".utf8.contains(byte) { position += 1 }
  }

  private mutating func take(_ byte: Unicode.Scalar) -> Bool {
    skipSpace()
    guard let next, UInt32(next) == byte.value else { return false }
    position += 1
    return true
  }

  mutating func value(depth: Int) -> JSON? {
    guard depth < 8 else { return nil }
    if take("{") { return members(depth).map { .object($0) } }
    if take("[") { return values(depth).map { .array($0) } }
    if take("\"") { return string().map { .string($0) } }
    return int().map { .int($0) }
  }

  private mutating func members(_ depth: Int) -> [String: JSON]? {
    var members: [String: JSON] = [:]
    if take("}") { return members }
    repeat {
      guard take("\""), let name = string(), take(":"), let value = value(depth: depth + 1),
        members.updateValue(value, forKey: name) == nil
      else { return nil }
    } while take(",")
    return take("}") ? members : nil
  }

  private mutating func values(_ depth: Int) -> [JSON]? {
    var values: [JSON] = []
    if take("]") { return values }
    repeat {
      guard values.count < 8, let value = value(depth: depth + 1) else { return nil }
      values.append(value)
    } while take(",")
    return take("]") ? values : nil
  }

  private mutating func int() -> Int? {
    let digits = bytes[position...].prefix { "-0123456789".utf8.contains($0) }
    position = digits.endIndex
    return Int(String(decoding: digits, as: UTF8.self))
  }

  /// The rest of a string after its opening quote.
  private mutating func string() -> String? {
    guard let end = bytes[position...].firstIndex(of: UInt8(ascii: "\"")) else { return nil }
    let text = bytes[position..<end]
    position = end + 1
    if text.contains(where: { $0 < 0x20 || $0 == UInt8(ascii: "\\") }) { return nil }
    return String(validating: text, as: UTF8.self)
  }
}
