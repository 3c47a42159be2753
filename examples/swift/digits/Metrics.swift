import DemoSupport

/// metrics.jsonl: a JSON object per line, each with its phase.
struct Metrics {
  private let path: String
  private var text = ""

  init(path: String) { self.path = path }

  /// The metrics of an earlier run, up to and with an iteration of Chunk-GRPO.
  init(path: String, upTo iterations: Int) throws {
    self.init(path: path)
    let lines = String(decoding: try readFile(path), as: UTF8.self).split(separator: "\n")
    for line in lines {
      let iteration = Self.number("iteration", in: line) ?? 0
      if iteration <= Double(iterations) && !line.contains("\"after\"") { text += line + "\n" }
    }
  }

  /// The mean rewards so far.
  var rewards: [Double] { text.split(separator: "\n").compactMap { Self.number("reward", in: $0) } }

  mutating func add(_ phase: String, _ values: KeyValuePairs<String, Double>) {
    let members = values.map { "\"\($0.key)\": \($0.value.isFinite ? Self.text($0.value) : "null")" }
    text += "{\"phase\": \"\(phase)\", \(members.joined(separator: ", "))}\n"
  }

  func save() throws { try writeFile(path, Array(text.utf8)) }

  private static func text(_ value: Double) -> String {
    Int(exactly: value).map { "\($0)" } ?? "\(value)"
  }

  /// The number behind `"name": ` in a line that this type wrote.
  private static func number(_ name: String, in line: Substring) -> Double? {
    guard let key = line.firstRange(of: "\"\(name)\": ") else { return nil }
    return Double(line[key.upperBound...].prefix { $0 != "," && $0 != "}" })
  }
}
