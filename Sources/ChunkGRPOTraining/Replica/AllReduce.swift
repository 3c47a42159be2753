/// Sums over the ranks of a data-parallel run: MPI's `MPI_Allreduce`, NCCL's `ncclAllReduce`, torch.distributed's
/// `all_reduce`.
///
/// Each call is made by all ranks, in the same order and with as many numbers, at most 2²⁴. Afterwards `values` are the
/// sums, on each rank with the same bits. A call throws where a rank is gone or does not come: it must not wait for ever.
public protocol AllReduce {
  func sum(_ values: UnsafeMutableBufferPointer<Float>) throws
  func sum(_ values: UnsafeMutableBufferPointer<Double>) throws
}
