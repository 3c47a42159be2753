public import CChunkGRPO
import ChunkGRPO

private func defaultQueue() -> cgrpo_cuda {
  var queue = cgrpo_cuda()
  queue.struct_size = MemoryLayout<cgrpo_cuda>.stride
  return queue
}

@_cdecl("cgrpo_cuda_init") @implementation
public func cgrpo_cuda_init(_ cuda: UnsafeMutablePointer<cgrpo_cuda>!, _ structSize: Int) {
  initStruct(cuda, size: structSize, defaults: defaultQueue())
}

/// The queue of a tensor on a CUDA device; the default stream without a workspace where there is none.
func cudaQueue(_ cuda: UnsafePointer<cgrpo_cuda>?, _ name: String) throws -> CUDAQueue {
  let queue = try readStruct(cuda, "\(name).cuda", current: defaultQueue())
  try require(
    Int(bitPattern: queue.workspace) & 15 == 0,
    "\(name).cuda.workspace is not on a 16-byte boundary, as cuMemAlloc's is")
  return CUDAQueue(
    stream: queue.stream, workspace: queue.workspace, workspaceSize: queue.workspace_size, status: queue.status,
    seed: queue.seed, sampleIDs: queue.sample_ids, host: UnsafeRawPointer(cuda))
}

@_cdecl("cgrpo_cuda_workspace") @implementation
public func cgrpo_cuda_workspace(
  _ batch: Int64, _ elements: Int64, _ steps: Int64, _ bytes: UnsafeMutablePointer<Int>!
) -> cgrpo_status {
  guarded {
    let bytes = try nonNull(bytes, "bytes")
    bytes.pointee = try CUDAQueue.workspaceSize(
      batch: count(batch, "batch", 1...maxCount), elements: count(elements, "elements", 1...maxCount),
      steps: count(steps, "steps", 1...maxCount))
  }
}

@_cdecl("cgrpo_cuda_prepare") @implementation
public func cgrpo_cuda_prepare(_ device: Int32) -> cgrpo_status {
  waiting { try prepareCUDA(device: Int(device)) }
}

@_cdecl("cgrpo_cuda_status") @implementation
public func cgrpo_cuda_status(_ word: UInt64) -> cgrpo_status {
  guarded { try CUDAQueue.check(word) }
}
