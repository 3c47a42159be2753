internal import COpenBLAS
import ChunkGRPO
internal import Platform

/// OpenBLAS has a buffer for each thread that is within a product. It maps one when they are all in use, keeps it, and
/// waits without end where there is no memory for it. Here threads wait instead, for a buffer that another gives back.
enum BLASBuffers {
  /// What OpenBLAS maps for one, and a little more.
  static let size = 132 << 20
  /// One trainer needs eight at the most; of more callers some wait.
  private static let most = 64

  // Guarded by the mutex.
  nonisolated(unsafe) private static var mapped = 1
  nonisolated(unsafe) private static var inUse = 0

  nonisolated(unsafe) private static let mutex = {
    let mutex = UnsafeMutablePointer<pthread_mutex_t>.allocate(capacity: 1)
    pthread_mutex_init(mutex, nil)
    return mutex
  }()
  nonisolated(unsafe) private static let isFree = {
    let condition = UnsafeMutablePointer<pthread_cond_t>.allocate(capacity: 1)
    pthread_cond_init(condition, nil)
    return condition
  }()

  /// Runs a product while there is a buffer for it.
  static func withOne(_ product: () -> Void) {
    pthread_mutex_lock(mutex)
    while inUse >= mapped && !(mapped < most && map(mapped + 1)) { pthread_cond_wait(isFree, mutex) }
    inUse += 1
    pthread_mutex_unlock(mutex)
    product()
    pthread_mutex_lock(mutex)
    inUse -= 1
    pthread_cond_signal(isFree)
    pthread_mutex_unlock(mutex)
  }

  /// Has OpenBLAS map buffers until there are `count`; false where there is no memory for them. The mutex is held.
  private static func map(_ count: Int) -> Bool {
    guard hasMemory(count) else { return false }
    chunkgrpo_blas_map(Int32(count))
    mapped = count
    return true
  }

  /// Memory that is never written to takes addresses alone.
  private static func hasMemory(_ buffers: Int) -> Bool {
    var probes: [Buffer<UInt8>] = []
    for _ in 0..<buffers {
      guard let probe = try? Buffer<UInt8>(count: size, for: "a buffer of OpenBLAS") else { return false }
      probes.append(probe)
    }
    return withExtendedLifetime(probes) { true }
  }
}
