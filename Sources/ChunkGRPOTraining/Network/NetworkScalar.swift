internal import COpenBLAS
import ChunkGRPO
internal import KernelTable

/// What the network computes in: `Float` to train, `Double` to check it.
public protocol NetworkScalar: BinaryFloatingPoint & SIMDScalar & BitwiseCopyable & Codable {
  static var elementType: ElementType { get }

  /// C = op(A)·op(B) + beta·C for row-major matrices, by OpenBLAS; op(A) is (m, k), op(B) (k, n).
  static func gemm(
    _ transposeA: Bool, _ transposeB: Bool, _ m: Int, _ n: Int, _ k: Int,
    _ a: UnsafePointer<Self>, _ lda: Int, _ b: UnsafePointer<Self>, _ ldb: Int, _ beta: Self,
    _ c: UnsafeMutablePointer<Self>, _ ldc: Int)
}

extension NetworkScalar {
  static var kernels: any NetworkKernels.Type { elementType == .float32 ? kernelSet.network32 : kernelSet.network64 }
}

// Sizes fit Int32: the shape bounds them and rows come in bounded batches.
extension Float: NetworkScalar {
  public static var elementType: ElementType { .float32 }

  public static func gemm(
    _ transposeA: Bool, _ transposeB: Bool, _ m: Int, _ n: Int, _ k: Int,
    _ a: UnsafePointer<Float>, _ lda: Int, _ b: UnsafePointer<Float>, _ ldb: Int, _ beta: Float,
    _ c: UnsafeMutablePointer<Float>, _ ldc: Int
  ) {
    cblas_sgemm(
      CblasRowMajor, transposeA ? CblasTrans : CblasNoTrans, transposeB ? CblasTrans : CblasNoTrans,
      Int32(truncatingIfNeeded: m), Int32(truncatingIfNeeded: n), Int32(truncatingIfNeeded: k), 1, a,
      Int32(truncatingIfNeeded: lda), b,
      Int32(truncatingIfNeeded: ldb), beta, c, Int32(truncatingIfNeeded: ldc))
  }
}

extension Double: NetworkScalar {
  public static var elementType: ElementType { .float64 }

  public static func gemm(
    _ transposeA: Bool, _ transposeB: Bool, _ m: Int, _ n: Int, _ k: Int,
    _ a: UnsafePointer<Double>, _ lda: Int, _ b: UnsafePointer<Double>, _ ldb: Int, _ beta: Double,
    _ c: UnsafeMutablePointer<Double>, _ ldc: Int
  ) {
    cblas_dgemm(
      CblasRowMajor, transposeA ? CblasTrans : CblasNoTrans, transposeB ? CblasTrans : CblasNoTrans,
      Int32(truncatingIfNeeded: m), Int32(truncatingIfNeeded: n), Int32(truncatingIfNeeded: k), 1, a,
      Int32(truncatingIfNeeded: lda), b,
      Int32(truncatingIfNeeded: ldb), beta, c, Int32(truncatingIfNeeded: ldc))
  }
}
