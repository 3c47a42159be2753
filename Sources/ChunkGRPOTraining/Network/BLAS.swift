internal import COpenBLAS
internal import CSupport
import ChunkGRPO
internal import Platform

/// The OpenBLAS of this process. `Linear` says which products it takes.
///
/// A release of OpenBLAS takes processors newer than itself for ones of 2004 ("Prescott") and is then four to five
/// times slower than it could be; 0.3.21, of Debian 12, does. `OPENBLAS_CORETYPE=SkylakeX` (with AVX-512) or `Haswell`
/// (with AVX2 and FMA) in the environment tells it what the processor can do.
enum BLAS {
  /// Makes the process's first product. OpenBLAS then maps a buffer that it keeps, and waits without end where there is
  /// no memory for it.
  ///
  /// - Throws: `.outOfMemory` where there is none.
  static func prepare() throws {
    try locked {
      if isReady { return }
      do { _ = try Buffer<UInt8>(count: BLASBuffers.size, for: "the buffer of OpenBLAS") }
      // OpenBLAS makes smaller products without the buffer.
      let size = 160
      let factor = try Buffer<Float>(count: 2 * size * size, for: "OpenBLAS's first product")
      try Float.gemm(
        false, false, size, size, size, factor.base, size, factor.base, size, 0, factor.base + size * size, size)
      isReady = true
    }
  }

  /// OpenBLAS ends the process where it has no memory for what it keeps beside its buffer: copies of the factors of a small
  /// product, a list of the parts of one that several threads take, and, in a new process, the stacks of these threads.
  ///
  /// - Throws: `.outOfMemory` where there is none.
  static func requireRoom(_ m: Int, _ n: Int, _ k: Int) throws {
    var bytes = m &* n &* k <= 1_000_000 ? 4 &* k &* (m &+ n) : 0
    let threads = Int(openblas_get_num_threads())
    if threads > 1 {
      let areStarted = chunkgrpo_support_read(threadsAreStarted) != 0
      bytes += sizeOfParts &+ (areStarted ? 0 : threads &* Int(chunkgrpo_support_stack_size()))
    }
    guard chunkgrpo_support_has_room(bytes) != 0 else {
      throw ChunkGRPOError.outOfMemory("no memory for a product of OpenBLAS, \(bytes) bytes")
    }
    if threads > 1 { chunkgrpo_support_write(threadsAreStarted, 1) }
  }

  /// Of the list of parts: for each pair of the threads that OpenBLAS was built for a line of the cache or two
  /// (`driver/level3/level3_thread.c`, `job_t`).
  private static let sizeOfParts = {
    let name = "MAX_THREADS="
    guard let config = openblas_get_config(), let place = strstr(config, name) else { return 8 << 20 }
    let most = Int(atoi(place + name.utf8.count))
    return most &* most &* 128
  }()

  nonisolated(unsafe) private static let threadsAreStarted = {
    let areStarted = UnsafeMutablePointer<Int32>.allocate(capacity: 1)
    areStarted.pointee = 0
    return areStarted
  }()

  /// Runs `body`, whose threads each call OpenBLAS, with products that take one thread each. The setting is the
  /// process's: the first user makes it, and the last takes it back.
  static func onOneThread(_ body: () -> Void) {
    locked {
      if users == 0 {
        if !isOwed { threads = openblas_get_num_threads() }
        isOwed = false
        if threads != 1 { openblas_set_num_threads(1) }
      }
      users += 1
    }
    defer {
      locked {
        users -= 1
        if users == 0, threads != 1 { openblas_set_num_threads(threads) }
      }
    }
    body()
  }

  // Guarded by the mutex.
  nonisolated(unsafe) private static var isReady = false
  nonisolated(unsafe) private static var users = 0
  nonisolated(unsafe) private static var threads: Int32 = 1
  /// Whether this process was forked while others used OpenBLAS: their setting is its own, and nobody takes it back.
  nonisolated(unsafe) private static var isOwed = false

  nonisolated(unsafe) private static let mutex = {
    let mutex = UnsafeMutablePointer<pthread_mutex_t>.allocate(capacity: 1)
    pthread_mutex_init(mutex, nil)
    chunkgrpo_support_reset_in_child { BLAS.reset() }
    return mutex
  }()

  private static func reset() {
    pthread_mutex_init(mutex, nil)
    isOwed = isOwed || users > 0
    users = 0
    chunkgrpo_support_write(threadsAreStarted, 0)
  }

  private static func locked<R>(_ body: () throws -> R) rethrows -> R {
    pthread_mutex_lock(mutex)
    defer { pthread_mutex_unlock(mutex) }
    return try body()
  }
}
