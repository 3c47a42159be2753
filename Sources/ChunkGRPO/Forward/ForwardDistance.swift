internal import KernelTable

/// Other velocities at the same noised latents, for distances in the same pass.
public struct ForwardExtras {
  // Not `LatentsView?`, as in `StepExtras`.
  /// v_old and v_ref, (B, D).
  public var oldVelocity, referenceVelocity: Optional<LatentsView>
  /// β of v⁺ = (1 − β)·v_old + β·v and v⁻ = (1 + β)·v_old − β·v (DiffusionNFT, arXiv 2509.16117); it needs `oldVelocity`.
  public var nftBeta: Double?

  public init(oldVelocity: LatentsView? = nil, referenceVelocity: LatentsView? = nil, nftBeta: Double? = nil) {
    self.oldVelocity = oldVelocity
    self.referenceVelocity = referenceVelocity
    self.nftBeta = nftBeta
  }
}

/// Distances from u = ε − x0, B numbers each: arrays, empty where the velocity is not given, or `CUDADoubles?` to write to.
/// "mean" is over the D elements.
public struct ForwardDistances<Values> {
  /// mean |v − u|² and mean |v − u|
  public var distance: Values, absolute: Values
  /// The same of v_old.
  public var oldDistance: Values, oldAbsolute: Values
  /// mean |v_ref − u|²
  public var referenceDistance: Values
  /// Of v⁺ and v⁻.
  public var positiveDistance: Values, positiveAbsolute: Values
  /// Means of |v⁻ − u|² and |v⁻ − u|, with v⁻ = (1 + β)·v_old − β·v.
  public var negativeDistance: Values, negativeAbsolute: Values
  /// mean |v − v_old|² and mean |v − v_ref|²
  public var oldDivergence: Values, referenceDivergence: Values

  private init(all none: Values) {
    (distance, absolute, oldDistance, oldAbsolute, referenceDistance) = (none, none, none, none, none)
    (positiveDistance, positiveAbsolute, negativeDistance, negativeAbsolute) = (none, none, none, none)
    (oldDivergence, referenceDivergence) = (none, none)
  }

  /// All empty.
  public init() where Values: ExpressibleByArrayLiteral { self.init(all: []) }
  /// Nowhere to write to.
  public init() where Values: ExpressibleByNilLiteral { self.init(all: nil) }

  typealias Number = (
    name: String, value: WritableKeyPath<Self, Values>, place: WritableKeyPath<ForwardOutput, ForwardOutput.Place>
  )

  static var ofPolicy: [Number] {
    [("distance", \.distance, \.distance), ("absolute", \.absolute, \.absolute)]
  }
  static var ofOld: [Number] {
    [
      ("old_distance", \.oldDistance, \.oldDistance), ("old_absolute", \.oldAbsolute, \.oldAbsolute),
      ("old_divergence", \.oldDivergence, \.oldDivergence),
    ]
  }
  static var ofReference: [Number] {
    [
      ("reference_distance", \.referenceDistance, \.referenceDistance),
      ("reference_divergence", \.referenceDivergence, \.referenceDivergence),
    ]
  }
  static var ofMixtures: [Number] {
    [
      ("positive_distance", \.positiveDistance, \.positiveDistance),
      ("positive_absolute", \.positiveAbsolute, \.positiveAbsolute),
      ("negative_distance", \.negativeDistance, \.negativeDistance),
      ("negative_absolute", \.negativeAbsolute, \.negativeAbsolute),
    ]
  }
}

extension ForwardDistances: Equatable where Values: Equatable {}
extension ForwardDistances: Sendable where Values: Sendable {}

/// ∂loss/∂ the number of the name, B numbers each, or nil for none: arrays or `CUDADoubles`.
public struct ForwardGradients<Values> {
  /// d loss / d the distance of the name; nil where it has none.
  public var distance, positiveDistance, negativeDistance, oldDivergence, referenceDivergence: Values?

  public init(
    distance: Values? = nil, positiveDistance: Values? = nil, negativeDistance: Values? = nil,
    oldDivergence: Values? = nil, referenceDivergence: Values? = nil
  ) {
    self.distance = distance
    self.positiveDistance = positiveDistance
    self.negativeDistance = negativeDistance
    self.oldDivergence = oldDivergence
    self.referenceDivergence = referenceDivergence
  }

