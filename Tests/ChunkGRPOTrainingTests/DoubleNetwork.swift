import ChunkGRPO
import ChunkGRPOTraining
import KernelTable

/// The network in f64, which gradients are checked in.
extension Double: NetworkScalar {
  public static var kernels: any NetworkKernels.Type { kernelSet.network64 }

  public static func gemm(
    _ transposeA: Bool, _ transposeB: Bool, _ m: Int, _ n: Int, _ k: Int,
    _ a: UnsafePointer<Double>, _ lda: Int, _ b: UnsafePointer<Double>, _ ldb: Int, _ beta: Double,
    _ c: UnsafeMutablePointer<Double>, _ ldc: Int
  ) {
    for i in 0..<m {
      for j in 0..<n {
        var sum = beta == 0 ? 0 : beta * c[i * ldc + j]
        for l in 0..<k {
          sum += a[transposeA ? l * lda + i : i * lda + l] * b[transposeB ? j * ldb + l : l * ldb + j]
        }
        c[i * ldc + j] = sum
      }
    }
  }
}
