import ChunkGRPO
import Foundation
import Testing

@Suite("Gradients that their type cannot hold")
struct GradientCheckTests {
  private static let types: [(ElementType, Double)] = [
    (.float32, Double(Float.greatestFiniteMagnitude)), (.float64, .greatestFiniteMagnitude),
    (.bfloat16, 0x1.fep127), (.float16, 65504),
  ]
  private let batch = 3, elements = 37
  private let sampler: Sampler

  init() throws { sampler = try Sampler(Schedule.shifted(steps: 5, shift: 3), eta: 0.7) }

  private func latents(_ type: ElementType, steps: Int = 1, _ value: Double) throws -> Latents {
    let result = try Latents(type: type, steps: steps, batch: batch, elements: elements)
    let base = result.trajectory.base
    for i in 0..<steps * batch * elements {
      switch type {
      case .float32: base.assumingMemoryBound(to: Float.self)[i] = Float(value)
      case .float64: base.assumingMemoryBound(to: Double.self)[i] = value
      case .bfloat16: base.assumingMemoryBound(to: UInt16.self)[i] = UInt16(Float(value).bitPattern >> 16)
      case .float16: base.assumingMemoryBound(to: Float16.self)[i] = Float16(value)
      }
    }
    return result
  }

  /// Upstream numbers that make the gradient of sample 1 a little less and a little more than the largest number.
  private func check(
    _ type: ElementType, _ most: Double, step: Int,
    _ gradient: (_ upstream: [Double]) throws -> [Double]
  ) throws {
    let unit = try gradient([0, 1, 0]).map(abs).max() ?? 0
    #expect(unit > 0)
    let below = try gradient([0, most / unit * 0.98, 0])
    #expect(below.allSatisfy { $0.isFinite } && (below.map(abs).max() ?? 0) > 0.9 * most)
    for factor in [1.02, 1e3, 1e300] {
      let upstream = most / unit * factor
      guard upstream.isFinite else { continue }
      let thrown = error { _ = try gradient([0, upstream, 0]) }
      #expect(thrown?.code == .nonFinite, "\(type) \(factor)")
      #expect(thrown?.message.contains("sample 1 at step \(step)") == true, "\(thrown?.message ?? "")")
    }
  }

  @Test("A gradient of log_prob that is too large for its type is refused, and the largest is not", arguments: types)
  func logProb(type: ElementType, most: Double) throws {
    let (x, v, next) = (try latents(type, 0.5), try latents(type, 0.25), try latents(type, 4096))
    let gradient = try latents(type, 0)
    try check(type, most, step: 2) {
      try sampler.logProbVJP(
        2, latents: x.view, velocity: v.view, next: next.view, gradLogProb: $0, gradVelocity: gradient.view)
      return try gradient.values
    }
    let unconditional = try latents(type, 0)
    try check(type, most, step: 2) {
      try sampler.logProbVJP(
        2, latents: x.view, velocity: v.view, extras: StepExtras(unconditional: x.view, guidance: 3), next: next.view,
        gradLogProb: $0, gradVelocity: gradient.view, gradUnconditional: unconditional.view)
      return try gradient.values + unconditional.values
    }
  }

  @Test("The same of a trajectory, by step and sample", arguments: types)
  func trajectory(type: ElementType, most: Double) throws {
    let (x, v) = (try latents(type, steps: 4, 0.5), try latents(type, steps: 3, 0.25))
    let gradients = try latents(type, steps: 3, 0)
    // The mean of the last step is far from x'.
    let next = try latents(type, 4096)
    memcpy(x.trajectory.base + 3 * batch * elements * type.size, next.view.base, batch * elements * type.size)
    try check(type, most, step: 2) { upstream in
      // (B, n): the last of three steps.
      try sampler.logProbsVJP(
        firstStep: 0, latents: x.trajectory, velocities: v.trajectory,
        gradLogProbs: upstream.flatMap { [0, 1e-3, $0] }, gradVelocities: gradients.trajectory)
      return try Array(gradients.values.suffix(batch * elements))
    }
  }

  @Test("The same of both divergences", arguments: types)
  func divergences(type: ElementType, most: Double) throws {
    let (x, v, next) = (try latents(type, 0.5), try latents(type, 0.25), try latents(type, 4096))
    let gradient = try latents(type, 0)
    try check(type, most, step: 1) {
      try sampler.divergence(.gaussian, 1, velocity: v.view, other: next.view, gradient: ($0, gradient.view))
      return try gradient.values
    }
    try check(type, most, step: 1) {
      try sampler.divergenceFromSampled(
        .gaussian, 1, latents: x.view, velocity: v.view, noise: .given(v.view), next: next.view,
        gradient: ($0, gradient.view))
      return try gradient.values
    }
  }
}
