/// √Σg². Not finite where a gradient is not, or where its square overflows.
func euclideanNorm(_ gradients: UnsafePointer<Float>, count: Int) -> Double {
  // Blocks in f32, their sums in f64.
  var total = 0.0
  var start = 0
  while start < count {
    let block = min(4096, count &- start)
    let part = gradients + start
    var sum = SIMD8<Float>.zero
    lanes(block) { i, n in
      let g = load(part, i, n)
      sum += g * g
    }
    total += Double(sum.sum())
    start &+= block
  }
  return total.squareRoot()
}
