internal import CSupport
internal import Platform

// All passes of a process share one thread pool. If another pass is using it, or a pass is called from within another, it
// runs on its own thread: many callers together take no more threads than one. Idle threads spin for 50 µs, because the
// next pass is often a few microseconds away and waking a thread takes tens, then sleep. The pool grows to what is asked
// for, and restarts after `fork`.

/// Runs `body` over parts of 0 ..< units, on up to `threads` threads, the caller's among them.
///
/// A unit must not depend on the part that it falls into: then the results are the same for any number of threads.
package func parallel(units: Int, threads: Int, body: (Range<Int>) -> Void) {
  withoutActuallyEscaping(body) { body in
    withUnsafePointer(to: body) {
      parallel(units: units, threads: threads, context: UnsafeMutableRawPointer(mutating: $0)) { context, units in
        context.assumingMemoryBound(to: ((Range<Int>) -> Void).self).pointee(units)
      }
    }
  }
}

/// The same for a `body` that captures nothing and gets `context`: it takes no memory from the heap.
func parallel(
  units: Int, threads: Int, context: UnsafeMutableRawPointer,
  body: @escaping (UnsafeMutableRawPointer, Range<Int>) -> Void
) {
  let workers = threads == 1 ? 1 : min(threads, units, threadLimit)
  guard workers > 1, pool.begin() else { return body(context, 0..<units) }
  pool.run(units: units, workers: workers, context: context, body: body)
}

/// The most threads that any pass of this process takes, the caller's among them; 1 = no threads but the callers'.
public func setThreadLimit(_ limit: Int) throws {
  try require((1...256).contains(limit), "thread limit = \(limit) is outside 1 … 256")
  pool.limit = limit
}

/// See `setThreadLimit`; 256 at first.
public var threadLimit: Int { pool.limit }

/// `threads` as options give it: 0 is one per processor that this process may run on.
package func resolvedThreads(_ threads: Int) throws -> Int {
  try require((0...256).contains(threads), "threads = \(threads) is outside 0 … 256")
  return threads == 0 ? max(1, min(256, Int(chunkgrpo_support_cores()))) : threads
}

private let pool = ThreadPool()

private final class ThreadPool: @unchecked Sendable {
  /// In C's memory, at a fixed address. `busy` is held by the pass that has the pool; `mutex` guards all that follows it, but
  /// `next`, which the threads of a pass add to as they take its parts.
  private struct State {
    var busy = pthread_mutex_t()
    var mutex = pthread_mutex_t()
    var work = pthread_cond_t(), done = pthread_cond_t()
    var body: ((UnsafeMutableRawPointer, Range<Int>) -> Void)?
    var context: UnsafeMutableRawPointer?
    var units = 0, next = 0, part = 1
    /// Threads that sleep or work; how many more may join this pass.
    var threads = 0, places = 0
    /// Passes so far, and the threads that are within `body`: what threads wait for, also without the mutex.
    var passes: Int32 = 0, active: Int32 = 0
    /// How long they stay awake for it, in nanoseconds: not at all where there is one processor for all.
    var patience = 0
    var limit = 256
  }

  private let state: UnsafeMutablePointer<State>

  init() {
    state = .allocate(capacity: 1)
    state.initialize(to: State())
    reset()
    chunkgrpo_support_reset_in_child { pool.reset() }
  }

  var limit: Int {
    get { locked { state.pointee.limit } }
    set { locked { state.pointee.limit = newValue } }
  }

  /// In a new process none of the threads is there, and whatever they held is free.
  private func reset() {
    pthread_mutex_init(&state.pointee.busy, nil)
    pthread_mutex_init(&state.pointee.mutex, nil)
    pthread_cond_init(&state.pointee.work, nil)
    pthread_cond_init(&state.pointee.done, nil)
    state.pointee.units = 0
    state.pointee.next = 0
    state.pointee.threads = 0
    chunkgrpo_support_write(&state.pointee.active, 0)
    state.pointee.places = 0
    state.pointee.patience = chunkgrpo_support_cores() > 1 ? 50_000 : 0
  }

  private func locked<R>(_ body: () -> R) -> R {
    pthread_mutex_lock(&state.pointee.mutex)
    defer { pthread_mutex_unlock(&state.pointee.mutex) }
    return body()
  }

