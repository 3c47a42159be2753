import ChunkGRPO
internal import Platform

/// The rows of conditions, with equal ones found: the network computes their context once.
struct Prompts {
  /// For each row of the conditions its place among the distinct ones.
  let index: [Int32]
  private let distinct: [Row]

  /// - Parameter conditions: (rows, size); must outlive this.
  init(_ conditions: UnsafeBufferPointer<Float>, size: Int) {
    let rows = conditions.baseAddress.map { base in
      (0..<conditions.count / size).map { Row(base: base + $0 &* size, size: size) }
    }
    (index, distinct) = numbered(rows ?? [])
  }

  /// Copies distinct condition `number` to `destination`.
  func copy(_ number: Int32, to destination: UnsafeMutablePointer<Float>) {
    let row = distinct[Int(number)]
    destination.update(from: row.base, count: row.size)
  }

  /// Equal bit for bit.
  private struct Row: Hashable {
    let base: UnsafePointer<Float>
    let size: Int

    static func == (a: Row, b: Row) -> Bool { memcmp(a.base, b.base, 4 &* a.size) == 0 }

    func hash(into hasher: inout Hasher) {
      hasher.combine(bytes: UnsafeRawBufferPointer(start: base, count: 4 &* size))
    }
  }
}

/// Numbers `values` from 0 in the order of their first appearance.
///
/// - Returns: for each value its number, and the value of each number.
func numbered<Value: Hashable>(_ values: some Sequence<Value>) -> (numbers: [Int32], values: [Value]) {
  var numbers: [Value: Int32] = [:]
  var distinct: [Value] = []
  let result = values.map { value -> Int32 in
    if let number = numbers[value] { return number }
    let number = Int32(truncatingIfNeeded: distinct.count)
    numbers[value] = number
    distinct.append(value)
    return number
  }
  return (result, distinct)
}
