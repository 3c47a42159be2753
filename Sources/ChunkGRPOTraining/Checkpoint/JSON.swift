import ChunkGRPO

/// The JSON of a safetensors header: objects, arrays, strings without escapes and whole numbers. A value is the bytes that
/// it has in the header, whose memory outlives it: a header may have thousands, and none takes memory of its own.
package struct JSON {
  package typealias Bytes = UnsafeBufferPointer<UInt8>
  /// Without spaces before or after.
  private let bytes: Bytes

  /// Nil where `bytes` are no such JSON, nest deeper or have longer arrays than any header.
  package init?(parsing bytes: Bytes) {
    var reader = Reader(bytes)
    guard let value = reader.value(depth: 0), reader.isAtEnd else { return nil }
    self = value
  }

  fileprivate init(_ bytes: Bytes) { self.bytes = bytes }

  /// The characters of a string.
  package var string: Bytes? {
    bytes.first == UInt8(ascii: "\"") ? Bytes(rebasing: bytes[1..<bytes.count - 1]) : nil
  }

  package var int: Int? { Reader.int(bytes) }

  /// The whole numbers of an array that has nothing else.
  package var ints: [Int]? {
    guard bytes.first == UInt8(ascii: "[") else { return nil }
    var (reader, result, isRight) = (Reader(bytes), [Int](), true)
    _ = reader.values(depth: 0) {
      if let value = $0.int { result.append(value) } else { isRight = false }
    }
    return isRight ? result : nil
  }

  /// The members of an object; nil where this is none, or names one twice.
  package func object() throws -> JSONObject? {
    bytes.first == UInt8(ascii: "{") ? try JSONObject { Reader(bytes).forEachMember($0) } : nil
  }
}

/// The members of an object, found by their names.
package struct JSONObject {
  private struct Member: BitwiseCopyable {
    let name: UnsafePointer<UInt8>?
    let nameCount: Int
    let value: UnsafePointer<UInt8>?
    let valueCount: Int
  }

  private let members: Buffer<Member>
  /// Open addressing; a place holds a member + 1, or 0. Half of them stay free.
  private let table: Buffer<Int32>

  package var count: Int { members.count }

  /// - Parameter forEach: calls what it gets with name and value of each member.
  fileprivate init?(_ forEach: ((JSON.Bytes, JSON.Bytes) -> Void) -> Void) throws {
    var count = 0
    forEach { _, _ in count += 1 }
    members = try Buffer(count: count, for: "the header of a checkpoint")
    table = try Buffer(
      count: 2 << (Int.bitWidth - count.leadingZeroBitCount), for: "the header of a checkpoint")
    var (number, isRight) = (0, true)
    forEach { [members, table] name, value in
      members[number] = Member(
        name: name.baseAddress, nameCount: name.count, value: value.baseAddress, valueCount: value.count)
      let place = Self.place(name, members, table)
      isRight = isRight && table[place] == 0
      number += 1
      table[place] = Int32(truncatingIfNeeded: number)
    }
    if !isRight { return nil }
  }

  package func name(_ number: Int) -> JSON.Bytes {
    JSON.Bytes(start: members[number].name, count: members[number].nameCount)
  }

  package func value(_ number: Int) -> JSON {
    JSON(JSON.Bytes(start: members[number].value, count: members[number].valueCount))
  }

  package subscript(name: String) -> JSON? {
    var name = name
    let found = name.withUTF8 { table[Self.place($0, members, table)] }
    return found == 0 ? nil : value(Int(found) - 1)
  }

  /// Where the member of this name is, or would be.
  private static func place(_ name: JSON.Bytes, _ members: Buffer<Member>, _ table: Buffer<Int32>) -> Int {
    let hash = fnv1a(name)
    var place = Int(truncatingIfNeeded: hash ^ hash >> 32) & (table.count - 1)
    while table[place] != 0 {
      let member = members[Int(table[place]) - 1]
      if JSON.Bytes(start: member.name, count: member.nameCount).elementsEqual(name) { break }
      place = (place + 1) & (table.count - 1)
    }
    return place
  }
}

private struct Reader {
  private let bytes: JSON.Bytes
  private var position = 0

  init(_ bytes: JSON.Bytes) { self.bytes = bytes }

  private var next: UInt8? { position < bytes.count ? bytes[position] : nil }

  var isAtEnd: Bool {
    mutating get {
      skipSpace()
      return position == bytes.count
    }
  }

  private mutating func skipSpace() {
    while let byte = next, byte == 0x20 || byte == 0x09 || byte == 0x0a || byte == 0x0d { position += 1 }
  }

  private mutating func take(_ byte: Unicode.Scalar) -> Bool {
    skipSpace()
    guard let next, UInt32(next) == byte.value else { return false }
    position += 1
    return true
  }

  mutating func value(depth: Int) -> JSON? {
    skipSpace()
    let start = position
    guard depth < 8, let next else { return nil }
    let isRight =
      switch next {
      case UInt8(ascii: "{"): members(depth: depth) { _, _ in }
      case UInt8(ascii: "["): values(depth: depth) { _ in }
      case UInt8(ascii: "\""): string() != nil
      default: int()
      }
    return isRight ? JSON(JSON.Bytes(rebasing: bytes[start..<position])) : nil
  }

  /// Those of an object that was parsed before.
  func forEachMember(_ body: (JSON.Bytes, JSON.Bytes) -> Void) {
    var reader = self
    _ = reader.members(depth: 0, body)
  }

  private mutating func members(depth: Int, _ body: (JSON.Bytes, JSON.Bytes) -> Void) -> Bool {
    guard take("{") else { return false }
    if take("}") { return true }
    repeat {
      skipSpace()
      guard let name = string(), take(":") else { return false }
      skipSpace()
      let start = position
      guard value(depth: depth + 1) != nil else { return false }
      body(name, JSON.Bytes(rebasing: bytes[start..<position]))
    } while take(",")
    return take("}")
  }

  mutating func values(depth: Int, _ body: (JSON) -> Void) -> Bool {
    guard take("[") else { return false }
    if take("]") { return true }
    var count = 0
    repeat {
      guard count < 8, let value = value(depth: depth + 1) else { return false }
      body(value)
      count += 1
    } while take(",")
    return take("]")
  }

  private mutating func int() -> Bool {
    let start = position
    while let next, next == UInt8(ascii: "-") || (UInt8(ascii: "0")...UInt8(ascii: "9")).contains(next) {
      position += 1
    }
    return Self.int(JSON.Bytes(rebasing: bytes[start..<position])) != nil
  }

  static func int(_ bytes: JSON.Bytes) -> Int? {
    bytes.count <= 20 ? Int(String(decoding: bytes, as: UTF8.self)) : nil
  }

  private mutating func string() -> JSON.Bytes? {
    guard take("\""), let end = bytes[position...].firstIndex(of: UInt8(ascii: "\"")) else { return nil }
    let text = JSON.Bytes(rebasing: bytes[position..<end])
    position = end + 1
    return text.contains { $0 < 0x20 || $0 == UInt8(ascii: "\\") } || !isUTF8(text) ? nil : text
  }
}

private func isUTF8(_ bytes: JSON.Bytes) -> Bool {
  var (decoder, iterator) = (UTF8(), bytes.makeIterator())
  while true {
    switch decoder.decode(&iterator) {
    case .scalarValue: continue
    case .emptyInput: return true
    case .error: return false
    }
  }
}
