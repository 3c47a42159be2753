import ChunkGRPOTraining
import Testing

@Suite("JSON")
struct JSONTests {
  private func parsed(_ text: String) -> JSON? { JSON(parsing: Array(text.utf8)) }

  @Test("Objects, arrays, strings and whole numbers are read")
  func values() {
    #expect(
      parsed(#" {"a" : [1, -2] , "b":{"c":"d"}, "e":[], "f":{}} "#)
        == .object([
          "a": .array([.int(1), .int(-2)]), "b": .object(["c": .string("d")]), "e": .array([]), "f": .object([:]),
        ]))
    #expect(parsed("\"a/é\"") == .string("a/é"))
    #expect(parsed("[1,2]")?.ints == [1, 2] && parsed("[1,\"2\"]")?.ints == nil && parsed("[]")?.ints == [])
    #expect(parsed("9223372036854775807") == .int(.max))
  }

  @Test(
    "Anything else is refused",
    arguments: [
      "", " ", "{", "[", "\"", "{\"a\"}", "{\"a\":}", "{\"a\":1,}", "[1,]", "[1 2]", "1 2", "1.5", "1e3", "-", "1-2",
      "9223372036854775808", "true", "null", "'a'", "\"\\n\"", "\"\\\"", "\"a\nb\"",
      "{\"a\":1,\"a\":2}", "{1:2}", "{\"a\":1}}", "[1,\u{c}2]", "\u{b}[]", "[]\u{a0}",
    ])
  func refusals(text: String) { #expect(parsed(text) == nil) }

  @Test("Depth and bytes that are no UTF-8 are refused")
  func hostile() {
    #expect(parsed(String(repeating: "[", count: 100_000)) == nil)
    #expect(parsed(String(repeating: "{\"a\":", count: 100_000)) == nil)
    #expect(JSON(parsing: [0x22, 0xff, 0x22]) == nil)
    #expect(parsed("[" + String(repeating: "0,", count: 100_000) + "0]") == nil)
  }
}
