internal import KernelTable

/// Which elements of its samples an array of latents holds, and which of them count: a shard of each sample, or samples
/// of unequal length. All arrays of a call have the same part.
///
/// A shard that begins at `first` of `total` elements has the noise of those elements, and its means are over `total`. One
/// shard alone does not know them: with `sums` a call writes its share of every sum and gives no number. The shares of all
/// shards are added up, element by element, and the same call with `isReduced` gives the numbers of the whole.
///
/// Its fields lie as those of the header's `cgrpo_part`.
public struct Part {
  package var structSize = MemoryLayout<Part>.stride
  /// The number, in its sample, of the first element of the array.
  public var first: Int
  /// D, the elements of a whole sample; 0 = those of the array.
  public var total: Int
  /// Of each sample, how many elements count, from its start on: B of them, 1 … D; nil = all. Beyond them nothing is drawn
  /// or summed: latents pass through, normals and gradients are 0.
  public var lengths: UnsafePointer<Int>?
  /// (P, B, n, N) or nil: P sums of each step and each of the N = ⌈D/1024⌉ blocks of a sample. P is 3 for `step`, 2 for
  /// `relativeL1`, 2 for `forwardDistance` and 11 with other velocities, else 1.
  public var sums: UnsafeMutablePointer<Double>?
  package var reduced: Int32
  package var reserved: Int32 = 0

  /// Whether `sums` are those of all shards.
  public var isReduced: Bool {
    get { reduced == 1 }
    set { reduced = newValue ? 1 : 0 }
  }

  /// The caller keeps the memory of `lengths` and `sums` alive.
  public init(
    first: Int = 0, total: Int = 0, lengths: UnsafePointer<Int>? = nil, sums: UnsafeMutablePointer<Double>? = nil,
    isReduced: Bool = false
  ) {
    self.first = first
    self.total = total
    self.lengths = lengths
    self.sums = sums
    reduced = isReduced ? 1 : 0
  }
}

/// Keeps the memory of a view that is a part of its samples, and says which: views of whole samples carry a byte more, and no
/// pointer.
final class PartOwner {
  let part: UnsafePointer<Part>
  let owner: AnyObject?

  init(_ part: UnsafePointer<Part>, _ owner: AnyObject?) {
    self.part = part
    self.owner = owner
  }
}

@inline(never)
private func part(_ owner: AnyObject?) -> UnsafePointer<Part>? { (owner as? PartOwner)?.part }

extension TrajectoryView {
  /// Which part of their samples these are, or nil for whole ones.
  @inline(__always)
  public var part: UnsafePointer<Part>? { isPart ? ChunkGRPO.part(owner) : nil }
}

extension LatentsView {
  /// Which part of their samples these are, or nil for whole ones. Borrowed: the caller keeps it alive.
  @inline(__always)
  public var part: UnsafePointer<Part>? { isPart ? ChunkGRPO.part(owner) : nil }
}

extension Part {
  /// Of a call whose array has so many elements per sample.
  func wholeElements(_ held: Int) -> Int { total == 0 ? held : total }

  func isSame(as other: Part) -> Bool {
    first == other.first && total == other.total && lengths == other.lengths && sums == other.sums
      && reduced == other.reduced
  }

  fileprivate func check(batch: Int, held: Int) throws {
    let whole = wholeElements(held)
    try require(
      first >= 0 && whole >= held && first <= whole - held,
      "part: first_element = \(first) and total_elements = \(total) leave no room for the \(held) elements of the tensor"
    )
    try require(reduced == 0 || reduced == 1, "part.reduced = \(reduced) is neither 0 nor 1")
    try require(reserved == 0, "part.reserved = \(reserved) must be 0")
    try require(reduced == 0 || sums != nil, "part.reduced = 1, but part.sums is null")
    guard let lengths else { return }
    for i in 0..<batch {
      try require(lengths[i] >= 1 && lengths[i] <= whole, "part.lengths[\(i)] = \(lengths[i]) is outside 1 … \(whole)")
    }
  }
}

extension LatentsView {
  /// The same latents as a part of their samples; the caller keeps `part` alive.
  @inline(never)
  public func with(_ part: UnsafePointer<Part>?) -> LatentsView {
    LatentsView(
      base, type: type, batch: batch, elements: elements, batchStride: batchStride,
      owner: part.map { PartOwner($0, owner) } ?? owner, isOnDevice: isOnDevice, isPart: part != nil)
  }

  /// Whether a call gives its numbers, or alone its share of their sums.
  package var givesNumbers: Bool {
    if !isPart { return true }
    guard let part = part?.pointee else { return true }
    return part.sums == nil ? part.first == 0 && part.wholeElements(elements) == elements : part.isReduced
  }

  /// D, of which these latents may be a part.
  var wholeElements: Int { part?.pointee.wholeElements(elements) ?? elements }

  /// How many elements of a sample count.
  @inline(__always)
  func length(_ sample: Int) -> Int { isPart ? rows.length(sample) : elements }

  /// Whether a call reads its sums, and no latents.
  var isReduced: Bool { part?.pointee.isReduced ?? false }

  func checkPart() throws {
    guard let part = part?.pointee else { return }
    try part.check(batch: batch, held: elements)
  }

  @inline(never)
  func checkSamePart(_ other: LatentsView, _ name: String) throws {
    try checkPart()
    guard let own = part?.pointee, let others = other.part?.pointee, own.isSame(as: others) else {
      throw ChunkGRPOError.invalidArgument(
        "\(name) is not the same part of its samples as the other tensors: give all tensors of a call the same part")
    }
  }

  /// Refuses numbers that are not known yet, and a tensor that would not be written.
  @inline(__always)
  func checkPart(numbers: @autoclosure () -> Bool, _ name: StaticString, writes: Bool = false) throws {
    if isPart { try checkPart(asked: numbers(), "\(name)", writes) }
  }

  @inline(never)
  private func checkPart(asked: Bool, _ name: String, _ writes: Bool) throws {
    try checkPart()
    guard let part = part?.pointee else { return }
    try require(
      !asked || givesNumbers,
      part.sums == nil
        ? "\(name) of \(elements) of \(part.wholeElements(elements)) elements is not known: give part.sums, add up those of "
          + "all parts, and call again with part.reduced = 1"
        : "\(name) is not known before the sums of all parts are added up: leave it null, and call again with "
          + "part.reduced = 1")
    try require(!writes || !part.isReduced, "part.reduced = 1: such a call gives numbers, and writes no tensor")
  }

  /// Where a pass over `steps` steps writes or reads the sums of one of them.
  ///
  /// - Parameter numbers: which of its sums it needs, a bit for each.
  @inline(__always)
  func partSums(_ numbers: UInt32, steps: Int = 1, at step: Int = 0) -> PartSums? {
    isPart ? ownPartSums(numbers, steps, step) : nil
  }

  @inline(never)
  private func ownPartSums(_ numbers: UInt32, _ steps: Int, _ step: Int) -> PartSums? {
    guard let part = part?.pointee, let base = part.sums else { return nil }
    return PartSums(
      base: base, numbers: numbers, batch: batch, steps: steps, first: step,
      blocks: (part.wholeElements(elements) - 1) / blockSize + 1, isReduced: part.isReduced)
  }

  /// Refuses a part where a call takes whole samples.
  func checkWhole(_ name: StaticString) throws {
    try require(part == nil, "\(name).part: this call takes whole samples, so leave it null")
  }
}
