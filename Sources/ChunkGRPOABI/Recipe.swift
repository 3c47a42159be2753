public import CChunkGRPO
import ChunkGRPO

/// A text may have any length; a name is short.
func shortName(_ name: UnsafePointer<CChar>?) throws -> String {
  let name = try nonNull(name, "name")
  guard let end = (0...100).first(where: { name[$0] == 0 }) else {
    throw ChunkGRPOError.invalidArgument("name has more than 100 bytes, and no recipe's or method's has")
  }
  guard let text = String(validating: UnsafeBufferPointer(start: name, count: end), as: UTF8.self) else {
    throw ChunkGRPOError.invalidArgument("name is no UTF-8")
  }
  return text
}

private func cRecipe(_ r: Recipe) throws -> cgrpo_recipe {
  var c = cgrpo_recipe()
  c.steps = Int64(r.steps)
  c.schedule = cgrpo_schedule_options(r.schedule)
  c.flash_ratio = r.flashRatio
  c.sampler = cgrpo_sampler_options(r.sampler)
  c.has_window = r.window == nil ? 0 : 1
  c.truncated_timesteps = r.truncatedTimesteps ? 1 : 0
  c.window = cgrpo_window_options(r.window ?? SDEWindowOptions())
  c.group_size = Int64(r.groupSize)
  c.share_noise = r.sharesNoise ? 1 : 0
  c.advantages = cgrpo_advantage_options(r.advantages)
  c.advantages.group_size = Int64(r.groupSize)
  let sizes = r.chunkSizes ?? []
  try require(sizes.count <= 16, "recipe \(r.name) has \(sizes.count) chunks, but chunk_sizes holds 16")
  c.chunk_count = Int64(sizes.count)
  withUnsafeMutableBytes(of: &c.chunk_sizes) {
    for (j, size) in sizes.enumerated() {
      $0.storeBytes(of: Int64(size), toByteOffset: 8 * j, as: Int64.self)
    }
  }
  c.chunk_fraction = r.chunkFraction
  c.loss = cgrpo_chunk_loss_options(r.loss)
  (c.learning_rate, c.weight_decay, c.max_grad_norm) = (r.learningRate, r.weightDecay, r.maxGradNorm)
  return c
}

@_cdecl("cgrpo_recipe_named") @implementation
public func cgrpo_recipe_named(
  _ name: UnsafePointer<CChar>!, _ out: UnsafeMutablePointer<cgrpo_recipe>!
) -> cgrpo_status {
  guarded {
    let out = try nonNull(out, "recipe")
    let found = try Recipe.named(shortName(name))
    try writeStruct(cRecipe(found), to: out, "recipe")
  }
}

/// Swift's words as the header and Python have them: flowSDE is flow_sde.
private func snakeCase(_ text: String) -> String {
  var (result, afterLower, isWord) = ("", false, false)
  for letter in text {
    let begins = letter.isUppercase && afterLower
    isWord = begins || isWord && letter.isLetter
    result += (begins ? "_" : "") + (isWord ? letter.lowercased() : String(letter))
    afterLower = letter.isLowercase
  }
  return result
}

@_cdecl("cgrpo_recipe_describe") @implementation
public func cgrpo_recipe_describe(
  _ name: UnsafePointer<CChar>!, _ text: UnsafeMutablePointer<CChar>!, _ capacity: Int,
  _ length: UnsafeMutablePointer<Int>!
) -> cgrpo_status {
  guarded {
    let recipe = try Recipe.named(shortName(name))
    try writePieces(to: text, capacity, length) { write in recipe.describe(spelled: snakeCase) { write($0) } }
  }
}
