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
    try require(rows < 1 << 31, "\(rows) conditions are more than 2^31 - 1")
    let index = try Buffer<Int32>(count: rows, for: "the numbers of \(rows) conditions")
    let firstRow = try Buffer<Int32>(count: rows, for: "the numbers of \(rows) conditions")
    // Open addressing; a place holds a row + 1, or 0. Half of them stay free.
    let places = 2 << (Int.bitWidth - rows.leadingZeroBitCount)
    let table = try Buffer<Int32>(count: places, for: "a table of \(rows) conditions")
    var distinct: Int32 = 0
    for row in 0..<rows {
      var place = Int(truncatingIfNeeded: Self.hash(conditions, row, size)) & (places - 1)
      while table.values[place] != 0, !Self.equal(conditions, row, Int(table.values[place]) - 1, size) {
        place = (place + 1) & (places - 1)
      }
      if table.values[place] == 0 {
        table.values[place] = Int32(truncatingIfNeeded: row + 1)
        firstRow.values[Int(distinct)] = Int32(truncatingIfNeeded: row)
        index.values[row] = distinct
        distinct += 1
      } else {
        index.values[row] = index.values[Int(table.values[place]) - 1]
      }
    }
    self.index = Numbers(index)
    self.firstRow = Numbers(firstRow)
  }

  /// Copies distinct condition `number` to `destination`.
  func copy(_ number: Int32, to destination: UnsafeMutablePointer<Float>) {
    let start = Int(firstRow[Int(number)]) &* size
    for i in 0..<size { destination[i] = conditions[start &+ i] }
  }

  private static func hash(_ conditions: UnsafeBufferPointer<Float>, _ row: Int, _ size: Int) -> UInt64 {
    let hash = fnv1a(conditions[row &* size..<(row &+ 1) &* size].lazy.map(\.bitPattern))
    return hash ^ hash >> 32  // the low bits of a product know nothing of the high ones
  }

  /// Equal bit for bit.
  private static func equal(_ conditions: UnsafeBufferPointer<Float>, _ a: Int, _ b: Int, _ size: Int) -> Bool {
    guard let base = conditions.baseAddress else { return true }
    return memcmp(base + a &* size, base + b &* size, 4 &* size) == 0
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
