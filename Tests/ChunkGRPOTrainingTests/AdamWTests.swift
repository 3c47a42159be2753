import ChunkGRPO
import ChunkGRPOTraining
import Foundation
import KernelTable
import Testing

@Suite("AdamW")
struct AdamWTests {
  private func update(
    _ w: inout [Float], _ g: [Float], _ m: inout [Float], _ v: inout [Float], _ factors: AdamWFactors
  ) {
    w.withUnsafeMutableBytes { w in
      m.withUnsafeMutableBytes { m in
        v.withUnsafeMutableBytes { v in
          g.withUnsafeBytes { g in
            var arguments = AdamWArguments(
              factors: factors, g: g.baseAddress!, w: w.baseAddress!, m: m.baseAddress!, v: v.baseAddress!,
              newW: w.baseAddress!, newM: m.baseAddress!, newV: v.baseAddress!, count: w.count / 4)
            kernelSet.adamW(&arguments)
          }
        }
      }
    }
  }

  @Test("Ten steps follow the paper's recurrence, computed in f64")
  func recurrence() throws {
    var options = tinyOptions()
    (options.beta1, options.beta2, options.adamEpsilon, options.weightDecay) = (0.8, 0.95, 1e-6, 0.03)
    let n = 13
    var w = try normals(n, seed: 1).map { Float($0) }
    var (m, v) = ([Float](repeating: 0, count: n), [Float](repeating: 0, count: n))
    var (ew, em, ev) = (w.map { Double($0) }, [Double](repeating: 0, count: n), [Double](repeating: 0, count: n))
    for t in 1...10 {
      let g = try normals(n, seed: UInt64(10 + t)).map { Float($0) }
      update(&w, g, &m, &v, options.adamW(step: t, learningRate: 0.02, gradientScale: 0.5))
      for i in 0..<n {
        let gradient = 0.5 * Double(g[i])
        em[i] = 0.8 * em[i] + 0.2 * gradient
        ev[i] = 0.95 * ev[i] + 0.05 * gradient * gradient
        let mHat = em[i] / (1 - pow(0.8, Double(t)))
        let vHat = ev[i] / (1 - pow(0.95, Double(t)))
        ew[i] -= 0.02 * (mHat / (vHat.squareRoot() + 1e-6) + 0.03 * ew[i])
      }
    }
    for i in 0..<n { #expect(abs(Double(w[i]) - ew[i]) < 3e-6) }
  }

  @Test("The first step moves every weight by the learning rate against its gradient's sign")
  func firstStep() throws {
    var options = tinyOptions()
    options.weightDecay = 0
    var w: [Float] = [1, 1, 1]
    var (m, v): ([Float], [Float]) = ([0, 0, 0], [0, 0, 0])
    update(&w, [5, -0.01, 300], &m, &v, options.adamW(step: 1, learningRate: 0.1, gradientScale: 1))
    for (a, b) in zip(w, [0.9, 1.1, 0.9] as [Float]) { #expect(abs(a - b) < 1e-5) }
  }
}
