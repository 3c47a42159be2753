import ChunkGRPO

/// Conditions with equal rows told apart once, so that the network computes their context once.
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
    let row = { UnsafeRawBufferPointer(UnsafeBufferPointer(rebasing: conditions[$0 * size..<($0 + 1) * size])) }
    var distinct: [Int] = []
    var index: [Int] = []
    var byHash: [UInt64: [Int]] = [:]
    for r in 0..<conditions.count / size {
      let bytes = row(r)
      let hash = fnv1a(bytes)
      if let known = byHash[hash]?.first(where: { row(distinct[$0]).elementsEqual(bytes) }) {
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
func numbered(_ values: [Int]) -> (numbers: [Int32], values: [Int]) {
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

/// The 64-bit FNV-1a hash.
func fnv1a(_ bytes: UnsafeRawBufferPointer, from start: UInt64 = 0xcbf2_9ce4_8422_2325) -> UInt64 {
  var hash = start
  for byte in bytes { hash = (hash ^ UInt64(byte)) &* 0x0000_0100_0000_01b3 }
  return hash
}