  /// The same where a pass reads them.
  func places(_ place: (_ name: String, Values) throws -> UnsafePointer<Double>) rethrows -> ForwardUpstream {
    var upstream = ForwardUpstream()
    upstream.distance = try distance.map { try place("grad_distance", $0) }
    upstream.positiveDistance = try positiveDistance.map { try place("grad_positive_distance", $0) }
    upstream.negativeDistance = try negativeDistance.map { try place("grad_negative_distance", $0) }
    upstream.oldDivergence = try oldDivergence.map { try place("grad_old_divergence", $0) }
    upstream.referenceDivergence = try referenceDivergence.map { try place("grad_reference_divergence", $0) }
    return upstream
  }
}

extension ForwardGradients: Sendable where Values: Sendable {}

/// Where distances are written, as `ForwardDistances` names them; nil = nowhere.
package struct ForwardOutput {
  package typealias Place = UnsafeMutablePointer<Double>?
  package var distance: Place = nil, absolute: Place = nil
  package var oldDistance: Place = nil, oldAbsolute: Place = nil, referenceDistance: Place = nil
  package var positiveDistance: Place = nil, positiveAbsolute: Place = nil
  package var negativeDistance: Place = nil, negativeAbsolute: Place = nil
  package var oldDivergence: Place = nil, referenceDivergence: Place = nil

  package init() {}

  var ofOld: Bool { oldDistance != nil || oldAbsolute != nil || oldDivergence != nil }
  /// What has to be summed; a gradient is checked by the sums of what it is made of.
  func terms(withGradient: Bool) -> ForwardTerms {
    var terms: ForwardTerms = withGradient ? [.old, .fromReference] : []
    if oldDistance != nil || oldAbsolute != nil { terms.insert(.old) }
    if oldDivergence != nil { terms.insert(.fromOld) }
    if ofMixtures { terms.insert(.mixtures) }
    if referenceDistance != nil { terms.insert(.reference) }
    if referenceDivergence != nil { terms.insert(.fromReference) }
    return terms
  }

  var ofReference: Bool { referenceDistance != nil || referenceDivergence != nil }
  var ofMixtures: Bool {
    positiveDistance != nil || positiveAbsolute != nil || negativeDistance != nil || negativeAbsolute != nil
  }
}

/// What `ForwardGradients` has, with memory of the caller.
package struct ForwardUpstream {
  package typealias Numbers = UnsafePointer<Double>?
  package var distance: Numbers = nil, positiveDistance: Numbers = nil, negativeDistance: Numbers = nil
  package var oldDivergence: Numbers = nil, referenceDivergence: Numbers = nil

  package init() {}

  var isEmpty: Bool { distance == nil && oldDivergence == nil && referenceDivergence == nil && !ofMixtures }
  var ofMixtures: Bool { positiveDistance != nil || negativeDistance != nil }

  func check(batch: Int) throws {
    func check(_ name: StaticString, _ numbers: Numbers) throws {
      guard let numbers else { return }
      for i in 0..<batch where !numbers[i].isFinite {
        throw ChunkGRPOError.nonFinite("\(name)[\(i)] = \(numbers[i]) is not finite")
      }
    }
    try check("grad_distance", distance)
    try check("grad_positive_distance", positiveDistance)
    try check("grad_negative_distance", negativeDistance)
    try check("grad_old_divergence", oldDivergence)
    try check("grad_reference_divergence", referenceDivergence)
  }

  /// With p = v − u and q = v_old − u: v⁺ − u = β·p + (1 − β)·q and v⁻ − u = (1 + β)·q − β·p, and the derivative of
  /// mean d² in v is 2·d/D times that of d.
  func coefficients(_ i: Int, elements: Int, nftBeta beta: Double) -> ForwardCoefficients {
    let (plus, minus) = (positiveDistance?[i] ?? 0, negativeDistance?[i] ?? 0)
    let old = oldDivergence?[i] ?? 0
    let factor = 2 / Double(elements)
    return ForwardCoefficients(
      policy: factor * ((distance?[i] ?? 0) + old + beta * beta * (plus + minus)),
      old: factor * (beta * ((1 - beta) * plus - (1 + beta) * minus) - old),
      reference: factor * (referenceDivergence?[i] ?? 0))
  }
}

