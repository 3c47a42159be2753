import Glibc

/// Which digit does an image show? 64 → hidden → 10 with ReLU, trained by plain stochastic gradient descent, image by
/// image.
struct Classifier {
  /// Ten scores; the last six are idle.
  private typealias Scores = SIMD16<Float>

  /// Eight rows of pixels a hidden unit.
  private var input: [SIMD8<Float>]
  private var inputBias: [Float]
  /// Of each hidden unit.
  private var output: [Scores]
  private var outputBias = Scores.zero

  init(_ digits: Digits, hidden: Int, epochs: Int = 30, seed: UInt64) {
    var random = SplitMix64(seed: seed)
    // Uniform, of variance 2/64 and 1/hidden.
    let (a, b) = ((6 / 64 as Float).squareRoot(), (3 / Float(hidden)).squareRoot())
    input = (0..<8 * hidden).map { _ in .random(in: -a...a, using: &random) }
    inputBias = [Float](repeating: 0, count: hidden)
    output = (0..<hidden).map { _ in .random(in: -b...b, using: &random) }
    let steps = epochs * digits.count
    for step in 0..<steps {
      let i = Int.random(in: 0..<digits.count, using: &random)
      // Noise, because drawn digits are not as clean as scanned ones.
      let rows = digits.images[i].rows.map { $0 + SIMD8<Float>.random(in: -0.5...0.5, using: &random) }
      learn(rows, digits.labels[i], rate: 0.02 * (1 - Float(step) / Float(steps)))
    }
  }

  func guess(_ image: Pixels) -> Int {
    let logProbs = logSoftmax(activations(image.rows))
    return logProbs.indices.max { logProbs[$0] < logProbs[$1] } ?? 0
  }

  /// Share of the images in which it sees these digits.
  func accuracy(_ images: [Pixels], _ digits: [Int]) -> Double {
    Double(zip(images, digits).count { guess($0) == $1 }) / Double(images.count)
  }

  /// The hidden units: what it sees in an image.
  func features(_ image: Pixels) -> [Float] { activations(image.rows) }

  private func activations(_ rows: [SIMD8<Float>]) -> [Float] {
    inputBias.indices.map { unit in
      var sum = SIMD8<Float>.zero
      for r in 0..<8 { sum += input[8 * unit + r] * rows[r] }
      return max(0, sum.sum() + inputBias[unit])
    }
  }

  private func logSoftmax(_ active: [Float]) -> [Float] {
    var scores = outputBias
    for unit in active.indices { scores += output[unit] * active[unit] }
    let ten = (0..<10).map { scores[$0] }
    let most = ten.max() ?? 0
    let logSum = most + log(ten.reduce(0) { $0 + exp($1 - most) })
    return ten.map { $0 - logSum }
  }

  /// One step down the gradient of the cross-entropy.
  private mutating func learn(_ rows: [SIMD8<Float>], _ label: Int, rate: Float) {
    let active = activations(rows)
    var step = Scores.zero
    for (digit, logProb) in logSoftmax(active).enumerated() {
      step[digit] = rate * ((digit == label ? 1 : 0) - exp(logProb))
    }
    outputBias += step
    for unit in active.indices where active[unit] > 0 {
      let change = (output[unit] * step).sum()
      output[unit] += step * active[unit]
      inputBias[unit] += change
      for r in 0..<8 { input[8 * unit + r] += rows[r] * change }
    }
  }
}

extension Pixels {
  /// For arithmetic: the compiler makes a poor job of 64 numbers at once.
  fileprivate var rows: [SIMD8<Float>] {
    withUnsafeBytes(of: self) { Array($0.bindMemory(to: SIMD8<Float>.self)) }
  }
}
