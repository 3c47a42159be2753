/// Relative L1 change (B, n) of latents (B, n + 1, …): d_t = mean|x_{t+1} − x_t| / (mean|x_t| + 1e-8), the curve that chunks
/// follow (arXiv 2510.21583).
public func relativeL1(_ latents: TrajectoryView, threads: Int = 1) throws -> [Double] {
  try require(latents.count >= 2, "latents hold \(latents.count) step; a change needs two")
  var result = [Double](repeating: 0, count: try checkedProduct([latents.batch, latents.count - 1], "relative_l1"))
  try relativeL1(latents, threads: threads, into: &result)
  return result
}

package func relativeL1(_ latents: TrajectoryView, threads: Int, into result: UnsafeMutablePointer<Double>) throws {
  try require(latents.count >= 2, "latents hold \(latents.count) step; a change needs two")
  let threads = try resolvedThreads(threads)
  let n = latents.count - 1
  for t in 0..<n {
    let pass = ChangePass(x: latents.latents(t).rows, next: latents.latents(t + 1).rows)
    let broken = pass.run(threads: threads, keeping: latents) { sample, _, sums in
      let value = sums.relativeL1(elements: latents.elements)
      result[sample &* n &+ t] = value
      return value
    }
    try throwIfBroken(broken, from: t, "latents")
  }
}
