import ChunkGRPO

extension Update {
  /// Of one rank, for the others.
  func write(to ballot: Ballot) {
    ballot.set(0, loss)
    ballot.set(1, referenceDivergence)
    ballot.set(2, Double(stats.selected))
    for (i, path) in Self.numbers.enumerated() { ballot.set(3 + i, stats[keyPath: path]) }
    ballot.set(3 + Self.numbers.count, lastStepDivergence)
  }

  /// Of all ranks, in their order: `chunks` in all.
  init(merging replica: Replica, chunks: Int) throws {
    for r in 0..<replica.ranks {
      var own = ChunkStats()
      own.selected = Int(replica.number(2, of: r))
      for (i, path) in Self.numbers.enumerated() { own[keyPath: path] = replica.number(3 + i, of: r) }
      try stats.merge(own)
      loss += replica.number(0, of: r) * (Double(own.selected) / Double(chunks))
      referenceDivergence += replica.number(1, of: r)
      lastStepDivergence += replica.number(3 + Self.numbers.count, of: r)
    }
  }

  private static var numbers: [WritableKeyPath<ChunkStats, Double>] {
    [
      \.ratioMean, \.ratioStd, \.ratioMin, \.ratioMax, \.clipFractionLow, \.clipFractionHigh, \.approximateKL,
      \.effectiveSampleSize, \.logRatioMax,
    ]
  }
}
