import ChunkGRPO

/// What a rank tells the others when they meet; nothing where it is alone.
struct Ballot {
  static let count = 13
  fileprivate let base: UnsafeMutablePointer<Double>?

  static var alone: Ballot { Ballot(base: nil) }

  func set(_ number: Int, _ value: Double) { base?[number] = value }

  /// Takes two numbers: f64 holds 32 bits of any kind.
  func set(_ number: Int, hash: UInt64) {
    set(number, Double(hash >> 32))
    set(number + 1, Double(hash & 0xffff_ffff))
  }
}

/// One rank of a data-parallel run. The others are reached by sums alone: what each rank has to say stands in a row of its
/// own, where the others have zeros.
final class Replica {
  let rank, ranks: Int
  private let allReduce: any AllReduce
  private let own: Buffer<Double>
  /// (ranks, columns): how often the rank has answered, its error's code, its stage, its ballot.
  private let rows: Buffer<Double>
  private let text: Buffer<Double>
  /// After an exchange that failed, ranks may be at different places.
  private var isLost = false

  private static let columns = 3 + Ballot.count
  /// A host's count may have 32 bits, and its message 64 MB.
  private static let largestSum = 1 << 24

  init(rank: Int, ranks: Int, _ allReduce: any AllReduce) throws {
    try requireBounds("ranks", ranks, 1...1 << 16)
    try require(
      (0..<ranks).contains(rank), "rank = \(rank) is outside 0 … \(ranks - 1): it is this process's number of \(ranks)")
    (self.rank, self.ranks, self.allReduce) = (rank, ranks, allReduce)
    own = try Buffer(count: Ballot.count, for: "the numbers of a rank")
    rows = try Buffer(count: ranks &* Self.columns, for: "the numbers of \(ranks) ranks")
    text = try Buffer(count: 400, for: "the error of a rank")
    try count()
  }

  /// The sums must be those of `ranks` ranks, in both types.
  private func count() throws {
    let (ones, one) = (try Buffer<Double>(count: 2, for: "a sum"), try Buffer<Float>(count: 1, for: "a sum"))
    (ones[0], ones[1], one[0]) = (1, Double(ranks), 1)
    try sum(ones.values)
    try sum(one.values)
    try require(
      ones[0] == Double(ranks) && ones[1] == Double(ranks) * Double(ranks) && one[0] == Float(ranks),
      "all_reduce makes \(ones[0]) of a 1 of each of \(ranks) ranks in f64, and \(one[0]) in f32: it must sum the values "
        + "of all ranks, by their type, and all ranks must say ranks = \(ranks)")
  }

  /// - Throws: where an exchange failed before.
  func requireInStep() throws {
    try require(
      !isLost,
      "an exchange of the ranks failed before, and they may be at different places: set the replica again on all ranks, "
        + "with trainers of one checkpoint")
  }

  // MARK: Exchanges

  /// Replaces the values by their sums over the ranks.
  func sum(_ values: UnsafeMutableBufferPointer<Float>) throws { try inPieces(values, allReduce.sum) }
  func sum(_ values: UnsafeMutableBufferPointer<Double>) throws { try inPieces(values, allReduce.sum) }

  private func inPieces<T>(
    _ values: UnsafeMutableBufferPointer<T>, _ sum: (UnsafeMutableBufferPointer<T>) throws -> Void
  ) throws {
    do {
      for start in stride(from: 0, to: values.count, by: Self.largestSum) {
        try sum(.init(rebasing: values[start..<min(values.count, start + Self.largestSum)]))
      }
    } catch {
      isLost = true
      throw error
    }
  }

  /// Runs `body`, and hears how it went on the other ranks. Where it threw on one, this throws on all: there the error, and
  /// elsewhere one with its code and sentence. Afterwards `number` has what each rank has put into its ballot, until the
  /// next body is done.
  func agree<Result>(_ stage: Stage, _ body: (Ballot) throws -> Result) throws -> Result {
    own.fillWithZeros()
    let result = Swift.Result { try body(Ballot(base: own.base)) }
    var failure: (any Error)?
    if case .failure(let error) = result { failure = error }
    rows.fillWithZeros()
    let start = rank &* Self.columns
    rows[start] = 1
    rows[start + 1] = failure.map { Double(code($0).rawValue) } ?? 0
    rows[start + 2] = Double(stage.rawValue)
    if failure == nil { for i in 0..<Ballot.count { rows[start + 3 + i] = own[i] } }
    do {
      try sum(rows.values)
      try requireOneStage(stage)
    } catch {
      throw failure ?? error
    }
    if let first = (0..<ranks).first(where: { rows[$0 &* Self.columns + 1] != 0 }) {
      throw try told(by: first, failure)
    }
    return try result.get()
  }

  private func requireOneStage(_ stage: Stage) throws {
    for r in 0..<ranks {
      // Ranks at different places may have summed bits of other numbers: those may be anything.
      let answers = rows[r &* Self.columns]
      let theirs = Int(exactly: rows[r &* Self.columns + 2]).flatMap(Stage.init)
      if answers == 1 && theirs == stage { continue }
      isLost = true
      try require(
        answers == 1, "rank \(r) has answered \(answers) times: each rank of \(ranks) must have a number of its own")
      throw ChunkGRPOError.invalidArgument(
        "rank \(r) is in \(theirs?.name ?? "another call"), and rank \(rank) in \(stage.name): all ranks "
          + "must make the same calls in the same order")
    }
  }

  /// The error of rank `first` as this one throws it. It has failed itself where `failure` is not nil.
  private func told(by first: Int, _ failure: (any Error)?) throws -> any Error {
    text.fillWithZeros()
    if first == rank, let failure {
      for (i, byte) in message(failure).utf8.prefix(text.count).enumerated() { text[i] = Double(byte) }
    }
    let code = Int32(exactly: rows[first &* Self.columns + 1]).flatMap(ChunkGRPOError.Code.init) ?? .callbackFailed
    do { try sum(text.values) } catch { throw failure ?? error }
    let sentence = String(
      decoding: text.values.prefix { $0 != 0 }.map { UInt8(exactly: $0) ?? UInt8(ascii: "?") }, as: UTF8.self)
    return failure ?? ChunkGRPOError(code, "rank \(first) failed: \(sentence)")
  }

  private func code(_ error: any Error) -> ChunkGRPOError.Code { (error as? ChunkGRPOError)?.code ?? .callbackFailed }
  private func message(_ error: any Error) -> String { (error as? ChunkGRPOError)?.message ?? "\(error)" }

  // MARK: Ballots

  /// What rank `r` has put into its latest ballot.
  func number(_ number: Int, of r: Int) -> Double { rows[r &* Self.columns &+ 3 &+ number] }

  /// The sum over the ranks, in their order.
  func total(_ number: Int) -> Double { (0..<ranks).reduce(0) { $0 + self.number(number, of: $1) } }

  /// The first rank whose numbers are not rank 0's.
  func firstThatDiffers(_ numbers: Range<Int>) -> Int? {
    (0..<ranks).first { r in numbers.contains { number($0, of: r) != number($0, of: 0) } }
  }

  /// - Throws: on all ranks, where one has put in other numbers than the first.
  func requireSame(_ numbers: Range<Int>, _ what: String, _ wayOut: String) throws {
    guard let r = firstThatDiffers(numbers) else { return }
    throw ChunkGRPOError.invalidArgument("rank \(r) has other \(what) than rank 0: \(wayOut)")
  }
}
