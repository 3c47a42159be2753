import Glibc

/// Runs `body` over contiguous parts of 0 ..< units, on up to `threads` threads, the caller's among them.
///
/// What a unit computes must not depend on the part that it falls into: then the results are the same for any number.
package func parallel(units: Int, threads: Int, body: (Range<Int>) -> Void) {
  let workers = min(threads, units)
  if workers <= 1 { return body(0..<units) }
  withoutActuallyEscaping(body) { body in
    withUnsafeTemporaryAllocation(of: Part.self, capacity: workers) { parts in
      guard let parts = parts.baseAddress else { return }
      for w in 0..<workers {
        (parts + w).initialize(to: Part(body: body, range: (units * w / workers)..<(units * (w + 1) / workers)))
      }
      for w in 1..<workers {
        // A thread that cannot be had is no error: its part runs here.
        parts[w].started = pthread_create(&parts[w].thread, nil, runPart, parts + w) == 0
      }
      for w in 0..<workers where !parts[w].started { body(parts[w].range) }
      for w in 1..<workers where parts[w].started { pthread_join(parts[w].thread, nil) }
      parts.deinitialize(count: workers)
    }
  }
}

private struct Part {
  let body: (Range<Int>) -> Void
  let range: Range<Int>
  var thread = pthread_t()
  var started = false
}

private func runPart(_ argument: UnsafeMutableRawPointer?) -> UnsafeMutableRawPointer? {
  if let part = argument?.assumingMemoryBound(to: Part.self) { part.pointee.body(part.pointee.range) }
  return nil
}

/// `threads` as options give it: 0 is one a core.
package func resolvedThreads(_ threads: Int) throws -> Int {
  try require((0...256).contains(threads), "threads = \(threads) is outside 0 … 256")
  return threads == 0 ? max(1, min(256, sysconf(Int32(_SC_NPROCESSORS_ONLN)))) : threads
}
