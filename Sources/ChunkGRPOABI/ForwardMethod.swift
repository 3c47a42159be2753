public import CChunkGRPO
import ChunkGRPO

private func cMethod(_ method: ForwardMethod) -> cgrpo_forward_method {
  var c = cgrpo_forward_method()
  c.share_noise = method.sharesNoise ? 1 : 0
  (c.steps, c.group_size, c.draws) = (Int64(method.steps), Int64(method.groupSize), Int64(method.draws))
  c.learning_rate = method.learningRate
  let timeSteps = method.timeSteps ?? 0..<0
  (c.first_time_step, c.end_time_step) = (Int64(timeSteps.lowerBound), Int64(timeSteps.upperBound))
  c.times = cgrpo_time_options(method.times)
  (c.nft, c.dgpo) = (cgrpo_nft_options(NFTOptions()), cgrpo_dgpo_options(DGPOOptions()))
  (c.crd, c.dpo) = (cgrpo_crd_options(CRDOptions()), cgrpo_dpo_options(DPOOptions()))
  var matching = MatchingObjective()
  switch method.objective {
  case .nft(let options): (c.objective, c.nft) = (Int32(CGRPO_FORWARD_OBJECTIVE_NFT), cgrpo_nft_options(options))
  case .matching(let own): (c.objective, matching) = (Int32(CGRPO_FORWARD_OBJECTIVE_MATCHING), own)
  case .dgpo(let options): (c.objective, c.dgpo) = (Int32(CGRPO_FORWARD_OBJECTIVE_DGPO), cgrpo_dgpo_options(options))
  case .crd(let options, let isAdaptive):
    (c.objective, c.crd) = (Int32(CGRPO_FORWARD_OBJECTIVE_CRD), cgrpo_crd_options(options))
    c.crd_adaptive = isAdaptive ? 1 : 0
  case .dpo(let options): (c.objective, c.dpo) = (Int32(CGRPO_FORWARD_OBJECTIVE_DPO), cgrpo_dpo_options(options))
  }
  (c.matching_weighting, c.matching_power) = (matching.weighting.rawValue, matching.power)
  (c.draws_per_chunk, c.reference_kl) = (Int64(matching.drawsPerChunk), matching.referenceKL)
  c.chunk_loss = cgrpo_chunk_loss_options(matching.chunkLoss)
  return c
}

@_cdecl("cgrpo_forward_method_named") @implementation
public func cgrpo_forward_method_named(
  _ name: UnsafePointer<CChar>!, _ out: UnsafeMutablePointer<cgrpo_forward_method>!
) -> cgrpo_status {
  guarded {
    let out = try nonNull(out, "method")
    let found = try ForwardMethod.named(shortName(name))
    try writeStruct(cMethod(found), to: out, "method")
  }
}

@_cdecl("cgrpo_forward_method_describe") @implementation
public func cgrpo_forward_method_describe(
  _ name: UnsafePointer<CChar>!, _ text: UnsafeMutablePointer<CChar>!, _ capacity: Int,
  _ length: UnsafeMutablePointer<Int>!
) -> cgrpo_status {
  guarded {
    let method = try ForwardMethod.named(shortName(name))
    try writePieces(to: text, capacity, length) { write in method.describe { write($0) } }
  }
}
