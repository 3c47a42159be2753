/// Relative L1 change (B, n) of latents (B, n + 1, …): d_t = mean|x_{t+1} − x_t| / (mean|x_t| + 1e-8), the temporal
/// dynamics that chunks follow (arXiv 2510.21583).
public func relativeL1(_ latents: TrajectoryView, threads: Int = 1, into result: UnsafeMutablePointer<Double>) throws {
  try require(latents.count >= 2, "latents hold \(latents.count) step; a change needs two")
  let threads = try resolvedThreads(threads)
  let n = latents.count - 1
  let count = Double(latents.elements)
  for t in 0..<n {
    var broken: Int?
    func finish(_ sample: Int, _ sums: SampleSums) {
      let value = (sums.change / count) / (sums.magnitude / count + 1e-8)
      if !value.isFinite && broken == nil { broken = sample }
      result[sample &* n &+ t] = value
    }
    withExtendedLifetime(latents) {
      ChangePass(x: latents[t].rows, next: latents[t + 1].rows).run(threads: threads, finish: finish)
    }
    try throwIfBroken(broken, step: t, "latents")
  }
}
