import ChunkGRPO
import Testing

@Suite("Forward process: distances")
struct ForwardDistanceTests {
  let batch = 3, elements = 41

  func latents(_ seed: UInt64) throws -> Latents {
    try Latents(normals(batch * elements, seed: seed), batch: batch)
  }

  @Test("The velocity e − x0 of the noised latents is at distance 0, and moves them to the image and to the noise")
  func ends() throws {
    let clean = try latents(1)
    let times = [0.3, 1, 0.01]
    let noise = Noise.library(seed: 4, sampleIDs: [9, 8, 7])
    let (noised, e) = (try latents(2), try latents(2))
    try forwardNoised(clean: clean.view, times: times, noise: noise, draw: 5, into: noised.view)
    let zeros = try Latents(type: .float64, batch: batch, elements: elements)
    try forwardNoised(clean: zeros.view, times: [1, 1, 1], noise: noise, draw: 5, into: e.view)
    let u = try Latents(zip(e.values, clean.values).map { $0 - $1 }, batch: batch)
    let found = try forwardDistance(clean: clean.view, velocity: u.view, noise: noise, draw: 5)
    #expect(found.distance == [0, 0, 0] && found.absolute == [0, 0, 0])
    for i in 0..<batch * elements {
      let t = times[i / elements]
      #expect(try abs(noised.values[i] - t * u.values[i] - clean.values[i]) < 1e-14)
      #expect(try abs(noised.values[i] + (1 - t) * u.values[i] - e.values[i]) < 1e-14)
    }
  }

  @Test("Other velocities give their numbers, and only those")
  func numbers() throws {
    let (clean, v, old) = (try latents(1), try latents(2), try latents(3))
    let noise = Noise.library(seed: 4)
    let plain = try forwardDistance(clean: clean.view, velocity: v.view, noise: noise)
    #expect(plain.oldDistance.isEmpty && plain.positiveDistance.isEmpty && plain.referenceDivergence.isEmpty)
    let extras = ForwardExtras(oldVelocity: old.view, referenceVelocity: v.view, nftBeta: 1)
    let all = try forwardDistance(clean: clean.view, velocity: v.view, noise: noise, extras: extras)
    #expect(all.distance == plain.distance && all.absolute == plain.absolute)
    #expect(all.referenceDistance == plain.distance && all.referenceDivergence == [0, 0, 0])
    // β = 1: v⁺ is v, and v⁻ its mirror image in v_old.
    #expect(all.positiveDistance == plain.distance && all.positiveAbsolute == plain.absolute)
    let mirrored = try Latents(zip(old.values, v.values).map { 2 * $0 - $1 }, batch: batch)
    let other = try forwardDistance(clean: clean.view, velocity: mirrored.view, noise: noise)
    for (a, b) in zip(all.negativeDistance, other.distance) { #expect(abs(a - b) < 1e-14 * b) }
    #expect(all.oldDistance == (try forwardDistance(clean: clean.view, velocity: old.view, noise: noise)).distance)
  }

  @Test("Gradients are finite differences", arguments: [false, true])
  func gradients(_ withExtras: Bool) throws {
    let (clean, v, old, reference) = (try latents(1), try latents(2), try latents(3), try latents(4))
    let (direction, gradient) = (try normals(batch * elements, seed: 5), try latents(6))
    let noise = Noise.library(seed: 4)
    let extras =
      withExtras
      ? ForwardExtras(oldVelocity: old.view, referenceVelocity: reference.view, nftBeta: 0.3) : ForwardExtras()
    var g = ForwardGradients(distance: [0.3, -1, 2])
    if withExtras {
      g.positiveDistance = [1, 0.2, -0.4]
      g.negativeDistance = [0.1, 0.9, 0.3]
      g.oldDivergence = [-0.5, 0.1, 0.2]
      g.referenceDivergence = [0.7, -0.3, 0.6]
    }
    try forwardDistance(
      clean: clean.view, velocity: v.view, noise: noise, extras: extras, gradient: (g, gradient.view))
    func total(_ h: Double) throws -> Double {
      let moved = try Latents(zip(v.values, direction).map { $0 + h * $1 }, batch: batch)
      let d = try forwardDistance(clean: clean.view, velocity: moved.view, noise: noise, extras: extras)
      let terms = [
        (g.distance, d.distance), (g.positiveDistance, d.positiveDistance), (g.negativeDistance, d.negativeDistance),
        (g.oldDivergence, d.oldDivergence), (g.referenceDivergence, d.referenceDivergence),
      ]
      return terms.reduce(0) { $0 + zip($1.0 ?? [], $1.1).reduce(0) { $0 + $1.0 * $1.1 } }
    }
    let expected = (try total(1e-5) - total(-1e-5)) / 2e-5
    let exact = try zip(gradient.values, direction).reduce(0) { $0 + $1.0 * $1.1 }
    #expect(abs(exact - expected) < 1e-8 * max(1, abs(expected)))
  }

  @Test("A draw's noise is no step's and no other draw's")
  func draws() {
    let steps = [0, 1, ForwardDraw.count - 1].flatMap { [ForwardDraw.noiseStep($0), ForwardDraw.timesStep($0)] }
    let reserved = ReservedStep.allCases.map { Int($0.rawValue) }
    #expect(Set(steps + reserved).count == steps.count + reserved.count)
    #expect(steps.allSatisfy { $0 > Int(Int32.max) && $0 < Int(UInt32.max) })
    #expect(ForwardDraw.noiseStep(ForwardDraw.count - 1) < ForwardDraw.timesStep(0))
  }

  @Test("What does not fit is refused by its name")
  func refusals() throws {
    let (clean, v) = (try latents(1), try latents(2))
    let noise = Noise.library(seed: 4)
    let short = error { try forwardNoised(clean: clean.view, times: [1], noise: noise, into: v.view) }
    #expect(short?.message.contains("times") == true)
    let late = error { try forwardDistance(clean: clean.view, velocity: v.view, noise: noise, draw: ForwardDraw.count) }
    #expect(late?.message.contains("draw") == true)
    let several = try Latents(type: .float64, steps: 2, batch: batch, elements: elements)
    let many = error { try forwardDistance(clean: clean.view, velocity: v.view, noise: .given(several.trajectory)) }
    #expect(many?.message.contains("noise holds 2 steps") == true)
    let gradient = error {
      try forwardDistance(
        clean: clean.view, velocity: v.view, noise: noise, gradient: (ForwardGradients(distance: [1]), v.view))
    }
    #expect(gradient?.message.contains("grad_distance has 1 numbers") == true)
  }
}
