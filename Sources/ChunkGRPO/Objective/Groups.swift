/// The samples of a batch by their groups: consecutive runs of one size, or those of an id.
struct Groups {
  private let count, size: Int
  private let ids: Numbers<Int>?
  /// The samples by their groups' ids; nil where groups are runs of `size`.
  private let order: Buffer<Placed<Int>>?

  init(count: Int, _ o: AdvantageOptions) throws {
    try self.init(count: count, size: o.groupSize, ids: o.groupIDs, of: "rewards")
  }

  /// - Parameter name: what a sample has one of, for messages.
  init(count: Int, size: Int?, ids: Numbers<Int>?, of name: StaticString) throws {
    try require(ids == nil || size == nil, "group_ids and group_size = \(size ?? 0) exclude each other")
    self.count = count
    self.size = size ?? count
    self.ids = ids
    if let ids {
      try require(ids.count == count, "group_ids: \(ids.count) of them for \(count) \(name)")
      order = try sorted(count: count, for: "groups") { ids[$0] }
    } else {
      let size = self.size
      try require(size >= 1 && count % size == 0, "group_size = \(size) does not divide the \(count) \(name)")
      order = nil
    }
  }

  /// The sample at a place of the order in which groups are neighbours.
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
