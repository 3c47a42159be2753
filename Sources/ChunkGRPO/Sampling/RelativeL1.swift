/// Relative L1 change (B, n) of latents (B, n + 1, …): d_t = mean|x_{t+1} − x_t| / (mean|x_t| + 1e-8), the curve that chunks
/// follow (arXiv 2510.21583). Latents of one step have none, (B, 0).
public func relativeL1(_ latents: TrajectoryView, threads: Int = 1) throws -> [Double] {
  var result = [Double](
    repeating: 0, count: try checkedProduct([latents.batch, max(0, latents.count - 1)], "relative_l1"))
  try relativeL1(latents, threads: threads, into: &result)
  return result
}

package func relativeL1(_ latents: TrajectoryView, threads: Int, into result: UnsafeMutablePointer<Double>) throws {
  let threads = try resolvedThreads(threads)
  let n = latents.count - 1
  for t in 0..<n {
    let pass = ChangePass(x: latents.latents(t).rows, next: latents.latents(t + 1).rows, step: t,
      results: StepNumbers(relativeL1: result + t, stride: n))
    let broken = try pass.run(over: latents.latents(t), threads: threads, keeping: latents) { sample, _, sums in
      let value = sums.relativeL1(elements: latents.elements)
      result[sample &* n &+ t] = value
      return value
    }
    try throwIfBroken(broken, from: BatchSteps(t), "latents")
  }
}