  /// Whether the pool is this caller's now.
  func begin() -> Bool { pthread_mutex_trylock(&state.pointee.busy) == 0 }

  func run(
    units: Int, workers: Int, context: UnsafeMutableRawPointer,
    body: @escaping (UnsafeMutableRawPointer, Range<Int>) -> Void
  ) {
    let cancel = chunkgrpo_support_hold_cancellation()
    defer {
      pthread_mutex_unlock(&state.pointee.busy)
      chunkgrpo_support_release_cancellation(cancel)
    }
    pthread_mutex_lock(&state.pointee.mutex)
    state.pointee.body = body
    state.pointee.context = context
    state.pointee.units = units
    state.pointee.next = 0
    state.pointee.part = max(1, units / (workers &* 8))
    state.pointee.places = workers &- 1
    chunkgrpo_support_add(&state.pointee.passes, 1)
    while state.pointee.threads < workers &- 1, start() { state.pointee.threads &+= 1 }
    for _ in 1..<workers { pthread_cond_signal(&state.pointee.work) }
    // A fork waits for parts, and not for a thread that waits for them.
    let visit = chunkgrpo_support_open()
    takeParts(context, body)
    stayAwake(for: &state.pointee.active) { $0 == 0 }
    while state.pointee.active > 0 { pthread_cond_wait(&state.pointee.done, &state.pointee.mutex) }
    chunkgrpo_support_close(visit)
    state.pointee.body = nil
    pthread_mutex_unlock(&state.pointee.mutex)
  }

  private var hasWork: Bool {
    state.pointee.places > 0 && chunkgrpo_support_take(&state.pointee.next, 0) < state.pointee.units
  }

  /// Gives the mutex away until `number` is another, and again while it is not the one wanted; but not for long.
  private func stayAwake(for number: UnsafeMutablePointer<Int32>, until wanted: (Int32) -> Bool) {
    guard state.pointee.patience > 0 else { return }
    var before = number.pointee
    while !wanted(before) {
      pthread_mutex_unlock(&state.pointee.mutex)
      chunkgrpo_support_spin(number, before, state.pointee.patience)
      pthread_mutex_lock(&state.pointee.mutex)
      if number.pointee == before { return }
      before = number.pointee
    }
  }

  /// Gives the mutex away while there are parts to take.
  private func takeParts(
    _ context: UnsafeMutableRawPointer, _ body: (UnsafeMutableRawPointer, Range<Int>) -> Void
  ) {
    let (units, part) = (state.pointee.units, state.pointee.part)
    pthread_mutex_unlock(&state.pointee.mutex)
    while true {
      let first = chunkgrpo_support_take(&state.pointee.next, part)
      if first >= units { break }
      chunkgrpo_support_begin_part()
      body(context, first..<min(units, first &+ part))
      chunkgrpo_support_end_part()
    }
    pthread_mutex_lock(&state.pointee.mutex)
  }

  /// A thread that cannot be had is no error: the others take its parts.
  private func start() -> Bool {
    // Signals are for the host's own threads.
    var all = sigset_t()
    var before = sigset_t()
    sigfillset(&all)
    pthread_sigmask(SIG_SETMASK, &all, &before)
    defer { pthread_sigmask(SIG_SETMASK, &before, nil) }
    return chunkgrpo_support_start { _ in
      pool.work()
      return nil
    } != 0
  }

  private func work() {
    // It has begun in the mode of the thread that started it.
    chunkgrpo_support_use_mode(UInt(CHUNKGRPO_SUPPORT_DEFAULT_MODE))
    pthread_mutex_lock(&state.pointee.mutex)
    while true {
      if !hasWork { stayAwake(for: &state.pointee.passes) { _ in hasWork } }
      while !hasWork { pthread_cond_wait(&state.pointee.work, &state.pointee.mutex) }
      guard let body = state.pointee.body, let context = state.pointee.context else { continue }
      state.pointee.places &-= 1
      chunkgrpo_support_add(&state.pointee.active, 1)
      takeParts(context, body)
      chunkgrpo_support_add(&state.pointee.active, -1)
      if state.pointee.active == 0 { pthread_cond_signal(&state.pointee.done) }
    }
  }
}
