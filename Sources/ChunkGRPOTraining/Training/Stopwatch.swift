import Glibc

struct Stopwatch {
  private var last = Stopwatch.now()

  /// Seconds since the last lap, or the start.
  mutating func lap() -> Double {
    let now = Stopwatch.now()
    defer { last = now }
    return now - last
  }

  private static func now() -> Double {
    var time = timespec()
    clock_gettime(CLOCK_MONOTONIC, &time)
    return Double(time.tv_sec) + 1e-9 * Double(time.tv_nsec)
  }
}
