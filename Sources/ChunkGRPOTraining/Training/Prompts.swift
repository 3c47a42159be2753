import ChunkGRPO
internal import Platform

/// The rows of conditions, with equal ones found: the network computes their context once.
struct Prompts {
  /// For each row of the conditions its place among the distinct ones.
  let index: Numbers<Int32>
  /// The first row of each distinct condition.
  private let firstRow: Numbers<Int32>
  private let conditions: UnsafeBufferPointer<Float>
  private let size: Int

  /// - Parameter conditions: (rows, size); must outlive this.
  init(_ conditions: UnsafeBufferPointer<Float>, size: Int) throws {
    self.conditions = conditions
    self.size = size
    let rows = conditions.count / size
    let numbering = try Numbering(
      count: rows, for: "the numbers of \(rows) conditions",
      hash: { fnv1a(conditions[$0 &* size..<($0 &+ 1) &* size].lazy.map(\.bitPattern)) },
      areEqual: { Self.equal(conditions, $0, $1, size) })
    (index, firstRow) = (numbering.numbers, numbering.firsts)
  }

  /// Copies distinct condition `number` to `destination`.
  func copy(_ number: Int32, to destination: UnsafeMutablePointer<Float>) {
    let start = Int(firstRow[Int(number)]) &* size
    for i in 0..<size { destination[i] = conditions[start &+ i] }
  }

  /// Equal bit for bit.
  private static func equal(_ conditions: UnsafeBufferPointer<Float>, _ a: Int, _ b: Int, _ size: Int) -> Bool {
    guard let base = conditions.baseAddress else { return true }
    return memcmp(base + a &* size, base + b &* size, 4 &* size) == 0
  }
}
