import ChunkGRPO
import Foundation
import Testing

@Suite("Steps")
struct SamplerStepTests {
  let schedule: Schedule

  init() throws { schedule = try Schedule.shifted(steps: 17, shift: 3) }

  @Test("A step is a x + b v + s e, and its log-probability the Gaussian's, averaged", arguments: ElementType.allCases)
  func stepAndLogProb(type: ElementType) throws {
    let (batch, elements) = (3, 1057)  // neither a multiple of the vector, the turn nor the block
    let sampler = try Sampler(schedule, eta: 0.7)
    let x = try Latents(type: type, batch: batch, elements: elements)
    let v = try Latents(type: type, batch: batch, elements: elements)
    let e = try Latents(type: type, batch: batch, elements: elements)
    let next = try Latents(type: type, batch: batch, elements: elements)
    for (i, latents) in [x, v, e].enumerated() { try normal(seed: UInt64(i), into: latents.view) }
    var logProb = [Double](repeating: 0, count: batch)
    var change = logProb
    try sampler.step(
      4, latents: x.view, velocity: v.view, noise: .given(e.view), next: next.view, logProb: &logProb,
      relativeL1: &change)

    let c = sampler.coefficients[4]
    let unit: Double =
      switch type {
      case .float64: 1e-14
      case .float32: 1e-6
      case .float16: 2e-3
      case .bfloat16: 2e-2
      }
    let (xs, vs, es, ns) = try (x.values, v.values, e.values, next.values)
    for i in 0..<xs.count {
      #expect(abs(ns[i] - (c.a * xs[i] + c.b * vs[i] + c.s * es[i])) < unit * 4)
    }
    for sample in 0..<batch {
      let range = sample * elements..<(sample + 1) * elements
      let squared = mean(
        range.map { i in
          let d = ns[i] - c.a * xs[i] - c.b * vs[i]
          return d * d
        })
      let expected = -squared / (2 * c.s * c.s) - log(c.s) - 0.5 * log(2 * Double.pi)
      #expect(abs(logProb[sample] - expected) < (type == .float64 ? 1e-13 : 2e-6))
      let expectedChange = mean(range.map { abs(ns[$0] - xs[$0]) }) / (mean(range.map { abs(xs[$0]) }) + 1e-8)
      #expect(abs(change[sample] - expectedChange) < (type == .float64 ? 1e-13 : 2e-6))
    }
  }

  @Test("A second-order step under guidance is a x + b (u + w (v - u)) + c h + s e", arguments: ElementType.allCases)
  func guidedSecondOrderStep(type: ElementType) throws {
    let sampler = try Sampler(schedule, SamplerOptions { ($0.dynamics, $0.dpmOrder) = (.dpmSDE, 2) })
    let (k, w) = (4, 3.5)
    let all = try (0..<6).map { _ in try Latents(type: type, batch: 2, elements: 1057) }
    for (i, latents) in all[..<5].enumerated() { try normal(seed: UInt64(i), into: latents.view) }
    try sampler.step(
      k, latents: all[0].view, velocity: all[1].view,
      extras: StepExtras(unconditional: all[2].view, guidance: w, previousImage: all[3].view),
      noise: .given(all[4].view), next: all[5].view)
    let c = sampler.coefficients[k]
    #expect(abs(c.c) > 0.01)
    let (x, v, u, h, e, next) = try (
      all[0].values, all[1].values, all[2].values, all[3].values, all[4].values, all[5].values
    )
    let unit: Double = [.float64: 1e-14, .float32: 1e-6, .float16: 2e-3, .bfloat16: 2e-2][type] ?? 0
    for i in x.indices {
      let expected = c.a * x[i] + c.b * (u[i] + w * (v[i] - u[i])) + c.c * h[i] + c.s * e[i]
      #expect(abs(next[i] - expected) < unit * 8)
    }
  }

  @Test("One thread or several, and a batch split in any way, give the same bits")
  func threadsAndSplitsAgree() throws {
    let (batch, elements) = (5, 60_001)
    func run(threads: Int, parts: [Range<Int>]) throws -> ([Double], [Double], [Double]) {
      let sampler = try Sampler(schedule, eta: 0.7, threads: threads)
      let x = try Latents(batch: batch, elements: elements)
      let v = try Latents(batch: batch, elements: elements)
      try normal(seed: 1, threads: threads, into: x.view)
      try normal(seed: 2, threads: threads, into: v.view)
      var (next, logProb, change): ([Double], [Double], [Double]) = ([], [], [])
      for part in parts {
        func slice(_ l: Latents) -> LatentsView {
          LatentsView(
            l.view.base + part.lowerBound * elements * 4, type: .float32, batch: part.count, elements: elements)
        }
        let out = try Latents(batch: part.count, elements: elements)
        var l = [Double](repeating: 0, count: part.count)
        var c = l
        try sampler.step(
          3, latents: slice(x), velocity: slice(v),
          noise: .library(seed: 9, sampleIDs: part.map { UInt64($0) }), next: out.view, logProb: &l, relativeL1: &c)
        try next += out.values
        logProb += l
        change += c
      }
      return (next, logProb, change)
    }
    let whole = try run(threads: 1, parts: [0..<5])
    for (threads, parts) in [(2, [0..<5]), (7, [0..<5]), (1, [0..<1, 1..<5]), (3, [0..<2, 2..<3, 3..<5])] {
      let other = try run(threads: threads, parts: parts)
      #expect(whole == other)
    }
  }

  @Test("A deterministic step has log-probability 0 when taken, and is refused when asked for its density")
  func deterministicSteps() throws {
    let sampler = try Sampler(schedule, dynamics: .ode)
    let x = try Latents([0.5, -1.0, 2.0, 0.25], batch: 2)
    let next = try Latents(type: .float64, batch: 2, elements: 2)
    var logProb = [1.0, 1.0]
    try sampler.step(0, latents: x.view, velocity: x.view, noise: nil, next: next.view, logProb: &logProb)
    #expect(logProb == [0, 0])
    let refused = error { _ = try sampler.logProb(0, x, x, next) }
    #expect(refused?.code == .invalidArgument && refused?.message.contains("deterministic") == true)
  }

  @Test("NaN and infinity in any input are named by sample and step", arguments: ElementType.allCases)
  func nonFiniteIsNamed(type: ElementType) throws {
    let sampler = try Sampler(schedule, eta: 0.7)
    for bad in [Double.nan, .infinity, -.infinity] {
      for which in 0..<3 {
        let inputs = try (0..<3).map { _ in try Latents(type: type, batch: 3, elements: 37) }
        for (i, latents) in inputs.enumerated() { try normal(seed: UInt64(i), into: latents.view) }
        // Element 36 of sample 1 lies in the padded rest.
        for element in [0, 36] {
          let p = inputs[which].view.base + (37 + element) * type.size
          switch type {
          case .float64: p.storeBytes(of: bad, as: Double.self)
          case .float32: p.storeBytes(of: Float(bad), as: Float.self)
          case .float16: p.storeBytes(of: Float16(bad), as: Float16.self)
          case .bfloat16: p.storeBytes(of: UInt16(Float(bad).bitPattern >> 16), as: UInt16.self)
          }
        }
        let next = try Latents(type: type, batch: 3, elements: 37)
        let thrown = error {
          try sampler.step(
            5, latents: inputs[0].view, velocity: inputs[1].view, noise: .given(inputs[2].view), next: next.view)
        }
        #expect(thrown?.code == .nonFinite)
        #expect(thrown?.message.contains("sample 1 at step 5") == true)
      }
    }
  }
}
