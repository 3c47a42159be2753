/// Which samples belong together: consecutive runs, or by id.
struct SampleGroups {
  private let count, size: Int
  private let order: Buffer<Placed<Int>>?

  init(count: Int, size: Int?, ids: Numbers<Int>?) throws {
    try require(ids == nil || size == nil, "group_ids and group_size = \(size ?? 0) exclude each other")
    if let size {
      try require(
        size >= 1 && count % size == 0, "group_size = \(size) does not divide the number of samples, \(count)")
    }
    if let ids { try require(ids.count == count, "group_ids: \(ids.count) of them for \(count) samples") }
    self.count = count
    self.size = size ?? count
    order = try ids.map { ids in try sorted(count: count, for: "groups") { ids[$0] } }
  }

  /// The sample at a place of the order in which groups are neighbours.
  func sample(_ place: Int) -> Int { order?[place].index ?? place }

  /// Calls `body` with the places of each group: by id where there are ids, else in order.
  func each(_ body: (Range<Int>) throws -> Void) rethrows {
    var start = 0
    while start < count {
      var end = start + size
      if let order {
        end = start + 1
        while end < count && order[end].key == order[start].key { end += 1 }
      }
      try body(start..<end)
      start = end
    }
  }
}
