// Arrays that a call writes, and those that it reads. A pass reads the elements of a block before it writes them, so that an
// output may be an input; but it may not be a part of it, or the same shifted by some elements.

extension LatentsView {
  /// Throws where these latents, which are written, share memory with `other` of the same shape; `orSame`: and are not the
  /// same array.
  @inline(__always)
  func checkApart(_ name: StaticString, from other: LatentsView?, _ otherName: StaticString, orSame: Bool = true) throws
  {
    // In place, because small calls have little else to do.
    guard let other, reach.overlaps(other.reach) else { return }
    try checkRowsApart("\(name)", from: other, "\(otherName)", orSame)
  }

  /// The same for noise. Where the samples take theirs of several steps, these latents are none of them.
  @inline(__always)
  func checkApart(_ name: StaticString, from noise: Noise?, at steps: BatchSteps) throws {
    guard case .given(let noise) = noise?.source else { return }
    try checkApart(name, from: noise, at: steps)
  }

  @inline(never)
  private func checkApart(_ name: StaticString, from noise: TrajectoryView, at steps: BatchSteps) throws {
    let mixed = steps.isMixed && noise.count > 1
    let own = mixed ? 0..<noise.count : noise.count == 1 ? 0..<1 : steps.first..<steps.first + 1
    for t in own { try checkApart(name, from: noise.latents(t), "noise", orSame: !mixed) }
  }

  @inline(never)
  private func checkRowsApart(_ name: String, from other: LatentsView, _ otherName: String, _ orSame: Bool) throws {
    guard sharesMemory(with: other) else { return }
    let same = base == other.base && type == other.type && (batchStride == other.batchStride || batch == 1)
    try require(
      orSame && same,
      "\(name) overlaps \(otherName): an array that is written is "
        + (orSame ? "the very one that is read, or lies apart" : "apart from it"))
  }

  /// The addresses from the lowest row to the end of the highest.
  @inline(__always)
  private var reach: Range<Int> {
    let first = Int(bitPattern: base)
    let last = first &+ (batch &- 1) &* batchStride &* type.size
    return Range(uncheckedBounds: (min(first, last), max(first, last) &+ elements &* type.size))
  }

  /// Whether a row of one overlaps a row of the other. Rows may lie between one another, as those of a trajectory do.
  private func sharesMemory(with other: LatentsView) -> Bool {
    let (length, otherLength) = (elements &* type.size, other.elements &* other.type.size)
    let (own, others) = (reach, other.reach)
    let (step, distance) = (abs(batchStride) &* type.size, abs(other.batchStride) &* other.type.size)
    for i in 0..<batch {
      // The first row of the other that ends behind the start of this one, and whether it begins before its end.
      let offset = own.lowerBound &+ i &* step &- others.lowerBound
      let j = distance == 0 || offset < otherLength ? 0 : (offset &- otherLength) / distance &+ 1
      let ahead = offset &- j &* distance
      if j < other.batch && ahead < otherLength && -ahead < length { return true }
    }
    return false
  }
}

extension TrajectoryView {
  /// The same for every step; a step may be the same array as the one of the other with its number.
  func checkApart(_ name: StaticString, from other: TrajectoryView, _ otherName: StaticString, orSame: Bool) throws {
    guard span.overlaps(other.span) else { return }
    for t in 0..<count {
      for u in 0..<other.count {
        try latents(t).checkApart(name, from: other.latents(u), otherName, orSame: orSame && t == u)
      }
    }
  }

  /// All addresses between the lowest and the end of the highest row.
  private var span: Range<Int> {
    let (samples, steps) = ((batch &- 1) &* batchStride &* type.size, (count &- 1) &* stepStride &* type.size)
    let first = Int(bitPattern: base)
    return first &+ min(0, samples) &+ min(0, steps)..<first &+ max(0, samples) &+ max(0, steps) &+ elements
      &* type.size
  }
}
