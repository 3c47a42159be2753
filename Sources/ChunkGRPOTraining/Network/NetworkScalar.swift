internal import COpenBLAS
import ChunkGRPO
package import KernelTable

/// A type that the network computes in: `Float`; the tests check it against `Double`.
package protocol NetworkScalar: BinaryFloatingPoint, BitwiseCopyable {
  static var kernels: any NetworkKernels.Type { get }

  /// C = op(A)·op(B) + beta·C for row-major matrices; op(A) is (m, k), op(B) (k, n). Throws `.outOfMemory`.
  static func gemm(
    _ transposeA: Bool, _ transposeB: Bool, _ m: Int, _ n: Int, _ k: Int,
    _ a: UnsafePointer<Self>, _ lda: Int, _ b: UnsafePointer<Self>, _ ldb: Int, _ beta: Self,
    _ c: UnsafeMutablePointer<Self>, _ ldc: Int) throws
}

extension Float: NetworkScalar {
  package static var kernels: any NetworkKernels.Type { kernelSet.network32 }

  /// Sizes fit Int32: the shape bounds them and rows come in bounded batches.
  package static func gemm(
    _ transposeA: Bool, _ transposeB: Bool, _ m: Int, _ n: Int, _ k: Int,
    _ a: UnsafePointer<Float>, _ lda: Int, _ b: UnsafePointer<Float>, _ ldb: Int, _ beta: Float,
    _ c: UnsafeMutablePointer<Float>, _ ldc: Int
  ) throws {
    try BLAS.requireRoom(m, n, k)
    func size(_ value: Int) -> Int32 { Int32(truncatingIfNeeded: value) }
    BLASBuffers.withOne {
      cblas_sgemm(
        CblasRowMajor, transposeA ? CblasTrans : CblasNoTrans, transposeB ? CblasTrans : CblasNoTrans, size(m), size(n),
        size(k), 1, a, size(lda), b, size(ldb), beta, c, size(ldc))
    }
  }
}
