import ChunkGRPOTraining
import Testing

@Suite("JSON")
struct JSONTests {
  /// A value and the memory that it lies in.
  private final class Parsed {
    let value: JSON?
    private let bytes: UnsafeMutableBufferPointer<UInt8>

    init(_ bytes: some Collection<UInt8>) {
      self.bytes = .allocate(capacity: bytes.count)
      _ = self.bytes.initialize(from: bytes)
      value = JSON(parsing: UnsafeBufferPointer(self.bytes))
    }

    deinit { bytes.deallocate() }
  }

  private func text(_ bytes: JSON.Bytes?) -> String? { bytes.map { String(decoding: $0, as: UTF8.self) } }

  @Test("Objects, arrays, strings and whole numbers are read")
  func values() throws {
    let parsed = Parsed(#" {"a" : [1, -2] , "b":{"c":"d"}, "e":[], "f":{}, "n":{"a":{}}} "#.utf8)
    try withExtendedLifetime(parsed) {
      let object = try #require(try parsed.value?.object())
      #expect((0..<object.count).map { text(object.name($0)) } == ["a", "b", "e", "f", "n"])
      #expect(object["a"]?.ints == [1, -2] && object["e"]?.ints == [] && object["b"]?.ints == nil)
      #expect(try text(object["b"]?.object()?["c"]?.string) == "d")
      #expect(try object["f"]?.object()?.count == 0 && object["a"]?.object()?.count == nil)
      #expect(try object["n"]?.object()?["a"]?.object()?.count == 0)
      #expect(object["c"]?.string == nil && object["a"]?.string == nil)
    }
    for (json, wanted) in [("\"a/é\"", "a/é"), ("\"\"", "")] {
      let parsed = Parsed(json.utf8)
      withExtendedLifetime(parsed) { #expect(text(parsed.value?.string) == wanted) }
    }
    for (json, wanted) in [("[1,2]", [1, 2]), ("[1,\"2\"]", nil), ("[]", []), ("[[1],2]", nil)] as [(String, [Int]?)] {
      let parsed = Parsed(json.utf8)
      withExtendedLifetime(parsed) { #expect(parsed.value?.ints == wanted) }
    }
    let largest = Parsed("9223372036854775807".utf8)
    withExtendedLifetime(largest) { #expect(largest.value?.int == .max) }
  }

  @Test("Members are found by name among thousands, whatever their order")
  func manyMembers() throws {
    let names = (0..<5000).map { "tensor.\($0 * 7919 % 5000).weight" }
    let parsed = Parsed("{\(names.enumerated().map { "\"\($1)\":\($0)" }.joined(separator: ","))}".utf8)
    try withExtendedLifetime(parsed) {
      let object = try #require(try parsed.value?.object())
      #expect(names.indices.allSatisfy { object[names[$0]]?.int == $0 })
      #expect(object["tensor.5000.weight"]?.int == nil && object[""]?.int == nil)
    }
  }

  @Test(
    "Anything else is refused",
    arguments: [
      "", " ", "{", "[", "\"", "{\"a\"}", "{\"a\":}", "{\"a\":1,}", "[1,]", "[1 2]", "1 2", "1.5", "1e3", "-", "1-2",
      "9223372036854775808", "true", "null", "'a'", "\"\\n\"", "\"\\\"", "\"a\nb\"",
      "{1:2}", "{\"a\":1}}", "[1,\u{c}2]", "\u{b}[]", "[]\u{a0}",
    ])
  func refusals(text: String) { #expect(Parsed(text.utf8).value == nil) }

  @Test("An object that names a member twice is none")
  func twice() throws {
    let parsed = Parsed("{\"a\":1,\"b\":2,\"a\":1}".utf8)
    let object = try parsed.value?.object()
    withExtendedLifetime(parsed) { #expect(parsed.value != nil && object == nil) }
  }

  @Test("Depth and bytes that are no UTF-8 are refused")
  func hostile() {
    #expect(Parsed(String(repeating: "[", count: 100_000).utf8).value == nil)
    #expect(Parsed(String(repeating: "{\"a\":", count: 100_000).utf8).value == nil)
    #expect(Parsed([0x22, 0xff, 0x22]).value == nil)
    #expect(Parsed(("[" + String(repeating: "0,", count: 100_000) + "0]").utf8).value == nil)
  }
}
