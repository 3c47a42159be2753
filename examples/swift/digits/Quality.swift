import Glibc

/// How good drawn digits are: right, as varied as drawings of a digit are, and like real ones.
struct Quality {
  /// Share of the images that show the digit asked for, by the reward model and by the judge.
  var rewardModel, judge: Double
  /// Deviation of a pixel over the images of one digit, the mean over pixels and digits, of those that the judge reads
  /// as asked.
  var spread: Double
  /// Between the judge's features of the images and of the real digits.
  var frechet: Double
}

/// Deviation of a pixel over the images of a label, the mean over pixels and over the labels that have images.
func spread(_ images: [Pixels], _ labels: [Int]) -> Double {
  var sum = 0.0
  var count = 0
  for label in 0..<10 {
    let own = zip(images, labels).filter { $0.1 == label }.map { SIMD64<Double>($0.0) }
    guard !own.isEmpty else { continue }
    let mean = own.reduce(.zero, +) / Double(own.count)
    let variance = own.reduce(.zero) { $0 + ($1 - mean) * ($1 - mean) } / Double(own.count)
    sum += variance.squareRoot().sum() / 64
    count += 1
  }
  return sum / Double(max(1, count))
}

/// Mean and covariance of rows of features, as a Gaussian.
struct Gaussian {
  let mean: [Double]
  let covariance: Matrix

  init(_ rows: [[Float]]) {
    let size = rows.first?.count ?? 0
    var mean = [Double](repeating: 0, count: size)
    for row in rows { for i in 0..<size { mean[i] += Double(row[i]) / Double(rows.count) } }
    var covariance = Matrix(size: size)
    for row in rows {
      let centred = (0..<size).map { Double(row[$0]) - mean[$0] }
      for i in 0..<size where centred[i] != 0 {
        for j in 0..<size { covariance[i, j] += centred[i] * centred[j] / Double(rows.count - 1) }
      }
    }
    (self.mean, self.covariance) = (mean, covariance)
  }

  /// |m − m'|² + tr(C + C' − 2·(C^½·C'·C^½)^½), the Fréchet distance of FID (arXiv 1706.08500).
  func frechetDistance(to other: Gaussian) -> Double {
    let root = covariance.squareRoot
    let product = root * other.covariance * root
    let means = zip(mean, other.mean).reduce(0) { $0 + ($1.0 - $1.1) * ($1.0 - $1.1) }
    return means + covariance.trace + other.covariance.trace - 2 * product.squareRoot.trace
  }
}

/// Square, and symmetric where a root is asked for.
struct Matrix {
  let size: Int
  private var values: [Double]

  init(size: Int) {
    self.size = size
    values = [Double](repeating: 0, count: size * size)
  }

  subscript(i: Int, j: Int) -> Double {
    get { values[i * size + j] }
    set { values[i * size + j] = newValue }
  }

  var trace: Double { (0..<size).reduce(0) { $0 + self[$1, $1] } }

  static func * (a: Matrix, b: Matrix) -> Matrix {
    var product = Matrix(size: a.size)
    for i in 0..<a.size {
      for k in 0..<a.size { for j in 0..<a.size { product[i, j] += a[i, k] * b[k, j] } }
    }
    return product
  }

  /// V·√Λ·Vᵀ; eigenvalues that rounding took below 0 are 0.
  var squareRoot: Matrix {
    let (eigenvalues, vectors) = eigen
    var root = Matrix(size: size)
    for k in 0..<size {
      let value = max(0, eigenvalues[k]).squareRoot()
      for i in 0..<size { for j in 0..<size { root[i, j] += value * vectors[i, k] * vectors[j, k] } }
    }
    return root
  }

  /// Cyclic Jacobi (Golub and Van Loan, Matrix Computations, 8.5).
  private var eigen: (values: [Double], vectors: Matrix) {
    var (a, v) = (self, Matrix(size: size))
    for i in 0..<size { v[i, i] = 1 }
    for _ in 0..<30 {
      for p in 0..<size {
        for q in (p + 1)..<max(p + 1, size) where abs(a[p, q]) > 1e-14 * (abs(a[p, p]) + abs(a[q, q])) {
          let theta = (a[q, q] - a[p, p]) / (2 * a[p, q])
          let t = (theta < 0 ? -1 : 1) / (abs(theta) + (theta * theta + 1).squareRoot())
          let c = 1 / (t * t + 1).squareRoot()
          a.rotate(p, q, c, t * c)
          a.rotateRows(p, q, c, t * c)
          v.rotate(p, q, c, t * c)
        }
      }
    }
    return ((0..<size).map { a[$0, $0] }, v)
  }

  /// Columns p and q.
  private mutating func rotate(_ p: Int, _ q: Int, _ c: Double, _ s: Double) {
    for k in 0..<size { (self[k, p], self[k, q]) = (c * self[k, p] - s * self[k, q], s * self[k, p] + c * self[k, q]) }
  }

  private mutating func rotateRows(_ p: Int, _ q: Int, _ c: Double, _ s: Double) {
    for k in 0..<size { (self[p, k], self[q, k]) = (c * self[p, k] - s * self[q, k], s * self[p, k] + c * self[q, k]) }
  }
}
