import ChunkGRPO

/// A value that a checkpoint holds as text: safetensors files have no other metadata.
protocol TextValue {
  /// Writes the text in pieces, which are short for any value.
  func write(_ write: (String) throws -> Void) throws
  /// Nil where `text` is none that the property gives.
  static func read(_ text: JSON.Bytes) throws -> Self?
}

/// One property of `Root` under the name that it has in a checkpoint. An object, so that a list of them is small.
package final class TextField<Root> {
  package let name: String
  let write: (_ root: Root, _ write: (String) throws -> Void) throws -> Void
  /// Sets the property; false where the text is no such value.
  let read: (_ text: JSON.Bytes, _ root: inout Root) throws -> Bool
  /// Whether the checkpoint leaves the property out.
  let isOmitted: (Root) -> Bool
  let isOptional: Bool

  init<Value: TextValue>(_ name: String, _ path: WritableKeyPath<Root, Value>) {
    self.name = name
    write = { try $0[keyPath: path].write($1) }
    read = {
      guard let value = try Value.read($0) else { return false }
      $1[keyPath: path] = value
      return true
    }
    (isOmitted, isOptional) = ({ _ in false }, false)
  }

  /// A property that checkpoints leave out where it is `omitted`, its default: those of earlier versions lack it.
  init<Value: TextValue & Equatable>(_ name: String, _ path: WritableKeyPath<Root, Value>, unless omitted: Value) {
    let field = TextField(name, path)
    (self.name, write) = (name, field.write)
    read = { try field.read($0, &$1) && $1[keyPath: path] != omitted }
    (isOmitted, isOptional) = ({ $0[keyPath: path] == omitted }, true)
  }
}

/// A value whose text is short.
protocol ShortText: TextValue {
  var text: String { get }
  init?(text: String)
}

extension ShortText {
  func write(_ write: (String) throws -> Void) throws { try write(text) }

  static func read(_ text: JSON.Bytes) throws -> Self? {
    text.count <= 80 ? Self(text: String(decoding: text, as: UTF8.self)) : nil
  }
}

extension ShortText where Self: LosslessStringConvertible {
  var text: String { description }
  init?(text: String) { self.init(text) }
}

extension Int: ShortText {
  /// No option and no counter is negative, or near where counting on would overflow.
  init?(text: String) {
    guard let value = Int(text), (0...1 << 53).contains(value) else { return nil }
    self = value
  }
}

extension UInt64: ShortText {}
extension Bool: ShortText {}

extension Double: ShortText {
  /// NaN is no option, and a number that only overflows to infinity is not what was written.
  init?(text: String) {
    guard let value = Double(text), !value.isNaN, value.isFinite || text == value.text else { return nil }
    self = value
  }
}

/// The numbers of `cgrpo_dynamics` and `cgrpo_divergence`.
extension ShortText where Self: RawRepresentable<Int32> {
  var text: String { rawValue.description }
  init?(text: String) {
    guard let value = Int32(text).flatMap(Self.init) else { return nil }
    self = value
  }
}

extension Dynamics: ShortText {}
extension Divergence: ShortText {}

/// Numbers that a checkpoint holds as a list.
protocol NumberList: RandomAccessCollection where Element: ShortText & BitwiseCopyable {
  init(_ buffer: Buffer<Element>, count: Int?)
}

extension Numbers: NumberList where Element: ShortText {}

extension Optional: TextValue where Wrapped: NumberList {
  /// Such as "2,3,4,7"; "default" where there are none.
  func write(_ write: (String) throws -> Void) throws {
    guard let self else { return try write("default") }
    for (i, value) in self.enumerated() { try write(i == 0 ? value.text : ",\(value)") }
  }

  static func read(_ text: JSON.Bytes) throws -> Self? {
    if text.elementsEqual("default".utf8) { return .some(nil) }
    let comma = UInt8(ascii: ",")
    let values = try Buffer<Wrapped.Element>(
      count: text.count(where: { $0 == comma }) + 1, for: "the options of a checkpoint")
    var start = 0
    for i in 0..<values.count {
      let end = text[start...].firstIndex(of: comma) ?? text.endIndex
      guard let value = try Wrapped.Element.read(JSON.Bytes(rebasing: text[start..<end])) else { return nil }
      values[i] = value
      start = end + 1
    }
    return .some(Wrapped(values, count: nil))
  }
}
