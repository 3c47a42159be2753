/// Where the gradient of a norm hinge goes: B numbers of ∂loss/∂hinge, and the view for ∂loss/∂velocity.
package typealias NormHingeGradient = (upstream: UnsafePointer<Double>, gradVelocity: LatentsView)

/// How far the norm of a velocity exceeds that of a reference, of each sample: NormGuard (arXiv 2606.27771) found that
/// training against a reward inflates it. The paper has no code; here the hinge is of the mean squares, to the power one.
///
///     ratio = ‖v‖/‖v_ref‖                      a statistic: above 1 where the velocity is inflated
///     hinge = max(0, mean v² − mean v_ref²)    a penalty: it has no gradient where the norm is at most the reference's
///
/// - Parameters:
///   - velocity, reference: (B, D).
///   - gradient: B numbers of ∂loss/∂hinge, and where to write ∂loss/∂velocity; `reference` has none.
public func normHinge(
  velocity: LatentsView, reference: LatentsView, threads: Int = 1, gradient: ([Double], LatentsView)? = nil
) throws -> (ratios: [Double], hinges: [Double]) {
  var ratios = [Double](repeating: 0, count: max(0, velocity.batch))
  var hinges = ratios
  guard let (upstream, view) = gradient else {
    try normHinge(
      velocity: velocity, reference: reference, threads: threads, ratios: &ratios, hinges: &hinges, gradient: nil)
    return (ratios, hinges)
  }
  try require(
    upstream.count == velocity.batch, "grad_hinges has \(upstream.count) numbers for a batch of \(velocity.batch)")
  try upstream.withUnsafeBufferPointer { upstream in
    try normHinge(
      velocity: velocity, reference: reference, threads: threads, ratios: &ratios, hinges: &hinges,
      gradient: upstream.baseAddress.map { ($0, view) })
  }
  return (ratios, hinges)
}

package func normHinge(
  velocity: LatentsView, reference: LatentsView, threads: Int, ratios: UnsafeMutablePointer<Double>?,
  hinges: UnsafeMutablePointer<Double>?, gradient: NormHingeGradient?
) throws {
  let threads = try resolvedThreads(threads)
  try velocity.checkSame(reference, "reference_velocity", own: ("velocity is", "velocity has"))
  try velocity.checkOnCPU("velocity", "the norm hinge")
  try velocity.checkWhole("velocity")
  let batch = velocity.batch
  if let gradient {
    try velocity.checkSame(gradient.gradVelocity, "grad_velocity")
    try gradient.gradVelocity.checkApart("grad_velocity", from: velocity, "velocity")
    try gradient.gradVelocity.checkApart("grad_velocity", from: reference, "reference_velocity")
    for i in 0..<batch where !gradient.upstream[i].isFinite {
      throw ChunkGRPOError.nonFinite("grad_hinges[\(i)] = \(gradient.upstream[i]) is not finite")
    }
  }
  let own = try Buffer<Double>(count: batch, for: "norms")
  let other = try Buffer<Double>(count: batch, for: "norms")
  // One sample of zeros, which all are compared with.
  let zeros = try Latents(type: velocity.type, batch: 1, elements: velocity.elements)
  let zero = LatentsView(
    zeros.view.base, type: velocity.type, batch: batch, elements: velocity.elements, batchStride: 0, owner: zeros)
  try meanSquares(velocity, zero, "velocity", threads, own)
  try meanSquares(reference, zero, "reference_velocity", threads, other)
  for i in 0..<batch {
    ratios?[i] = own[i] == other[i] ? 1 : finite((own[i] / other[i]).squareRoot())
    hinges?[i] = max(0, own[i] - other[i])
  }
  guard let gradient else { return }
  let active = try Buffer<Double>(count: batch, for: "norms")
  for i in 0..<batch { active[i] = own[i] > other[i] ? gradient.upstream[i] : 0 }
  // ∂(mean v²)/∂v = 2·v/D
  let output = DistanceGradient(
    view: gradient.gradVelocity.rows, upstream: UnsafePointer(active.base))
  var check = GradientCheck()
  try VelocityDistancePass(x: velocity.rows, w: zero.rows, gradient: output).run(
    over: velocity, threads: threads, keeping: (velocity, zero, gradient.gradVelocity, active)
  ) { sample, _, sums in
    check.look(at: output.view, sample, scale: output.scale(sample, elements: velocity.elements), squares: sums.squares)
    return 0
  }
  try check.throwIfBroken("grad_hinges", gradient.gradVelocity)
}

/// mean v² of each sample.
private func meanSquares(
  _ velocity: LatentsView, _ zero: LatentsView, _ name: String, _ threads: Int, _ result: Buffer<Double>
) throws {
  let broken = try VelocityDistancePass(x: velocity.rows, w: zero.rows, gradient: nil).run(
    over: velocity, threads: threads, keeping: (velocity, zero)
  ) { sample, _, sums in
    result[sample] = sums.squares / Double(velocity.elements)
    return result[sample]
  }
  if let broken {
    throw ChunkGRPOError.nonFinite("\(name) of sample \(broken.sample) is not finite, or too large to square")
  }
}
