import ChunkGRPO
import Testing

@Suite("Arrays that share memory")
struct OverlapTests {
  private let sampler: Sampler
  private let memory: Latents

  init() throws {
    sampler = try Sampler(Schedule.shifted(steps: 5, shift: 3), eta: 0.7)
    memory = try Latents(normals(400, seed: 3).map { Float($0) }, batch: 1)
  }

  /// Rows of 5 elements from the element `first` on.
  private func view(_ first: Int, stride: Int = 5, batch: Int = 4) -> LatentsView {
    LatentsView(memory.view.base + 4 * first, type: .float32, batch: batch, elements: 5, batchStride: stride)
  }

  private func step(_ x: LatentsView, _ v: LatentsView, _ next: LatentsView) throws {
    try sampler.step(1, latents: x, velocity: v, noise: .library(seed: 1), next: next)
  }

  @Test("An output that is a shifted view of an input is refused, in any layout in which elements meet")
  func shifted() throws {
    let v = view(200)
    for next in [
      view(1), view(5), view(4), view(19), view(15), view(16, stride: 7), view(0, stride: 10), view(19, stride: -5),
    ] {
      #expect(error { try step(view(0), v, next) }?.message.contains("next_latents overlaps latents") == true)
      #expect(error { try step(v, view(0), next) }?.message.contains("next_latents overlaps velocity") == true)
    }
    #expect(error { try step(v, view(0, stride: 0), view(3)) }?.message.contains("velocity") == true)
  }

  @Test("The same array, one beside it, and rows between its rows are taken")
  func apart() throws {
    let v = view(200)
    for (x, next) in [
      (view(0), view(0)), (view(0), view(20)), (view(20), view(0)), (view(0, stride: 10), view(5, stride: 10)),
      (view(5, stride: 10), view(0, stride: 10)), (view(30, stride: -10), view(5, stride: 10)),
    ] {
      try step(x, v, next)
    }
  }

  @Test("Overlap is what comparing every pair of elements finds")
  func agreesWithElements() throws {
    let v = view(200)
    func elements(_ view: LatentsView) -> Set<Int> {
      Set((0..<4).flatMap { i in (0..<5).map { (view.base - memory.view.base) / 4 + i * view.batchStride + $0 } })
    }
    for stride in [5, 7, 11, -6] {
      for other in [5, 6, 9, 13, -5, -12] {
        for first in stride < 0 ? 40..<60 : 30..<50 {
          let (x, next) = (view(first, stride: stride), view(45, stride: other))
          if first == 45 && stride == other { continue }
          let meets = !elements(x).isDisjoint(with: elements(next))
          #expect((error { try step(x, v, next) } != nil) == meets, "\(first) \(stride) \(other)")
        }
      }
    }
  }

  @Test("A gradient may replace the velocity; that of the unconditional velocity may replace that one alone")
  func gradients() throws {
    let (x, v, u, next) = (view(0), view(20), view(40), view(60))
    func vjp(_ gradient: LatentsView, _ unconditional: LatentsView? = nil) throws {
      try sampler.logProbVJP(
        1, latents: x, velocity: v, extras: StepExtras(unconditional: u, guidance: 2), next: next,
        gradLogProb: [1, 1, 1, 1], gradVelocity: gradient, gradUnconditional: unconditional)
    }
    #expect(error { try vjp(view(1)) }?.message.contains("grad_velocity overlaps latents") == true)
    #expect(error { try vjp(view(80), v) }?.message.contains("grad_unconditional overlaps velocity") == true)
    #expect(error { try vjp(view(80), view(80)) }?.message.contains("grad_unconditional overlaps grad") == true)
    try vjp(view(80), view(100))
    try vjp(v, u)
  }

  @Test("The gradients of a trajectory lie apart from its latents")
  func trajectories() throws {
    let latents = try Latents(normals(40, seed: 4), batch: 1)
    func steps(_ first: Int, _ count: Int) -> TrajectoryView {
      TrajectoryView(
        latents.view.base + 8 * first, type: .float64, batch: 1, count: count, elements: 5, batchStride: 0,
        stepStride: 5)
    }
    func vjp(_ gradients: TrajectoryView) throws {
      try sampler.logProbsVJP(
        firstStep: 1, latents: steps(0, 3), velocities: steps(15, 2), gradLogProbs: [1, 1], gradVelocities: gradients)
    }
    for first in [0, 5, 10, 12, 20] {
      #expect(error { try vjp(steps(first, 2)) }?.message.contains("overlaps") == true)
    }
    try vjp(steps(25, 2))
    try vjp(steps(15, 2))
  }
}
