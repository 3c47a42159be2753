import ChunkGRPO

/// A value that a checkpoint holds as text: safetensors files have no other metadata.
protocol TextValue {
  var text: String { get }
  /// Nil where `text` is none that the property gives.
  init?(text: String)
}

/// One property of `Root` under the name that it has in a checkpoint.
package struct TextField<Root> {
  package let name: String
  /// Nil where the checkpoint leaves the property out.
  package let text: (Root) -> String?
  /// Sets the property; false where the text is no such value.
  package let read: (_ text: String, _ root: inout Root) -> Bool
  let isOptional: Bool

  init<Value: TextValue>(_ name: String, _ path: WritableKeyPath<Root, Value>) {
    self.name = name
    text = { $0[keyPath: path].text }
    read = {
      guard let value = Value(text: $0) else { return false }
      $1[keyPath: path] = value
      return true
    }
    isOptional = false
  }

  /// A property that checkpoints leave out where it is `omitted`, its default: those of earlier versions lack it.
  init<Value: TextValue & Equatable>(_ name: String, _ path: WritableKeyPath<Root, Value>, unless omitted: Value) {
    let field = TextField(name, path)
    self.name = name
    text = { $0[keyPath: path] == omitted ? nil : field.text($0) }
    read = { field.read($0, &$1) && $1[keyPath: path] != omitted }
    isOptional = true
  }
}

extension TextValue where Self: LosslessStringConvertible {
  var text: String { description }
  init?(text: String) { self.init(text) }
}

extension Int: TextValue {
  /// No option and no counter is negative, or near where counting on would overflow.
  init?(text: String) {
    guard let value = Int(text), (0...1 << 53).contains(value) else { return nil }
    self = value
  }
}

extension UInt64: TextValue {}
extension Bool: TextValue {}

extension Double: TextValue {
  /// NaN is no option, and a number that only overflows to infinity is not what was written.
  init?(text: String) {
    guard let value = Double(text), !value.isNaN, value.isFinite || text == value.text else { return nil }
    self = value
  }
}

/// The numbers of `cgrpo_dynamics` and `cgrpo_divergence`.
extension TextValue where Self: RawRepresentable<Int32> {
  var text: String { rawValue.description }
  init?(text: String) {
    guard let value = Int32(text).flatMap(Self.init) else { return nil }
    self = value
  }
}

extension Dynamics: TextValue {}
extension Divergence: TextValue {}

extension [Int]?: TextValue {
  /// Such as "2,3,4,7"; "default" where there are none.
  var text: String { self?.map(\.description).joined(separator: ",") ?? "default" }
  init?(text: String) {
    if text == "default" {
      self = nil
      return
    }
    let parts = text.split(separator: ",", omittingEmptySubsequences: false)
    let values = parts.compactMap { Int(text: String($0)) }
    guard values.count == parts.count else { return nil }
    self = values
  }
}