/// Distance of a velocity from u = ε − x0 at x_t = (1 − t)·x0 + t·ε: mean |v − u|², which is the loss of flow matching.
///
/// - Parameters:
///   - clean: x0, (B, D).
///   - velocity: v at x_t.
///   - noise, draw: as they were in `forwardNoised`.
///   - gradient: ∂loss/∂ distances, and where to write ∂loss/∂v; the other velocities have none.
@discardableResult
public func forwardDistance(
  clean: LatentsView, velocity: LatentsView, noise: Noise, draw: Int = 0, extras: ForwardExtras = ForwardExtras(),
  gradient: (ForwardGradients<[Double]>, LatentsView)? = nil, threads: Int = 1
) throws -> ForwardDistances<[Double]> {
  var result = ForwardDistances<[Double]>()
  typealias Kind = ForwardDistances<[Double]>
  var numbers = Kind.ofPolicy
  if extras.oldVelocity != nil { numbers += Kind.ofOld }
  if extras.referenceVelocity != nil { numbers += Kind.ofReference }
  if extras.nftBeta != nil { numbers += Kind.ofMixtures }
  let batch = max(0, velocity.batch)
  var owners: [AnyObject] = []
  let upstream = try (gradient?.0).map {
    try $0.places { name, values in
      try require(values.count == batch, "\(name) has \(values.count) numbers for a batch of \(batch)")
      let (pointer, owner) = try velocity.owned(values)
      owners.append(owner)
      return pointer
    }
  }
  let values = try velocity.numbers(numbers.count * batch) { base in
    var output = ForwardOutput()
    for (i, number) in numbers.enumerated() { output[keyPath: number.place] = base.map { $0 + i * batch } }
    try forwardDistance(
      clean: clean, velocity: velocity, noise: noise, draw: draw, extras: extras, to: output,
      upstream: upstream ?? ForwardUpstream(), gradVelocity: gradient?.1, threads: threads)
  }
  withExtendedLifetime(owners) {}
  for (i, number) in numbers.enumerated() where !values.isEmpty {
    result[keyPath: number.value] = Array(values[i * batch..<(i + 1) * batch])
  }
  return result
}

/// The same with memory of the caller.
package func forwardDistance(
  clean: LatentsView, velocity: LatentsView, noise: Noise, draw: Int, extras: ForwardExtras, to output: ForwardOutput,
  upstream: ForwardUpstream, gradVelocity: LatentsView?, threads: Int
) throws {
  try clean.checkVelocity(velocity, "velocity", own: ("clean is", "clean has"))
  let rows = try forwardNoise(noise, draw, like: clean)
  let threads = try resolvedThreads(threads)
  try check(extras, output, upstream, like: velocity)
  try clean.checkPart(numbers: !output.isEmpty, "a distance", writes: gradVelocity != nil)
  try require(
    (gradVelocity == nil) == upstream.isEmpty,
    gradVelocity == nil
      ? "grad_velocity is null, but a gradient of a distance is given"
      : "grad_velocity is given, but no gradient of a distance: grad_distance, or one of the extras")
  if let gradVelocity {
    try velocity.checkSame(gradVelocity, "grad_velocity", own: ("velocity is", "velocity has"))
    if !clean.isOnDevice { try upstream.check(batch: clean.batch) }
    try gradVelocity.checkApart("grad_velocity", from: clean, "clean")
    try gradVelocity.checkApart("grad_velocity", from: velocity, "velocity")
    try gradVelocity.checkApart("grad_velocity", from: noise, at: BatchSteps(0))
    try gradVelocity.checkApart("grad_velocity", from: extras.oldVelocity, "old_velocity")
    try gradVelocity.checkApart("grad_velocity", from: extras.referenceVelocity, "reference_velocity")
  }
  var result = ForwardResult(output, upstream, velocity.rows, gradVelocity?.rows, beta: extras.nftBeta ?? 0)
  let numbers = ForwardNumbers(output: output, upstream: upstream)
  let broken: Broken?
  if extras.oldVelocity == nil && extras.referenceVelocity == nil {
    let gradient = gradVelocity.flatMap { view in
      upstream.distance.map { DistanceGradient(view: view.rows, upstream: $0) }
    }
    broken = try withUnsafePointer(to: numbers) { numbers in
      let pass = ForwardPass(
        x: velocity.rows, clean: clean.rows, noise: rows, gradient: gradient, streams: clean.exceedsCache(count: 4),
        numbers: numbers)
      let partSums = clean.partSums(ForwardSums.ofPolicy)
      return try pass.run(over: velocity, threads: threads, keeping: (), partSums: partSums) { sample, _, sums in
        var all = ForwardSums()
        all.policy = sums
        return result.take(sample, all)
      }
    }
  } else {
    let pass = ForwardExtrasPass(
      x: velocity.rows, clean: clean.rows, noise: rows, old: extras.oldVelocity?.rows,
      reference: extras.referenceVelocity?.rows, nftBeta: extras.nftBeta,
      wanted: clean.givesNumbers ? output.terms(withGradient: gradVelocity != nil) : .all,
      gradient: gradVelocity?.rows, numbers: numbers)
    let partSums = clean.partSums(ForwardSums.ofAll)
    broken = try pass.run(over: velocity, threads: threads, keeping: (), partSums: partSums) { sample, _, sums in
      result.take(sample, sums)
    }
  }
  // One by one, not as `keeping`: a tuple of them is copied, which a small call feels.
  withExtendedLifetime(clean) {}
  withExtendedLifetime(velocity) {}
  withExtendedLifetime(noise) {}
  withExtendedLifetime(extras) {}
  withExtendedLifetime(gradVelocity) {}
  try throwIfBroken(broken, "clean, velocities or noise")
  try result.check.throwIfBroken("the gradient of the loss", velocity)
}

