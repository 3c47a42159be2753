/// The samples of a batch by their groups: consecutive runs of one size, or those of an id.
struct Groups {
  private let count, size: Int
  private let ids: Numbers<Int>?
  /// The samples by their groups' ids; nil where groups are runs of `size`.
  private let order: Buffer<Placed<Int>>?

  init(count: Int, _ o: AdvantageOptions) throws {
    self.count = count
    size = o.groupSize ?? count
    ids = o.groupIDs
    if let ids = o.groupIDs {
      try require(ids.count == count, "group_ids: \(ids.count) of them for \(count) rewards")
      order = try sorted(count: count, for: "groups") { ids[$0] }
    } else {
      try require(size >= 1 && count % size == 0, "group_size = \(size) does not divide the \(count) rewards")
      order = nil
    }
  }

  func sample(_ place: Int) -> Int { order?[place].index ?? place }

  func id(ofSample sample: Int) -> Int { ids?[sample] ?? sample / size }

  /// The places of each group.
  func forEach(_ body: (Range<Int>) throws -> Void) rethrows {
    var start = 0
    while start < count {
      let next = end(ofGroupAt: start)
      try body(start..<next)
      start = next
    }
  }

  private func end(ofGroupAt start: Int) -> Int {
    guard let order else { return start + size }
    var end = start + 1
    while end < count && order[end].key == order[start].key { end += 1 }
    return end
  }
}
