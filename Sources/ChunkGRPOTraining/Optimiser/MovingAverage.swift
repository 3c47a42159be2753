/// average ← decay·average + (1 − decay)·weights, for decay in [0, 1].
func updateAverage(
  _ average: UnsafeMutablePointer<Float>, weights: UnsafePointer<Float>, count: Int, decay: Double
) {
  let share = Float(1 - decay)
  lanes(count) { i, n in
    let a = load(average, i, n)
    store(a + (load(weights, i, n) - a) * share, average, i, n)
  }
}
