/// Relative L1 change (B, n) of latents (B, n + 1, …): d_t = mean|x_{t+1} − x_t| / (mean|x_t| + 1e-8), the curve that chunks
/// follow (arXiv 2510.21583). Latents of one step have none, (B, 0).
public func relativeL1(_ latents: TrajectoryView, threads: Int = 1) throws -> [Double] {
  let count = try checkedProduct([latents.batch, max(0, latents.count - 1)], "relative_l1")
  return try latents.latents(0).numbers(count) { try relativeL1(latents, threads: threads, into: $0) }
}

package func relativeL1(_ latents: TrajectoryView, threads: Int, into result: UnsafeMutablePointer<Double>?) throws {
  let threads = try resolvedThreads(threads)
  let n = latents.count - 1
  try latents.latents(0).checkPart(numbers: result != nil, "relative_l1")
  for t in 0..<n {
    let pass = ChangePass(
      x: latents.latents(t).rows, next: latents.latents(t + 1).rows, step: t,
      results: StepNumbers(relativeL1: result.map { $0 + t }, stride: n))
    let partSums = latents.latents(0).partSums(0b110, steps: n, at: t)
    let broken = try pass.run(over: latents.latents(t), threads: threads, keeping: latents, partSums: partSums) {
      sample, _, sums in
      let value = sums.relativeL1(elements: pass.x.length(sample))
      result?[sample &* n &+ t] = value
      return value
    }
    try throwIfBroken(broken, from: BatchSteps(t), "latents")
  }
}
