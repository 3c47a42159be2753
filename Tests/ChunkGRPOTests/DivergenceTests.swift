import ChunkGRPO
import Foundation
import Testing

@Suite("Divergences")
struct DivergenceTests {
  @Test("Divergences: value by definition, gradient by finite differences", arguments: Divergence.allCases)
  func divergences(_ kind: Divergence) throws {
    for (seed, dynamics) in [Dynamics.flowSDE, .danceSDE, .cps].enumerated() {
      let sampler = try Sampler(.shifted(steps: 9, shift: 3), dynamics: dynamics, eta: 0.6)
      let (batch, elements, k) = (3, 45, 2 + seed)
      let draws = try normals(5 * batch * elements, seed: UInt64(seed))
      func part(_ i: Int) -> [Double] { Array(draws[i * batch * elements..<(i + 1) * batch * elements]) }
      let x = try Latents(part(0), batch: batch)
      let other = try Latents(part(2), batch: batch)
      let next = try Latents(type: .float64, batch: batch, elements: elements)
      try sampler.step(
        k, latents: x.view, velocity: other.view, noise: .library(seed: 5, sampleIDs: [7, 8, 9]), next: next.view)
      let v = part(1)
      let upstream = [0.3, -1.2, 0.8]
      func both(_ v: [Double]) throws -> (given: [Double], sampled: [Double], gradients: [[Double]]) {
        let velocity = try Latents(v, batch: batch)
        var (given, sampled) = ([Double](repeating: 0, count: batch), [Double](repeating: 0, count: batch))
        let g = try (0..<2).map { _ in try Latents(type: .float64, batch: batch, elements: elements) }
        try upstream.withUnsafeBufferPointer { u in
          guard let u = u.baseAddress else { return }
          try sampler.divergence(
            kind, k, velocity: velocity.view, other: other.view, divergence: &given, gradient: (u, g[0].view))
          try sampler.divergenceFromSampled(
            kind, k, latents: x.view, velocity: velocity.view, noise: .library(seed: 5, sampleIDs: [7, 8, 9]),
            next: next.view, divergence: &sampled, gradient: (u, g[1].view))
        }
        return try (given, sampled, g.map { try $0.values })
      }
      let result = try both(v)
      let c = sampler.coefficients[k]
      let delta = sampler.schedule.sigmas[k] - sampler.schedule.sigmas[k + 1]
      for i in 0..<batch {
        let squares = try (0..<elements).map { try pow(v[i * elements + $0] - other.values[i * elements + $0], 2) }
        let distance = mean(squares) * c.b * c.b
        let expected: Double =
          switch kind {
          case .gaussian: distance / (2 * c.s * c.s)
          case .gaussianPerTime: distance / (2 * c.s * c.s / delta)
          case .mean: distance
          case .velocity: mean(squares)
          }
        #expect(abs(result.given[i] - expected) < 1e-13 * expected)
        // The old mean, made again from the noise.
        #expect(abs(result.sampled[i] - expected) < 1e-12 * expected)
      }
      let direction = part(3)
      func total(_ h: Double) throws -> Double {
        zip(try both(zip(v, direction).map { $0 + h * $1 }).given, upstream).reduce(0) { $0 + $1.0 * $1.1 }
      }
      let difference = (try total(1e-5) - total(-1e-5)) / 2e-5
      for gradient in result.gradients {
        let exact = zip(gradient, direction).reduce(0) { $0 + $1.0 * $1.1 }
        #expect(abs(exact - difference) < 1e-7 * abs(difference))
      }
    }
  }

  @Test("Divergences are the same bits for any number of threads, and close in every storage type")
  func divergenceStorage() throws {
    let schedule = try Schedule.shifted(steps: 9, shift: 3)
    let (batch, elements) = (3, 100_001)
    var reference: [Double] = []
    for type in [ElementType.float64, .float32, .float16, .bfloat16] {
      var seen: [[Double]] = []
      for threads in [1, 2, 5] {
        let sampler = try Sampler(schedule, threads: threads)
        let all = try (0..<4).map { step in
          let latents = try Latents(type: type, batch: batch, elements: elements)
          try normal(seed: 3, step: step, into: latents.view)
          return latents
        }
        let next = try Latents(type: type, batch: batch, elements: elements)
        try sampler.step(2, latents: all[0].view, velocity: all[2].view, noise: .library(seed: 9), next: next.view)
        let gradient = try Latents(type: type, batch: batch, elements: elements)
        let given = try sampler.divergence(.gaussian, 2, velocity: all[1].view, other: all[2].view)
        let sampled = try sampler.divergenceFromSampled(
          .gaussian, 2, latents: all[0].view, velocity: all[1].view, noise: .library(seed: 9), next: next.view,
          gradient: ([1e4, 1e4, 1e4], gradient.view))
        try seen.append(given + sampled + gradient.values.prefix(100))
      }
      #expect(seen[0] == seen[1] && seen[0] == seen[2])
      if type == .float64 { reference = seen[0] }
      let tolerance: Double = [.float64: 1e-15, .float32: 1e-5, .float16: 2e-3, .bfloat16: 2e-2][type] ?? 0
      for (a, b) in zip(seen[0].prefix(6), reference) { #expect(abs(a - b) < tolerance * b, "\(type)") }
    }
  }

  @Test("A second-order step needs the old velocity: its sampled mean has the image before it in it")
  func secondOrder() throws {
    let sampler = try Sampler(.shifted(steps: 6, shift: 3), dynamics: .dpmSDE)
    let x = try Latents(normals(10, seed: 1), batch: 2)
    #expect(try sampler.divergence(.gaussian, 2, velocity: x.view, other: x.view) == [0, 0])
    let thrown = error {
      try sampler.divergenceFromSampled(
        .gaussian, 2, latents: x.view, velocity: x.view, noise: .library(seed: 1), next: x.view)
    }
    #expect(thrown?.code == .invalidArgument && thrown?.message.contains("second order") == true)
  }
}