private func check(
  _ extras: ForwardExtras, _ output: ForwardOutput, _ upstream: ForwardUpstream, like velocity: LatentsView
) throws {
  let own = (are: "velocity is", have: "velocity has")
  try extras.oldVelocity.map { try velocity.checkSame($0, "old_velocity", own: own) }
  try extras.referenceVelocity.map { try velocity.checkSame($0, "reference_velocity", own: own) }
  if let beta = extras.nftBeta {
    try require(beta > 0 && beta.isFinite, "nft_beta = \(beta) must be > 0 and finite")
    try require(extras.oldVelocity != nil, "nft_beta = \(beta) needs old_velocity, which is null")
  }
  try require(
    extras.oldVelocity != nil || !(output.ofOld || upstream.oldDivergence != nil),
    "old_velocity is null, but a number of it is asked for")
  try require(
    extras.referenceVelocity != nil || !(output.ofReference || upstream.referenceDivergence != nil),
    "reference_velocity is null, but a number of it is asked for")
  try require(
    extras.nftBeta != nil || !(output.ofMixtures || upstream.ofMixtures),
    "nft_beta = 0, but a number of the positive or the negative velocity is asked for")
}

/// Turns the sums of a sample into its numbers.
private struct ForwardResult {
  let output: ForwardOutput
  let upstream: ForwardUpstream
  let velocity: Rows
  let gradient: Rows?
  let beta: Double
  var check = GradientCheck()

  init(_ output: ForwardOutput, _ upstream: ForwardUpstream, _ velocity: Rows, _ gradient: Rows?, beta: Double) {
    (self.output, self.upstream, self.velocity) = (output, upstream, velocity)
    (self.gradient, self.beta) = (gradient, beta)
  }

  /// Writes them, and returns one that is not finite where there is one.
  mutating func take(_ i: Int, _ sums: ForwardSums) -> Double {
    let elements = velocity.length(i)
    let count = Double(elements)
    var total = 0.0
    func write(_ sum: Double, _ place: UnsafeMutablePointer<Double>?) {
      if let place { place[i] = sum / count } else if sum == 0 { return }
      if !(sum / count).isFinite { total = sum }
    }
    write(sums.policy.squares, output.distance)
    write(sums.policy.magnitude, output.absolute)
    write(sums.old.squares, output.oldDistance)
    write(sums.old.magnitude, output.oldAbsolute)
    write(sums.reference.squares, output.referenceDistance)
    write(sums.positive.squares, output.positiveDistance)
    write(sums.positive.magnitude, output.positiveAbsolute)
    write(sums.negative.squares, output.negativeDistance)
    write(sums.negative.magnitude, output.negativeAbsolute)
    write(sums.fromOld.squares, output.oldDivergence)
    write(sums.fromReference.squares, output.referenceDivergence)
    if let gradient {
      let c = upstream.coefficients(i, elements: elements, nftBeta: beta)
      // No element is larger than the largest factor times the sum of the differences' roots.
      let roots = [sums.policy, sums.old, sums.fromReference].reduce(0) { $0 + $1.squares.squareRoot() }
      let scale = max(abs(c.policy), max(abs(c.old), abs(c.reference)))
      check.look(at: gradient, i, scale: scale, squares: roots * roots)
    }
    return total
  }
}
