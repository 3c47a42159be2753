import ChunkGRPO
import Testing

@Suite("Residuals")
struct SamplerResidualTests {
  let sampler: Sampler
  let upstream = [0.5, -2, 1.25]

  init() throws { sampler = try Sampler(Schedule.shifted(steps: 6, shift: 3), eta: 0.7) }

  /// Elements of three samples, drawn.
  func drawn(_ type: ElementType, _ seed: UInt64, elements: Int) throws -> Latents {
    let latents = try Latents(type: type, batch: 3, elements: elements)
    try normal(seed: seed, into: latents.view)
    return latents
  }

  @Test("A residual gives the gradient of log-probabilities to the bit", arguments: [ElementType.float32, .float64])
  func stepIsExact(type: ElementType) throws {
    let (x, v, next) = (
      try drawn(type, 1, elements: 1100), try drawn(type, 2, elements: 1100), try drawn(type, 3, elements: 1100)
    )
    let (residual, known) = (try drawn(type, 4, elements: 1100), try drawn(type, 5, elements: 1100))
    let values = try sampler.logProbVJP(
      2, latents: x.view, velocity: v.view, next: next.view, gradLogProb: upstream, gradVelocity: known.view)
    let kept = try sampler.logProbResidual(
      2, latents: x.view, velocity: v.view, next: next.view, residual: residual.view)
    #expect(kept == values)
    try sampler.residualVJP(2, residual: residual.view, gradLogProb: upstream, gradVelocity: residual.view)
    #expect(try residual.values == known.values)
    #expect(throws: ChunkGRPOError.self) {
      try sampler.residualVJP(2, residual: residual.view, gradLogProb: [1], gradVelocity: known.view)
    }
  }

  @Test("Residuals of a trajectory give its gradients to the bit")
  func trajectoryIsExact() throws {
    let elements = 1100
    let (x, v) = (try drawn(.float32, 1, elements: 3 * elements), try drawn(.float32, 2, elements: 2 * elements))
    let (residuals, known) = (
      try drawn(.float32, 3, elements: 2 * elements), try drawn(.float32, 4, elements: 2 * elements)
    )
    func steps(_ latents: Latents, _ count: Int) -> TrajectoryView {
      TrajectoryView(
        latents.view.base, type: .float32, batch: 3, count: count, elements: elements, batchStride: count * elements,
        stepStride: elements, owner: latents)
    }
    let upstream = [0.5, 0, 1, 0, -1, 0]
    let values = try sampler.logProbs(firstStep: 1, latents: steps(x, 3), velocities: steps(v, 2))
    try sampler.logProbsVJP(
      firstStep: 1, latents: steps(x, 3), velocities: steps(v, 2), gradLogProbs: upstream,
      gradVelocities: steps(known, 2))
    let kept = try sampler.logProbsResiduals(
      firstSteps: [1, 1, 1], latents: steps(x, 3), velocities: steps(v, 2), residuals: steps(residuals, 2))
    #expect(kept == values)
    try sampler.residualsVJP(
      firstStep: 1, residuals: steps(residuals, 2), gradLogProbs: upstream, gradVelocities: steps(residuals, 2))
    #expect(try residuals.values == known.values)
  }
}
