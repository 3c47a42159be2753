import ChunkGRPO
import Foundation
import Testing

// What the tests of fixtures share.

typealias Object = [String: Any]

func samplerCases(_ file: String, _ kind: (String) -> Bool) throws -> [FixtureCase] {
  try fixtureCases(file).filter { kind($0.kind) }
}

func flat(_ value: Any?) -> [Double] {
  if let number = value as? Double { return [number] }
  return (value as? [Any])?.flatMap { flat($0) } ?? []
}

func batch(_ value: Any?) -> Int { (value as? [Any])?.count ?? 1 }

func expectClose(_ a: [Double], _ b: [Double], _ what: String, tolerance: Double = 1e-12) {
  #expect(a.count == b.count, "\(what)")
  for (x, y) in zip(a, b) { #expect(abs(x - y) < tolerance * max(1, abs(y)), "\(what)") }
}

/// A case of a file of fixtures.
struct FixtureCase {
  let source, kind: String
  let inputs, expected: [String: Any]

  func numbers(_ key: String) -> [Double]? { inputs[key] as? [Double] }
  func flag(_ key: String) -> Bool { inputs[key] as? Bool ?? false }

  /// Group ids of any kind as numbers.
  func ids(_ key: String) -> [Int]? {
    guard let names = (inputs[key] as? [Any])?.map({ "\($0)" }) else { return nil }
    let distinct = Array(Set(names)).sorted()
    return names.map { distinct.firstIndex(of: $0) ?? 0 }
  }
}

func advantageCases(_ source: String) throws -> [FixtureCase] {
  try fixtureCases("advantages.json").filter { $0.source.hasPrefix(source) }
}

func fixtureCases(_ file: String) throws -> [FixtureCase] {
  let json = try JSONSerialization.jsonObject(with: fixture(file)) as? [[String: Any]] ?? []
  return json.compactMap { c in
    guard let kind = c["kind"] as? String, let inputs = c["inputs"] as? [String: Any],
      let expected = c["expected"] as? [String: Any]
    else { return nil }
    return FixtureCase(source: c["source"] as? String ?? "", kind: kind, inputs: inputs, expected: expected)
  }
}

extension [String: Any] {
  func number(_ key: String) -> Double { self[key] as? Double ?? .nan }

  /// An array of any shape, in row-major order.
  func numbers(_ key: String, clamped bound: Double = .infinity) -> [Double] {
    func flat(_ value: Any) -> [Double] {
      if let number = value as? Double { return [Swift.max(-bound, Swift.min(bound, number))] }
      return (value as? [Any] ?? []).flatMap(flat)
    }
    return flat(self[key] ?? [])
  }
}

func close(_ a: Double, _ b: Double, _ tolerance: Double) -> Bool { abs(a - b) <= tolerance * max(1, abs(b)) }

/// A loss within 1e-12, and a gradient within 1e-10 of its largest component.
func meets(
  _ loss: Double, _ gradient: [Double], _ expectedLoss: Double, _ expectedGradient: [Double], _ name: String,
  tolerance: Double = 1e-12, gradient gradientTolerance: Double = 1e-10
) {
  #expect(abs(loss - expectedLoss) <= tolerance * max(abs(expectedLoss), 1e-3), "\(name): \(loss), not \(expectedLoss)")
  #expect(gradient.count == expectedGradient.count && !gradient.isEmpty, "\(name)")
  let largest = expectedGradient.map(abs).max() ?? 0
  for (a, b) in zip(gradient, expectedGradient) {
    #expect(abs(a - b) <= gradientTolerance * largest, "\(name): gradient \(a), not \(b)")
  }
}
