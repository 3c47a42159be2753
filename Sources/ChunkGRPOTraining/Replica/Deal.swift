import ChunkGRPO

/// The prompts of an iteration on all ranks: they are dealt out like cards. With R ranks, prompt n of all is number n / R of
/// rank n mod R; a rank that has no more is passed over. So each optimiser step, which takes the next prompts of all, has as
/// many of each rank as can be.
struct Deal {
  /// Prompts of all ranks.
  let count: Int
  /// Of each prompt of this rank its number among all.
  private let numbers: Buffer<Int>?

  /// All are this process's.
  init(alone count: Int) { (self.count, numbers) = (count, nil) }

  /// - Parameter counts: prompts of each rank.
  init(rank: Int, of ranks: Int, counts: (Int) -> Int) throws {
    count = (0..<ranks).reduce(0) { $0 &+ counts($1) }
    let own = try Buffer<Int>(count: counts(rank), for: "the numbers of \(counts(rank)) prompts")
    for i in 0..<own.count {
      var before = 0
      for r in 0..<ranks { before += min(counts(r), r < rank ? i + 1 : i) }
      own[i] = before
    }
    numbers = own
  }

  func number(_ prompt: Int) -> Int { numbers?[prompt] ?? prompt }

  /// This rank's of the prompts with these numbers.
  func own(_ wanted: Range<Int>) -> Range<Int> {
    guard let numbers else { return wanted }
    // They grow.
    func first(from bound: Int) -> Int {
      var (low, high) = (0, numbers.count)
      while low < high {
        let middle = (low + high) / 2
        if numbers[middle] < bound { low = middle + 1 } else { high = middle }
      }
      return low
    }
    return first(from: wanted.lowerBound)..<first(from: wanted.upperBound)
  }
}
