internal import COpenBLAS
import ChunkGRPO
internal import Platform

/// The OpenBLAS of this process. `Linear` says which products it takes.
///
/// A release of OpenBLAS takes processors newer than itself for ones of 2004 ("Prescott") and is then four to five times slower
/// than it could be; 0.3.21, of Debian 12, does. `OPENBLAS_CORETYPE=SkylakeX` (with AVX-512) or `Haswell` (with AVX2 and
/// FMA) in the environment tells it what the processor can do.
enum BLAS {
  /// Makes the process's first product. OpenBLAS then maps a buffer that it keeps, and waits without end where there is no
  /// memory for it.
  ///
  /// - Throws: `.outOfMemory` where there is none.
  static func prepare() throws {
    try users.locked { state in
      if state.isReady { return }
      do { _ = try Buffer<UInt8>(count: 132 << 20, for: "the buffer of OpenBLAS") }
      // OpenBLAS makes smaller products without the buffer.
      let size = 160
      let factor = try Buffer<Float>(count: 2 * size * size, for: "OpenBLAS's first product")
      Float.gemm(
        false, false, size, size, size, factor.base, size, factor.base, size, 0, factor.base + size * size, size)
      state.isReady = true
    }
  }

  /// Runs `body`, whose threads each call OpenBLAS, with products that take one thread each. The setting is the process's:
  /// the first user makes it, and the last takes it back.
  static func onOneThread(_ body: () -> Void) {
    users.locked {
      if $0.count == 0 {
        $0.threads = openblas_get_num_threads()
        if $0.threads != 1 { openblas_set_num_threads(1) }
      }
      $0.count += 1
    }
    defer {
      users.locked {
        $0.count -= 1
        if $0.count == 0, $0.threads != 1 { openblas_set_num_threads($0.threads) }
      }
    }
    body()
  }

  private static let users = Users()

  private final class Users: @unchecked Sendable {
    struct State {
      var mutex = pthread_mutex_t()
      var isReady = false
      var count = 0
      var threads: Int32 = 1
    }

    private let state: UnsafeMutablePointer<State>

    init() {
      state = .allocate(capacity: 1)
      state.initialize(to: State())
      pthread_mutex_init(&state.pointee.mutex, nil)
    }

    func locked<R>(_ body: (inout State) throws -> R) rethrows -> R {
      pthread_mutex_lock(&state.pointee.mutex)
      defer { pthread_mutex_unlock(&state.pointee.mutex) }
      return try body(&state.pointee)
    }
  }
}
