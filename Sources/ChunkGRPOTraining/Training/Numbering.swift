import ChunkGRPO

/// Numbers items from 0 in the order of their first appearance; equal ones have one number.
struct Numbering {
  /// Of each item.
  let numbers: Numbers<Int32>
  /// The first item of each number.
  let firsts: Numbers<Int32>

  init(count: Int, for purpose: String, hash: (Int) -> UInt64, areEqual: (Int, Int) -> Bool) throws {
    try require(count < 1 << 31, "\(purpose): \(count) are more than 2^31 - 1")
    let numbers = try Buffer<Int32>(count: count, for: purpose)
    let firsts = try Buffer<Int32>(count: count, for: purpose)
    // Open addressing; a place holds an item + 1, or 0. Half of them stay free.
    let places = 2 << (Int.bitWidth - count.leadingZeroBitCount)
    let table = try Buffer<Int32>(count: places, for: purpose)
    var distinct = 0
    for item in 0..<count {
      let hash = hash(item)
      // The low bits of a product know nothing of the high ones.
      var place = Int(truncatingIfNeeded: hash ^ hash >> 32) & (places - 1)
      while table[place] != 0, !areEqual(item, Int(table[place]) - 1) { place = (place + 1) & (places - 1) }
      if table[place] == 0 {
        table[place] = Int32(truncatingIfNeeded: item + 1)
        firsts[distinct] = Int32(truncatingIfNeeded: item)
        numbers[item] = Int32(truncatingIfNeeded: distinct)
        distinct += 1
      } else {
        numbers[item] = numbers[Int(table[place]) - 1]
      }
    }
    self.numbers = Numbers(numbers)
    self.firsts = Numbers(firsts, count: distinct)
  }

  /// The same of numbers.
  init(count: Int, for purpose: String, _ value: (Int) -> Int32) throws {
    try self.init(
      count: count, for: purpose, hash: { UInt64(truncatingIfNeeded: value($0)) &* 0x9e37_79b9_7f4a_7c15 },
      areEqual: { value($0) == value($1) })
  }
}
