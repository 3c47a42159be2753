internal import COpenBLAS

/// The OpenBLAS of this process.
///
/// A release of OpenBLAS takes processors newer than itself for ones of 2004 ("Prescott") and is then four to five times slower
/// than it could be; 0.3.21, of Debian 12, does. `OPENBLAS_CORETYPE=SkylakeX` (with AVX-512) or `Haswell` (with AVX2 and
/// FMA) in the environment tells it what the processor can do.
public enum BLAS {
  /// What OpenBLAS takes the processor for, such as "SkylakeX".
  public static var kernel: String { openblas_get_corename().map { String(cString: $0) } ?? "unknown" }

  /// Number of threads of a product.
  public static var threads: Int { Int(openblas_get_num_threads()) }
}
