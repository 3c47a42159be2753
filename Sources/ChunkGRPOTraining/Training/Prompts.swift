import ChunkGRPO

/// The rows of conditions, with equal ones found: the network computes their context once.
struct Prompts {
  /// The rows of `conditions` that are different from all before them.
  let distinct: [Int]
  /// For each row, its place in `distinct`.
  let index: [Int]
  private let conditions: UnsafeBufferPointer<Float>
  private let size: Int

  /// - Parameter conditions: (rows, size); must outlive this.
  init(_ conditions: UnsafeBufferPointer<Float>, size: Int) {
    self.conditions = conditions
    self.size = size
    let row = { conditions[$0 * size..<($0 + 1) * size].lazy.map(\.bitPattern) }
    var distinct: [Int] = []
    var index: [Int] = []
    var byHash: [UInt64: [Int]] = [:]
    for r in 0..<conditions.count / size {
      let hash = fnv1a(row(r))
      if let known = byHash[hash]?.first(where: { row(distinct[$0]).elementsEqual(row(r)) }) {
        index.append(known)
      } else {
        byHash[hash, default: []].append(distinct.count)
        index.append(distinct.count)
        distinct.append(r)
      }
    }
    self.distinct = distinct
    self.index = index
  }

  /// Copies distinct condition `number` to `destination`.
  func copy(_ number: Int, to destination: UnsafeMutablePointer<Float>) {
    guard let base = conditions.baseAddress else { return }
    destination.update(from: base + distinct[number] &* size, count: size)
  }
}

/// Numbers `values` from 0 in the order of their first appearance.
///
/// - Returns: for each value its number, and the value of each number.
func numbered(_ values: some Sequence<Int>) -> (numbers: [Int32], values: [Int]) {
  var numbers: [Int: Int32] = [:]
  var distinct: [Int] = []
  let result = values.map { value -> Int32 in
    if let number = numbers[value] { return number }
    let number = Int32(truncatingIfNeeded: distinct.count)
    numbers[value] = number
    distinct.append(value)
    return number
  }
  return (result, distinct)
}
