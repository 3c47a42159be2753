import ChunkGRPOTraining
import Foundation
import Testing

@Suite("AdamW")
struct AdamWTests {
  @Test("Ten steps follow the paper's recurrence, computed in f64")
  func recurrence() throws {
    let adam = try AdamW(beta1: 0.8, beta2: 0.95, epsilon: 1e-6, weightDecay: 0.03)
    let n = 13
    var w = try normals(n, seed: 1).map { Float($0) }
    var (m, v) = ([Float](repeating: 0, count: n), [Float](repeating: 0, count: n))
    var (ew, em, ev) = (w.map { Double($0) }, [Double](repeating: 0, count: n), [Double](repeating: 0, count: n))
    for t in 1...10 {
      let g = try normals(n, seed: UInt64(10 + t)).map { Float($0) }
      adam.update(
        parameters: &w, gradients: g, firstMoment: &m, secondMoment: &v, count: n, step: t, learningRate: 0.02,
        gradientScale: 0.5)
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
    let adam = try AdamW(weightDecay: 0)
    var w: [Float] = [1, 1, 1]
    var (m, v): ([Float], [Float]) = ([0, 0, 0], [0, 0, 0])
    adam.update(
      parameters: &w, gradients: [5, -0.01, 300], firstMoment: &m, secondMoment: &v, count: 3, step: 1,
      learningRate: 0.1)
    for (a, b) in zip(w, [0.9, 1.1, 0.9] as [Float]) { #expect(abs(a - b) < 1e-5) }
  }
}
