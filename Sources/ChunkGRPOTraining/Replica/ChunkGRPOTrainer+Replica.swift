import ChunkGRPO

extension ChunkGRPOTrainer {
  /// Makes the trainer one of `ranks` that train one policy: `iterate` and `pretrain` are then called on all of them, and end
  /// with the same parameters on each, those of one trainer that has all prompts, up to the order of sums.
  ///
  /// All ranks call it, with trainers of one state: the same options (`threads` may differ) and seed, or one checkpoint. Each
  /// rank gives `iterate` its prompts: of all, number n belongs to rank n mod `ranks`. Each gives `pretrain` all pairs.
  ///
  /// Where a call throws on one rank, it throws on all, and all trainers are as they were. After a sum that threw, the ranks
  /// may be at different places: the replica must be set again.
  ///
  /// The state is the same on all ranks and depends on none, so one checkpoint serves any number of ranks.
  ///
  /// - Parameters:
  ///   - rank: 0 ..< ranks.
  ///   - ranks: 1 … 65,536.
  /// - Throws: on all ranks, where their trainers differ or `allReduce` does not sum over `ranks`. The trainer has then the
  ///   replica that it had.
  public func setReplica(rank: Int, ranks: Int, allReduce: any AllReduce) throws {
    try exclusively(inStep: false) {
      let replica = try Replica(rank: rank, ranks: ranks, allReduce)
      try replica.agree(.setReplica) { ballot in
        ballot.set(0, hash: try optionsHash())
        ballot.set(2, hash: try countersHash())
        ballot.set(4, hash: valuesHash())
      }
      try replica.requireSame(
        0..<2, "options", "make the trainers of the same, `threads` apart, or load one checkpoint")
      try replica.requireSame(2..<4, "counts of what was drawn", "load one checkpoint on all ranks")
      try replica.requireSame(4..<6, "parameters", "give all the same seed and pretraining, or load one checkpoint")
      self.replica = replica
    }
  }

  /// The trainer is alone again. Nothing is exchanged.
  public func removeReplica() throws { try exclusively(inStep: false) { replica = nil } }

  /// Runs `body`; where it throws on one rank, this throws on all.
  func together<R>(_ stage: Stage, _ body: (Ballot) throws -> R) throws -> R {
    try replica?.agree(stage, body) ?? body(.alone)
  }

  /// - Throws: on all ranks, where one ends a call with other parameters than the first.
  func commitTogether(_ body: () throws -> Void) throws {
    try together(.commit) { ballot in
      try body()
      try requireSound(draft)
      if replica != nil { ballot.set(0, hash: hash(draft.parameters)) }
    }
    try replica?.requireSame(
      0..<2, "parameters after the training", "all_reduce must give each rank the same bits, in the same order of calls"
    )
    commit()
  }

  // MARK: What must be the same on all ranks

  private func optionsHash() throws -> UInt64 {
    var hash = fnv1a(EmptyCollection<UInt8>())
    for field in TrainerOptions.fields where field.name != "threads" {
      try field.write(options) { hash = fnv1a($0.utf8, from: hash) }
      hash = fnv1a("\n".utf8, from: hash)
    }
    return hash
  }

  private func countersHash() throws -> UInt64 {
    var hash = fnv1a(EmptyCollection<UInt8>())
    for field in TrainingCounters.fields {
      try field.write(state.counters) { hash = fnv1a($0.utf8, from: hash) }
      hash = fnv1a("\n".utf8, from: hash)
    }
    return hash
  }

  private func valuesHash() -> UInt64 {
    var hash = state.buffers.reduce(fnv1a(EmptyCollection<UInt8>())) { self.hash($1.values, from: $0) }
    if let reference { hash = self.hash(reference.parameters, from: hash) }
    return hash
  }

  private func hash(_ values: Buffer<Float>, from start: UInt64 = 0) -> UInt64 {
    defer { withExtendedLifetime(values) {} }
    return fnv1a(values.values.lazy.map(\.bitPattern), from: start)
  }
}
