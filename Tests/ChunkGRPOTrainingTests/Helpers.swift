import ChunkGRPO

/// Normals of the library.
func normals(_ count: Int, seed: UInt64) throws -> [Double] {
  let latents = try Latents(type: .float64, batch: 1, elements: count)
  try normal(seed: seed, into: latents.view)
  return latents.values
}
