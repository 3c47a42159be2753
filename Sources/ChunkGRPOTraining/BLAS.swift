internal import COpenBLAS
internal import Platform

/// The OpenBLAS of this process. It takes the products that the library's own kernel leaves: those of networks too large for
/// the caches, with sizes that are no multiples of 64, and all on processors without AVX2 and FMA.
///
/// A release of OpenBLAS takes processors newer than itself for ones of 2004 ("Prescott") and is then four to five times slower
/// than it could be; 0.3.21, of Debian 12, does. `OPENBLAS_CORETYPE=SkylakeX` (with AVX-512) or `Haswell` (with AVX2 and
/// FMA) in the environment tells it what the processor can do.
public enum BLAS {
  /// What OpenBLAS takes the processor for, such as "SkylakeX".
  public static var kernel: String { openblas_get_corename().map { String(cString: $0) } ?? "unknown" }

  /// Number of threads of a product.
  public static var threads: Int { Int(openblas_get_num_threads()) }

  /// Runs `body`, whose threads each call OpenBLAS, with products that take one thread each. The setting is one for the
  /// process: the first who comes makes it and the last who leaves takes it back.
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
      var count = 0
      var threads: Int32 = 1
    }

    private let state: UnsafeMutablePointer<State>

    init() {
      state = .allocate(capacity: 1)
      state.initialize(to: State())
      pthread_mutex_init(&state.pointee.mutex, nil)
    }

    func locked(_ body: (inout State) -> Void) {
      pthread_mutex_lock(&state.pointee.mutex)
      body(&state.pointee)
      pthread_mutex_unlock(&state.pointee.mutex)
    }
  }
}
