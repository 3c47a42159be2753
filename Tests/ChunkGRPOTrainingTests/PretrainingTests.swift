import ChunkGRPO
import ChunkGRPOTraining
import Testing

@Suite("Pretraining")
struct PretrainingTests {
  private struct Stop: Error {}

  @Test("Flow matching learns to put each class where its images are")
  func pretrainingLearns() throws {
    let x = try pretrained(steps: 600).samples()
    let right = (0..<200).count { (x[2 * $0] > 0) == ($0 % 2 == 0) }
    #expect(right > 190)
    let spread = (0..<200).map { Double(x[2 * $0 + 1]) }
    let deviation = (spread.reduce(0) { $0 + $1 * $1 } / 200).squareRoot()
    #expect(abs(deviation - 0.3) < 0.12)
  }

  @Test("At (1 - sigma) x0 + sigma e the velocity of a single image is e - x0, so that its slope is 1 / sigma")
  func slopeOfOneImage() throws {
    let trainer = try ChunkGRPOTrainer(tinyOptions())
    var options = PretrainOptions()
    (options.steps, options.batchSize) = (1000, 64)
    try trainer.pretrain(images: [0.6, -0.4], conditions: [1, 0], options: options)
    for sigma in [0.4, 0.5, 0.7] {
      // Two noises, apart in the first element.
      let (first, second) = (0.6 * (1 - sigma), Float(-0.4 * (1 - sigma)))
      let latents = [Float(first + 0.5 * sigma), second, Float(first - 0.5 * sigma), second]
      let v = try trainer.velocity(latents: latents, sigma: sigma, conditions: [1, 0, 1, 0]).map(Double.init)
      let slope = (v[0] - v[2]) / sigma
      #expect(abs(slope * sigma - 1) < 0.15, "\(slope * sigma) at \(sigma)")
    }
  }

  @Test("Progress that stops pretraining leaves the trainer as it was")
  func stoppedPretrainingChangesNothing() throws {
    let trainer = try pretrained()
    let before = try trainer.samples()
    #expect(throws: Stop.self) {
      try trainer.pretrain(images: oneHots, conditions: oneHots) { done, _, _ in if done > 20 { throw Stop() } }
    }
    #expect(try trainer.samples() == before)
  }

  @Test(
    "Progress comes some 200 times, and after the last step", arguments: [(7, 7), (200, 200), (399, 399), (1000, 200)])
  func progress(steps: Int, calls: Int) throws {
    var options = PretrainOptions()
    options.steps = steps
    options.batchSize = 2
    var done: [Int] = []
    try ChunkGRPOTrainer(tinyOptions()).pretrain(images: oneHots, conditions: oneHots, options: options) {
      step, total, _ in
      done.append(step)
      #expect(total == steps)
    }
    #expect(done.count == calls && done.last == steps && done == done.sorted())
  }
}
