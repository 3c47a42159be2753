import ChunkGRPO

/// JSON as checkpoints need it: the header of a safetensors file and state.json. Numbers keep their text, for a seed has
/// 64 bits and a `Double` 53.
enum JSON: Equatable {
  case object([Member])
  case array([JSON])
  case string(String)
  case number(String)
  case bool(Bool)
  case null

  struct Member: Equatable {
    let name: String
    let value: JSON
  }

  init(_ value: some BinaryInteger) { self = .number("\(value)") }
  /// Shortest digits that read back as the same number; infinity has no number in JSON and is a string.
  init(_ value: Double) { self = value.isFinite ? .number("\(value)") : .string("\(value)") }

  subscript(name: String) -> JSON? {
    if case .object(let members) = self { return members.first { $0.name == name }?.value }
    return nil
  }

  var int: Int? { if case .number(let text) = self { Int(text) } else { nil } }
  var uint64: UInt64? { if case .number(let text) = self { UInt64(text) } else { nil } }
  var double: Double? {
    switch self {
    case .number(let text), .string(let text): Double(text)
    default: nil
    }
  }
  var string: String? { if case .string(let text) = self { text } else { nil } }
  var bool: Bool? { if case .bool(let value) = self { value } else { nil } }
  var array: [JSON]? { if case .array(let values) = self { values } else { nil } }
  var members: [Member]? { if case .object(let members) = self { members } else { nil } }

  // MARK: Writing

  /// - Parameter indent: nil for one line.
  func text(indent: Int? = nil) -> String {
    let inner = indent.map { $0 + 2 }
    let open = inner.map { "\n" + String(repeating: " ", count: $0) } ?? ""
    let close = indent.map { "\n" + String(repeating: " ", count: $0) } ?? ""
    switch self {
    case .object(let members):
      if members.isEmpty { return "{}" }
      let space = indent == nil ? ":" : ": "
      return "{"
        + members.map { open + JSON.quoted($0.name) + space + $0.value.text(indent: inner) }.joined(separator: ",")
        + close + "}"
    case .array(let values): return "[" + values.map { $0.text() }.joined(separator: indent == nil ? "," : ", ") + "]"
    case .string(let text): return JSON.quoted(text)
    case .number(let text): return text
    case .bool(let value): return value ? "true" : "false"
    case .null: return "null"
    }
  }

  private static func quoted(_ text: String) -> String {
    var result = "\""
    for scalar in text.unicodeScalars {
      switch scalar {
      case "\"": result += "\\\""
      case "\\": result += "\\\\"
      case _ where scalar.value < 0x20:
        let digits = String(scalar.value, radix: 16)
        result += "\\u" + String(repeating: "0", count: 4 - digits.count) + digits
      default: result.unicodeScalars.append(scalar)
      }
    }
    return result + "\""
  }

  // MARK: Reading

  /// Nil for what is no JSON, or nested deeper than any checkpoint.
  init?(parsing bytes: some Collection<UInt8>) {
    guard let text = String(validating: bytes, as: UTF8.self) else { return nil }
    var parser = Parser(Array(text.utf8))
    guard let value = parser.value(depth: 0), parser.isAtEnd else { return nil }
    self = value
  }

  private struct Parser {
    private let bytes: [UInt8]
    private var position = 0

    init(_ bytes: [UInt8]) { self.bytes = bytes }

    private var next: UInt8? { position < bytes.count ? bytes[position] : nil }

    private mutating func skipSpace() {
      while let byte = next, byte == 0x20 || (0x09...0x0d).contains(byte) { position += 1 }
    }

    private mutating func take(_ byte: Character) -> Bool {
      skipSpace()
      guard next == byte.asciiValue else { return false }
      position += 1
      return true
    }

    private mutating func take(word: String) -> Bool {
      guard bytes[position...].starts(with: word.utf8) else { return false }
      position += word.utf8.count
      return true
    }

    var isAtEnd: Bool {
      mutating get {
        skipSpace()
        return position == bytes.count
      }
    }

    mutating func value(depth: Int) -> JSON? {
      skipSpace()
      guard let byte = next, depth < 16 else { return nil }
      switch Character(UnicodeScalar(byte)) {
      case "{": return object(depth)
      case "[": return array(depth)
      case "\"": return string().map { .string($0) }
      case "t": return take(word: "true") ? .bool(true) : nil
      case "f": return take(word: "false") ? .bool(false) : nil
      case "n": return take(word: "null") ? .null : nil
      default: return number()
      }
    }

    private mutating func object(_ depth: Int) -> JSON? {
      var members: [Member] = []
      guard take("{") else { return nil }
      if take("}") { return .object([]) }
      repeat {
        skipSpace()
        guard let name = string(), take(":"), let value = value(depth: depth + 1) else { return nil }
        members.append(Member(name: name, value: value))
      } while take(",")
      return take("}") ? .object(members) : nil
    }

    private mutating func array(_ depth: Int) -> JSON? {
      var values: [JSON] = []
      guard take("[") else { return nil }
      if take("]") { return .array([]) }
      repeat {
        guard let value = value(depth: depth + 1) else { return nil }
        values.append(value)
      } while take(",")
      return take("]") ? .array(values) : nil
    }

    private mutating func string() -> String? {
      guard next == 0x22 else { return nil }
      position += 1
      var text: [UInt8] = []
      while let byte = next {
        position += 1
        switch byte {
        case 0x22: return String(validating: text, as: UTF8.self)
        case 0x5c:
          guard let scalar = escaped() else { return nil }
          text += Array(String(scalar).utf8)
        case 0..<0x20: return nil
        default: text.append(byte)
        }
      }
      return nil
    }

    private mutating func escaped() -> UnicodeScalar? {
      guard let byte = next else { return nil }
      position += 1
      switch Character(UnicodeScalar(byte)) {
      case "\"", "\\", "/": return UnicodeScalar(byte)
      case "b": return "\u{8}"
      case "f": return "\u{c}"
      case "n": return "\n"
      case "r": return "\r"
      case "t": return "\t"
      case "u":
        // Pairs of surrogates name no tensor; a lone one is no character.
        guard position + 4 <= bytes.count,
          let text = String(validating: bytes[position..<position + 4], as: UTF8.self),
          let code = UInt32(text, radix: 16)
        else { return nil }
        position += 4
        return UnicodeScalar(code)
      default: return nil
      }
    }

    private mutating func number() -> JSON? {
      let start = position
      while let byte = next, "+-.0123456789eE".utf8.contains(byte) { position += 1 }
      guard let text = String(validating: bytes[start..<position], as: UTF8.self), Double(text) != nil else {
        return nil
      }
      return .number(text)
    }
  }
}
